"""Truncated normals that code draws by itself: uniform_, erfinv_, and edits by numbers.

Under `patch` and `deferred` they have the law that they are meant to have, in every dtype; what was
edited in between is as in stock.
"""

from __future__ import annotations

import gc
import math
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch._dynamo  # which changes torch as it is imported
from _clients import CountedDraws, SeenFunctions, timm
from _deferring import nothing_left_behind, recorded, waits
from scipy import stats
from torch import Tensor, nn

import fastinit
from fastinit._intercept import fresh

SCOPES = [fastinit.patch, fastinit.deferred]
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
KEY = fastinit.Key(1).fold_in(0)  # of the first draw under seed 1
ALPHA = 1e-6  # of each Kolmogorov-Smirnov test; seeds are fixed


@pytest.fixture(autouse=True)
def _torch_as_it_was() -> Iterator[None]:
    with nothing_left_behind():
        yield


# ------------------------------------------------------------------------------------ the copies


def quantiles(mean: float, std: float, a: float, b: float) -> tuple[float, float]:
    return (
        (1.0 + math.erf((a - mean) / std / math.sqrt(2.0))) / 2.0,
        (1.0 + math.erf((b - mean) / std / math.sqrt(2.0))) / 2.0,
    )


@torch.no_grad()
def step_by_step(
    tensor: Tensor, mean: float = 0.0, std: float = 1.0, a: float = -2.0, b: float = 2.0
) -> Tensor:
    low, high = quantiles(mean, std, a, b)
    tensor.uniform_(2 * low - 1, 2 * high - 1)
    tensor.erfinv_()
    tensor.mul_(std * math.sqrt(2.0))
    tensor.add_(mean)
    tensor.clamp_(min=a, max=b)
    return tensor


@torch.no_grad()
def in_one_chain(
    tensor: Tensor, mean: float = 0.0, std: float = 1.0, a: float = -2.0, b: float = 2.0
) -> Tensor:
    low, high = quantiles(mean, std, a, b)
    nn.init.uniform_(tensor, 2 * low - 1, 2 * high - 1)
    return tensor.erfinv_().mul_(std * math.sqrt(2.0)).add_(mean).clamp_(a, b)


@torch.no_grad()
def scaled_afterwards(
    tensor: Tensor, mean: float = 0.0, std: float = 1.0, a: float = -2.0, b: float = 2.0
) -> Tensor:
    """Bounds in units of std, as TensorFlow and JAX have them."""
    return step_by_step(tensor, 0.0, 1.0, a, b).mul_(std).add_(mean)


def of_timm(tensor: Tensor, **numbers: float) -> Tensor:
    timm()
    from timm.layers import trunc_normal_

    drawn: Tensor = trunc_normal_(tensor, **numbers)
    return drawn


COPIES: dict[str, Callable[..., Tensor]] = {
    "step by step": step_by_step,
    "in one chain": in_one_chain,
    "scaled afterwards": scaled_afterwards,
    "timm": of_timm,
}


def drawn(copy: str, dtype: torch.dtype, size: int = 512, **numbers: float) -> Tensor:
    return COPIES[copy](torch.empty(size, size, dtype=dtype), **numbers)


def deviates(tensor: Tensor, mean: float, std: float, a: float, b: float) -> list[str]:
    """What is wrong with a sample of the truncated normal."""
    low, high = (a - mean) / std, (b - mean) / std
    law = stats.truncnorm(max(low, -38), min(high, 38), mean, std)
    values = tensor.double().flatten()
    found = []
    if abs(float(values.std()) / law.std() - 1.0) > 0.01:
        found.append("std")
    if float((values - mean).abs().max()) > 7.0 * std:
        found.append("outliers")
    least, most = torch.tensor([a, b], dtype=tensor.dtype).tolist()
    if float(values.min()) < least or float(values.max()) > most:
        found.append("bounds")
    step = torch.finfo(tensor.dtype).eps  # of a narrow dtype, smoothed by noise of its rounding
    noise = torch.rand(values.shape, generator=torch.Generator().manual_seed(2), dtype=values.dtype)
    smooth = values * (1.0 + step * (noise - 0.5))
    if stats.kstest(smooth.numpy()[:20000], law.cdf).pvalue < ALPHA:
        found.append("law")
    return found


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("copy", COPIES)
def test_private_copies_have_their_law(copy: str, dtype: torch.dtype, scope: Any) -> None:
    with scope(seed=1):
        tensor = drawn(copy, dtype, std=0.02)
    bounds = (-0.04, 0.04) if copy == "scaled afterwards" else (-2.0, 2.0)
    assert deviates(tensor, 0.0, 0.02, *bounds) == []


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_mean_and_bounds_are_kept(dtype: torch.dtype, scope: Any) -> None:
    numbers = {"mean": 0.5, "std": 2.0, "a": -1.0, "b": 3.0}
    with scope(seed=1):
        tensor = drawn("step by step", dtype, **numbers)
    assert deviates(tensor, **numbers) == []


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_stock_fails_where_these_pass(dtype: torch.dtype) -> None:
    """The twin: the checks above reject what stock makes of the same code."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        tensor = drawn("step by step", dtype, size=2048, std=0.02)
    assert "outliers" in deviates(tensor, 0.0, 0.02, -2.0, 2.0)


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_large_weight_of_timm(dtype: torch.dtype, scope: Any) -> None:
    with scope(seed=1):
        tensor = drawn("timm", dtype, size=4096, std=0.02)
    assert tensor.float().std().item() == pytest.approx(0.02, rel=0.01)
    assert tensor.abs().max().item() < 7 * 0.02


# ------------------------------------------------------------------------------------- the fills


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("bounds", [(-1.0, 1.0), (-0.9, 0.5), (0.25, 1), (-1e-9, 2e-9)])
def test_erfinv_is_a_truncated_normal_with_the_key_of_the_draw(
    bounds: tuple[float, float], scope: Any
) -> None:
    with scope(seed=1):
        tensor = torch.empty(8, 4).uniform_(*bounds).erfinv_()
        following = torch.randn(3)
    quantile = [stats.norm.ppf((1 + bound) / 2) / math.sqrt(2) for bound in bounds]
    a, b = (math.copysign(27, q) if math.isinf(q) else float(q) for q in quantile)
    expected = fastinit.trunc_normal_(torch.empty(8, 4), 0.0, math.sqrt(0.5), a, b, key=KEY)
    torch.testing.assert_close(tensor, expected, rtol=1e-6, atol=1e-15)
    assert torch.equal(following, fastinit.normal_(torch.empty(3), key=fastinit.Key(1).fold_in(1)))


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("named", [False, True])
def test_generators_move_as_for_the_uniform_draw(named: bool, scope: Any) -> None:
    generator = torch.Generator().manual_seed(5) if named else torch.default_generator
    with torch.random.fork_rng():
        generator.manual_seed(5)
        key = fastinit.Key(*_words(generator))
        following = generator.get_state()
        generator.manual_seed(5)
        with scope():
            tensor = torch.empty(8, 4).uniform_(-0.5, 0.5, generator=generator if named else None)
            tensor.erfinv_()
        assert torch.equal(generator.get_state(), following)
    bound = float(stats.norm.ppf(0.75)) / math.sqrt(2)
    expected = fastinit.trunc_normal_(
        torch.empty(8, 4), 0.0, math.sqrt(0.5), -bound, bound, key=key
    )
    torch.testing.assert_close(tensor, expected, rtol=1e-6, atol=0)


def _words(generator: torch.Generator) -> list[int]:
    words: list[int] = (
        torch.empty(2, dtype=torch.int64).random_(-(1 << 63), None, generator=generator).tolist()
    )
    return words


@pytest.mark.parametrize("copy", COPIES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_deferred_agrees_with_patch_to_rounding(copy: str, dtype: torch.dtype) -> None:
    with fastinit.patch(seed=1):
        patched = drawn(copy, dtype, 64, mean=0.01, std=0.02)
    with fastinit.deferred(seed=1):
        postponed = drawn(copy, dtype, 64, mean=0.01, std=0.02)
    step = torch.finfo(dtype).eps  # stock's edits round each time
    torch.testing.assert_close(postponed, patched, rtol=4 * step, atol=0.1 * step)


@pytest.mark.parametrize("copy", COPIES)
def test_edits_become_part_of_what_waits(copy: str) -> None:
    with fastinit.deferred(seed=1), CountedDraws() as draws:
        tensor = drawn(copy, torch.bfloat16, 64, std=0.02, a=-0.5, b=0.5)
        assert waits(tensor) and recorded() == 1
        assert tensor._version == (7 if copy == "scaled afterwards" else 5)
        assert not draws.stock
    scaled = copy == "scaled afterwards"
    a, b = (-0.01, 0.01) if scaled else (-0.5, 0.5)
    expected = fastinit.trunc_normal_(torch.empty_like(tensor), 0.0, 0.02, a, b, key=KEY)
    torch.testing.assert_close(tensor, expected, rtol=1e-2, atol=0)
    assert float((tensor != expected).float().mean()) < 1e-3  # a rounding may tip over


def test_other_draws_are_edited_as_ever() -> None:
    def outcome(scope: Any) -> list[Tensor]:
        with scope(seed=1):
            tensors = [
                torch.empty(8, 4).normal_().mul_(0.3).add_(1.0).clamp_(-1, 1),
                nn.init.trunc_normal_(torch.empty(8, 4)).mul_(0.3).clamp_(-0.1, 2),
                torch.empty(8, 4).uniform_(-0.5, 0.5).mul_(2.0),
            ]
        return tensors

    for a, b in zip(outcome(fastinit.patch), outcome(fastinit.deferred), strict=True):
        assert torch.equal(a, b)


EDITS: dict[str, Callable[[Tensor], object]] = {
    "clamps inside": lambda t: t.clamp_(-0.3, 0.4),
    "clamps one side": lambda t: t.clamp_(max=0.1),
    "clamp_min_": lambda t: t.clamp_min_(-0.2),
    "mirrors": lambda t: t.mul_(-1.0),
    "mul_ by 0": lambda t: t.mul_(0.0),
    "mul_ by infinity": lambda t: t.mul_(math.inf),
    "mul_ by a tensor": lambda t: t.mul_(torch.tensor(0.5)),
    "add_ with alpha": lambda t: t.add_(1.0, alpha=0.5),
    "add_ of itself": lambda t: t.add_(t),
    "part": lambda t: t[1:3].mul_(0.5),
    "transposed": lambda t: t.T.mul_(0.5),
    "fill": lambda t: t[0].fill_(2.0).mul_(2.0),
    "read between": lambda t: t.mul_(0.5).add_(float(t.sum())),
    "data": lambda t: t.data.mul_(0.3),
    "div_": lambda t: t.div_(3.0),
}


@pytest.mark.parametrize("edit", EDITS)
def test_edits_that_are_no_law_run(edit: str) -> None:
    def outcome(scope: Any) -> Tensor:
        with scope(seed=1):
            tensor = torch.empty(8, 4).uniform_(-0.9, 0.9).erfinv_()
            EDITS[edit](tensor)
        return tensor

    patched, postponed = outcome(fastinit.patch), outcome(fastinit.deferred)
    torch.testing.assert_close(postponed, patched, rtol=1e-6, atol=1e-7, equal_nan=True)
    if edit.startswith("clamps"):
        assert len(postponed.unique()) < postponed.numel()  # the bound itself, several times


# ------------------------------------------------------------------------------ what is left alone

BETWEEN: dict[str, Callable[[Tensor], object]] = {
    "mul_": lambda t: t.mul_(0.5),
    "an element": lambda t: t.__setitem__((0, 0), 0.5),
    "a view": lambda t: t[0].zero_(),
    "an alias": lambda t: t.detach().mul_(0.5),
    "another draw": lambda t: nn.init.normal_(t, std=0.1),
    "copy_": lambda t: t.copy_(torch.zeros(8, 4)),
    "transposed": lambda t: t.t_(),
    "resized": lambda t: t.resize_(4, 4),
    "other memory": lambda t: t.set_(torch.full((8, 4), 0.25)),
}
ALIASES: dict[str, Callable[[Tensor], Tensor]] = {
    "part": lambda t: t[1:3],
    "transposed": lambda t: t.T,
    "data": lambda t: t.data,
    "flat": lambda t: t.view(-1),
    "clone": lambda t: t.clone(),
}


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("edit", BETWEEN)
def test_what_was_edited_is_as_in_stock(edit: str, scope: Any) -> None:
    with scope(seed=1):
        tensor = torch.empty(8, 4).uniform_(-0.9, 0.9)
        BETWEEN[edit](tensor)
        expected = tensor.erfinv()
        assert torch.equal(tensor.erfinv_(), expected)


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("alias", ALIASES)
def test_what_is_not_all_of_the_draw_is_as_in_stock(alias: str, scope: Any) -> None:
    with scope(seed=1):
        tensor = torch.empty(8, 4).uniform_(-0.9, 0.9)
        other = ALIASES[alias](tensor)
        expected = other.erfinv()
        assert torch.equal(other.erfinv_(), expected)


@pytest.mark.parametrize("scope", SCOPES)
def test_draws_out_of_range_or_twice_inverted_are_as_in_stock(scope: Any) -> None:
    with scope(seed=1):
        wide = torch.empty(8, 4).uniform_(-3.0, 3.0)
        expected = wide.erfinv()
        torch.testing.assert_close(wide.erfinv_(), expected, rtol=0, atol=0, equal_nan=True)
        twice = torch.empty(8, 4).uniform_(-0.5, 0.5).erfinv_()
        expected = twice.erfinv()
        assert torch.equal(twice.erfinv_(), expected)
        with pytest.raises((RuntimeError, NotImplementedError)):
            torch.empty(8, 4, dtype=torch.complex64).uniform_(-0.5, 0.5).erfinv_()


def test_an_array_of_the_memory_is_seen_when_deferred() -> None:
    with fastinit.deferred(seed=1):
        tensor = torch.empty(8, 4).uniform_(-0.9, 0.9)
        array = tensor.numpy()
        tensor.erfinv_().mul_(0.5)
        assert array.sum() == pytest.approx(float(tensor.sum()))


@pytest.mark.parametrize("scope", SCOPES)
def test_aliases_with_the_counter_of_the_draw(scope: Any) -> None:
    """A parameter made of it, a detached one, the same view of a base."""
    law = fastinit.trunc_normal_(
        torch.empty(8, 4), 0.0, math.sqrt(0.5), -_ERFINV_9, _ERFINV_9, key=KEY
    )
    for alias in (nn.Parameter, Tensor.detach, lambda t: t.view(8, 4)):
        with scope(seed=1), torch.no_grad():
            tensor = torch.empty(8, 4).uniform_(-0.9, 0.9)
            alias(tensor).erfinv_()
        torch.testing.assert_close(tensor, law, rtol=1e-6, atol=0)
    with scope(seed=1):
        base = torch.zeros(16, 4)
        base[4:12].uniform_(-0.9, 0.9)
        base[4:12].erfinv_()
    torch.testing.assert_close(base[4:12], law, rtol=1e-6, atol=0)
    assert not base[:4].any() and not base[12:].any()


_ERFINV_9 = float(stats.norm.ppf(0.95)) / math.sqrt(2)


@pytest.mark.parametrize("scope", SCOPES)
def test_refusals_modes_and_other_scopes(scope: Any) -> None:
    with scope(seed=1):
        leaf = torch.empty(8, 4, requires_grad=True)
        with torch.no_grad():
            leaf.uniform_(-0.5, 0.5)
        with pytest.raises(RuntimeError, match="leaf Variable"):
            leaf.erfinv_()
        with SeenFunctions() as functions:
            torch.empty(8, 4).uniform_(-0.5, 0.5).erfinv_()
        names = [getattr(function, "__name__", "") for function in functions.seen]
        assert names == ["empty", "uniform_", "erfinv_"]
        with torch.device("cpu"), torch.no_grad():
            layer = nn.Linear(64, 64, dtype=torch.bfloat16)
            step_by_step(layer.weight, std=0.02)
        with torch.inference_mode():
            inferred = step_by_step(torch.empty(8, 4), std=0.02)
        assert inferred.abs().max() < 7 * 0.02
    assert layer.weight.abs().max() < 7 * 0.02
    meta = torch.empty(8, 4, device="meta").uniform_(-0.5, 0.5).erfinv_()
    assert meta.is_meta


def test_notes_are_few_and_keep_no_tensor() -> None:
    with fastinit.patch(seed=1):
        tensors = [torch.empty(8, 4).uniform_(-0.5, 0.5) for _ in range(100)]
        assert len(fresh._notes) == fresh._notes.maxlen
        expected = tensors[0].erfinv()  # its note has made room
        assert torch.equal(tensors[0].erfinv_(), expected)
        expected = tensors[-9].erfinv()
        assert not torch.equal(tensors[-9].erfinv_(), expected)
        gone = weakref.ref(tensors[-1])
        del tensors
    gc.collect()
    assert gone() is None
