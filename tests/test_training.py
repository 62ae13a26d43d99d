"""Networks initialized by fastinit train as networks initialized by torch.nn.init do.

A classifier of scikit-learn's handwritten digits (three hidden layers, relu, Kaiming) is trained
from SEEDS starts of each kind. Compared are the logarithms of four losses: training after one
epoch, half way and at the end, and held-out at the end.

Alike means both: no Mann-Whitney test tells the two samples apart (Holm over the four, ALPHA for
the family; a correct fastinit would fail that often, but the seeds are fixed), and each interval of
confidence 1 - ALPHA for the difference of means (Welch) lies within +-BOUND, so that the first
cannot pass for want of runs. The same verdict must tell starts with a wrong scale from stock's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

import fastinit

stats = pytest.importorskip("scipy.stats")
datasets = pytest.importorskip("sklearn.datasets")

ALPHA = 0.01
BOUND = 0.25  # of log losses: a factor of 1.28
SEEDS = 16
EPOCHS = 12
WATCHED = (0, EPOCHS // 2, EPOCHS - 1)

Losses = npt.NDArray[np.float64]  # (SEEDS, len(WATCHED) + 1), logarithms
Fill = Callable[[Tensor, str, int], object]
Data = tuple[Tensor, Tensor]


@pytest.fixture(scope="module")
def digits() -> Data:
    data = datasets.load_digits()
    images = torch.tensor(data.data, dtype=torch.float32)
    images = (images - images.mean(0)) / images.std(0).clamp_min(1.0)
    return images, torch.tensor(data.target)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """The matrices are too small to share, and a sum in another order is another training run."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def stock(weight: Tensor, name: str, seed: int) -> None:
    nn.init.kaiming_normal_(weight, nonlinearity="relu")


def ours(factor: float = 1.0) -> Fill:
    """A factor other than 1 is a mistake."""

    def fill(weight: Tensor, name: str, seed: int) -> None:
        key = fastinit.Key(seed).fold_in(name)
        fastinit.kaiming_normal_(weight, nonlinearity="relu", key=key).mul_(factor)

    return fill


def train(fill: Fill, seed: int, digits: Data) -> list[float]:
    images, targets = digits
    torch.manual_seed(seed)
    hidden = [layer for _ in range(3) for layer in (nn.Linear(64, 64), nn.ReLU())]
    network = nn.Sequential(*hidden, nn.Linear(64, 10))
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.ndim == 2:
                fill(parameter, name, seed)
            else:
                parameter.zero_()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.5)
    order = torch.Generator().manual_seed(seed)
    losses = []
    for _ in range(EPOCHS):
        total = 0.0
        for batch in torch.randperm(1500, generator=order).split(100):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(network(images[batch]), targets[batch])
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            total += loss.item() / 15
        losses.append(math.log(total))
    with torch.no_grad():
        held_out = nn.functional.cross_entropy(network(images[1500:]), targets[1500:])
    return [*(losses[epoch] for epoch in WATCHED), math.log(held_out.item())]


def trained(fill: Fill, digits: Data) -> Losses:
    return np.array([train(fill, seed, digits) for seed in range(SEEDS)])


@pytest.fixture(scope="module")
def stock_losses(digits: Data) -> Losses:
    return trained(stock, digits)


def told_apart(losses: Losses, others: Losses) -> bool:
    """Whether any of the four Mann-Whitney tests rejects; by Holm the smallest p-value decides."""
    p_values = stats.mannwhitneyu(losses, others, axis=0).pvalue
    return bool(p_values.min() <= ALPHA / len(p_values))


def equivalent(losses: Losses, others: Losses) -> bool:
    """Whether all four differences of means are within the bound, with confidence."""
    for own, other in zip(losses.T, others.T, strict=True):
        interval = stats.ttest_ind(own, other, equal_var=False).confidence_interval(1 - ALPHA)
        if not -BOUND < interval.low <= interval.high < BOUND:
            return False
    return True


def test_loss_curves_are_those_of_stock(stock_losses: Losses, digits: Data) -> None:
    losses = trained(ours(), digits)
    assert losses[:, 2].max() < math.log(0.1)  # it has learned: a blind guess is at ln 10
    assert not told_apart(losses, stock_losses)
    assert equivalent(losses, stock_losses)


@pytest.mark.parametrize("factor", [3.0, 0.1, math.sqrt(0.5)], ids=["wide", "narrow", "no gain"])
def test_wrong_scale_is_told_apart(factor: float, stock_losses: Losses, digits: Data) -> None:
    """Three times the gain, a tenth of it, and relu's factor of sqrt(2) forgotten."""
    losses = trained(ours(factor), digits)
    assert told_apart(losses, stock_losses)
    assert not equivalent(losses, stock_losses)
