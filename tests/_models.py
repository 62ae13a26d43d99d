"""Models that the tests of whole-model functions share, and a comparison of two models' laws."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from scipy import stats
from torch import Tensor, nn


class Block(nn.Module):
    """A residual block with a parameter of its own, which its constructor alone initializes."""

    def __init__(self, width: int, scale: float = 0.1) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)
        self.scale = nn.Parameter(scale * torch.ones(width))
        self.mixed = nn.Parameter(torch.randn(width, width) * 0.5)
        nn.init.trunc_normal_(self.up.weight, std=0.3)
        nn.init.zeros_(self.down.bias)


class Net(nn.Module):
    """Ties, padding, buffers that persist and that do not, initialization in a loop."""

    def __init__(self, width: int = 8, depth: int = 2, words: int = 11) -> None:
        super().__init__()
        self.width = width
        self.words = nn.Embedding(words, width, padding_idx=3)
        self.blocks = nn.ModuleList(Block(width) for _ in range(depth))
        self.norm = nn.BatchNorm1d(width)
        self.head = nn.Linear(width, words, bias=False)
        self.head.weight = self.words.weight
        frequencies = 1.0 / 100 ** (torch.arange(0, width, 2) / width)
        frequencies[0] += 1
        self.register_buffer("frequencies", frequencies, persistent=False)
        for name, parameter in self.named_parameters():
            if name.endswith("down.weight"):
                nn.init.normal_(parameter, std=0.02 / depth**0.5)


def torch_layers() -> dict[str, Callable[[], nn.Module]]:
    """Every parametrized module of torch.nn, small, but for its lazy ones."""
    return {
        "Linear": lambda: nn.Linear(31, 17),
        "Bilinear": lambda: nn.Bilinear(9, 7, 13),
        "Conv1d": lambda: nn.Conv1d(6, 8, 3, groups=2),
        "Conv2d": lambda: nn.Conv2d(6, 8, 3),
        "Conv3d": lambda: nn.Conv3d(4, 4, 3),
        "ConvTranspose1d": lambda: nn.ConvTranspose1d(6, 8, 3),
        "ConvTranspose2d": lambda: nn.ConvTranspose2d(6, 8, 3),
        "ConvTranspose3d": lambda: nn.ConvTranspose3d(4, 4, 3),
        "Embedding": lambda: nn.Embedding(40, 10, padding_idx=2),
        "EmbeddingBag": lambda: nn.EmbeddingBag(40, 10, padding_idx=2),
        "RNN": lambda: nn.RNN(9, 16, 2, bidirectional=True),
        "GRU": lambda: nn.GRU(9, 16),
        "LSTM": lambda: nn.LSTM(9, 16, proj_size=5),
        "RNNCell": lambda: nn.RNNCell(9, 16),
        "GRUCell": lambda: nn.GRUCell(9, 16),
        "LSTMCell": lambda: nn.LSTMCell(9, 16),
        "BatchNorm1d": lambda: nn.BatchNorm1d(8),
        "BatchNorm2d": lambda: nn.BatchNorm2d(8),
        "BatchNorm3d": lambda: nn.BatchNorm3d(8),
        "SyncBatchNorm": lambda: nn.SyncBatchNorm(8),
        "InstanceNorm1d": lambda: nn.InstanceNorm1d(8, affine=True),
        "InstanceNorm3d": lambda: nn.InstanceNorm3d(8, affine=True),
        "InstanceNorm2d": lambda: nn.InstanceNorm2d(8, affine=True, track_running_stats=True),
        "LayerNorm": lambda: nn.LayerNorm((3, 8)),
        "GroupNorm": lambda: nn.GroupNorm(2, 8),
        "RMSNorm": lambda: nn.RMSNorm(8),
        "PReLU": lambda: nn.PReLU(5, init=0.1),
        "MultiheadAttention": lambda: nn.MultiheadAttention(16, 2, kdim=8, add_bias_kv=True),
        "TransformerEncoderLayer": lambda: nn.TransformerEncoderLayer(16, 2, 32),
        "TransformerDecoderLayer": lambda: nn.TransformerDecoderLayer(16, 2, 32),
        "Transformer": lambda: nn.Transformer(16, 2, 1, 1, 32),
        "AdaptiveLogSoftmaxWithLoss": lambda: nn.AdaptiveLogSoftmaxWithLoss(16, 20, [5, 10]),
    }


def on_meta(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.device("meta"):
        return make()


def p_values(
    pairs: Iterable[tuple[str, Tensor, Tensor]], most: int = 20_000
) -> tuple[dict[str, float], list[str]]:
    """For each pair of a name and two tensors that should follow one law, a p-value.

    Constants are compared exactly: those that differ are in the second answer.
    """
    found: dict[str, float] = {}
    wrong = []
    for name, a, b in pairs:
        a, b = (t.detach().float().flatten()[:most] for t in (a, b))
        if a.numel() == 0:
            continue
        # Zeros among other values are a constant part, such as a padding row.
        if not torch.equal(a == 0, b == 0) and ((a == 0).all() or (b == 0).all()):
            wrong.append(name)
        elif (a == a[0]).all() or (b == b[0]).all() or a.numel() == 1:
            close = torch.allclose(a, b) if a.numel() > 1 else True
            wrong += [] if close else [name]
        elif not torch.equal(a, b):
            found[name] = float(stats.ks_2samp(a.numpy(), b.numpy()).pvalue)
    return found, wrong


def rejected(found: dict[str, float], alpha: float) -> list[str]:
    """The names that Holm's procedure rejects at the level alpha for all together."""
    names = []
    for i, (name, p) in enumerate(sorted(found.items(), key=lambda item: item[1])):
        if p >= alpha / (len(found) - i):
            break
        names.append(name)
    return names
