"""What a filled tensor must look like: the law of each case, and its check.

`strict` holds fastinit's own result against the oracle of the stream (`fastinit._reference`, which
shares no code with the compiled core) and against the law; `plausible` holds any contender's result
against what a working sampler cannot miss. Must not know who filled the tensor. Peers get the
looser check because some of them are known to be slightly off (stock's bfloat16 uniform values are
multiples of 2^-8).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy import stats
from torch import Tensor

from benchmarks.timing import Metrics
from fastinit import _reference as reference

Float64Array = npt.NDArray[np.float64]
KeyPair = tuple[int, int]

# A correct fastinit fill is refused with at most this probability; a standard deviation that is
# off by two percent is refused at every size from 2^16 elements on.
ALPHA = 1e-6
SAMPLE = 1 << 20
ORACLE_SAMPLE = 4096
# stream.md's promise for values computed in float32, doubled for the reference's own parameters.
NORMAL_ERROR = {torch.float32: 2e-6, torch.float64: 1e-12}


class WrongResultError(AssertionError):
    """The result is wrong: it must not be timed."""


def require(condition: bool, message: str) -> None:
    if not condition:
        raise WrongResultError(message)


def arithmetic(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which the elements of a tensor of `dtype` are computed."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def numpy_dtype(dtype: torch.dtype) -> type[np.float32] | type[np.float64]:
    return np.float64 if dtype == torch.float64 else np.float32


def subsample(tensor: Tensor, most: int = SAMPLE) -> Tensor:
    """At most `most` elements at a fixed odd stride, which meets all lanes of a Philox block."""
    flat = tensor.detach().reshape(-1)
    return flat[:: max(1, math.ceil(flat.numel() / most) | 1)]


@dataclass(frozen=True)
class Law:
    """A law whose elements are independent of one another."""

    @property
    def distribution(self) -> object:
        """The law as a frozen scipy distribution."""
        raise NotImplementedError

    def oracle(self, key: KeyPair, index: npt.NDArray[np.uint64], dtype: torch.dtype) -> Tensor:
        """Values of these indices by the reference; float64, or exact to the bit in `dtype`."""
        raise NotImplementedError

    def tolerance(self, dtype: torch.dtype) -> float:
        """How far an element may be from the oracle before it is rounded to `dtype`."""
        raise NotImplementedError

    def strict(self, tensor: Tensor, key: KeyPair) -> Metrics:
        self._check_stream(tensor, key)
        self._check_distribution(tensor)
        return {}

    def plausible(self, tensor: Tensor) -> Metrics:
        sample = subsample(tensor).double()
        mean, std = self.distribution.mean(), self.distribution.std()  # type: ignore[attr-defined]
        # Five standard errors, and two percent for what narrow dtypes do to a sampler.
        slack = 0.02 + 5.0 / math.sqrt(sample.numel())
        require(
            abs(float(sample.mean()) - mean) <= slack * std
            and abs(float(sample.std()) / std - 1.0) <= slack,
            f"mean {float(sample.mean()):g} and std {float(sample.std()):g} "
            f"are not {mean:g} and {std:g}",
        )
        return {}

    def _check_stream(self, tensor: Tensor, key: KeyPair) -> None:
        flat = tensor.reshape(-1)
        third = ORACLE_SAMPLE // 3
        inner = np.random.default_rng(0).integers(0, flat.numel(), third)
        ends = np.arange(third), flat.numel() - 1 - np.arange(third)
        index = np.clip(np.concatenate([*ends, inner]), 0, flat.numel() - 1)
        expected = self.oracle(key, index.astype(np.uint64), tensor.dtype).double()
        actual = flat[torch.from_numpy(index)].double()
        rounding = torch.finfo(tensor.dtype).eps / 2 * expected.abs()
        allowed = self.tolerance(tensor.dtype)
        if allowed > 0:
            allowed = allowed + 1.01 * rounding
        wrong = (actual - expected).abs() > allowed
        require(
            not bool(wrong.any()),
            f"{int(wrong.sum())} of {len(index)} elements differ from the reference of the stream",
        )

    def _check_distribution(self, tensor: Tensor) -> None:
        """Kolmogorov-Smirnov, exact for rounded values: compared where a value's cell ends."""
        values, counts = torch.unique(subsample(tensor), return_counts=True)
        infinity = torch.full_like(values, torch.inf)
        cell_ends = (values.double() + torch.nextafter(values, infinity).double()) / 2
        reached = counts.cumsum(0).double().numpy() / float(counts.sum())
        law = self.distribution.cdf(cell_ends.numpy())  # type: ignore[attr-defined]
        distance = float(np.abs(reached - law).max())
        p = float(stats.kstwo.sf(distance, int(counts.sum())))
        require(p > ALPHA, f"Kolmogorov-Smirnov against the law: p = {p:.1e} <= {ALPHA:g}")


@dataclass(frozen=True)
class Uniform(Law):
    low: float
    high: float

    @property
    def distribution(self) -> object:
        return stats.uniform(self.low, self.high - self.low)

    def oracle(self, key: KeyPair, index: npt.NDArray[np.uint64], dtype: torch.dtype) -> Tensor:
        values = reference.uniform(key, index, self.low, self.high, numpy_dtype(dtype))
        below = torch.nextafter(torch.tensor(self.high, dtype=dtype), torch.tensor(0.0).to(dtype))
        return torch.minimum(torch.from_numpy(values).to(dtype), below)

    def tolerance(self, dtype: torch.dtype) -> float:
        return 0.0  # to the bit


@dataclass(frozen=True)
class Normal(Law):
    std: float
    mean: float = 0.0

    @property
    def distribution(self) -> object:
        return stats.norm(self.mean, self.std)

    def oracle(self, key: KeyPair, index: npt.NDArray[np.uint64], dtype: torch.dtype) -> Tensor:
        values = reference.normal(key, index, self.mean, self.std, numpy_dtype(dtype))
        return torch.from_numpy(values)

    def tolerance(self, dtype: torch.dtype) -> float:
        return NORMAL_ERROR[arithmetic(dtype)] * self.std


@dataclass(frozen=True)
class Truncated(Normal):
    low: float = -2.0
    high: float = 2.0

    @property
    def distribution(self) -> object:
        alpha, beta = (self.low - self.mean) / self.std, (self.high - self.mean) / self.std
        return stats.truncnorm(alpha, beta, self.mean, self.std)

    def oracle(self, key: KeyPair, index: npt.NDArray[np.uint64], dtype: torch.dtype) -> Tensor:
        arguments = self.mean, self.std, self.low, self.high
        return torch.from_numpy(reference.trunc_normal(key, index, *arguments, numpy_dtype(dtype)))


@dataclass(frozen=True)
class SparseColumns(Normal):
    """Each column of a matrix has exactly `ceil(sparsity * rows)` zeros, the rest is normal."""

    sparsity: float = 0.0

    def strict(self, tensor: Tensor, key: KeyPair) -> Metrics:
        self.plausible(tensor)
        rows, columns = tensor.shape
        zeros = math.ceil(self.sparsity * rows)
        row, column = np.meshgrid(np.arange(rows), np.arange(0, columns, 131), indexing="ij")
        expected = reference.sparse_zeros(key, row, column, rows, zeros)
        mask = (tensor[:, ::131] == 0).numpy()
        require(bool((mask == expected).all()), "zeros are not where the stream puts them")
        index = (row * columns + column).astype(np.uint64)[~expected]
        values = self.oracle(key, index, tensor.dtype).double()
        error = (tensor[:, ::131][torch.from_numpy(~expected)].double() - values).abs()
        allowed = self.tolerance(tensor.dtype) + 1.01 * torch.finfo(tensor.dtype).eps * values.abs()
        require(bool((error <= allowed).all()), "values differ from the reference of the stream")
        return {}

    def plausible(self, tensor: Tensor) -> Metrics:
        zeros = math.ceil(self.sparsity * tensor.shape[0])
        counts = (tensor == 0).sum(0)
        require(bool((counts == zeros).all()), f"not every column has {zeros} zeros")
        return super().plausible(tensor[tensor != 0])


@dataclass(frozen=True)
class Orthogonal(Law):
    """A weight with no more rows than columns, or several along axis 0.

    Each is the transpose of the product of the reflections of docs/stream.md.
    """

    def strict(self, tensor: Tensor, key: KeyPair) -> Metrics:
        rows, columns = tensor.shape[-2:]
        matrices = tensor.reshape(-1, rows, columns)
        vector = np.random.default_rng(0).normal(size=rows)
        for number in {0, len(matrices) - 1}:
            index = np.arange(rows * columns, dtype=np.uint64) + np.uint64(number * rows * columns)
            drawn = reference.normal(key, index).reshape(columns, rows)
            expected = _reflected(drawn, vector)
            error = np.abs(matrices[number].double().numpy().T @ vector - expected).max()
            require(
                float(error) < 1e-4, f"off by {error:g} from the reflections of the stream's matrix"
            )
        return self.plausible(tensor)

    def plausible(self, tensor: Tensor) -> Metrics:
        q = tensor.double()
        error = float((q @ q.mT - torch.eye(q.shape[-2], device=q.device)).square().mean().sqrt())
        require(error < 1e-6, f"Q Q^T is not the identity: root mean square error {error:g}")
        return {"error": error}


def _reflected(drawn: Float64Array, vector: Float64Array) -> Float64Array:
    """What the orthogonal matrix made of a normal one, rows >= columns, makes of a vector."""
    rows, columns = drawn.shape
    signed = np.where(drawn.diagonal() < 0, 1.0, -1.0) * vector
    result: Float64Array = np.concatenate([signed, np.zeros(rows - columns)])
    for k in reversed(range(columns)):
        v = drawn[k:, k].copy()
        v[0] += math.copysign(float(np.linalg.norm(v)), v[0])
        result[k:] -= v * (2.0 * (v @ result[k:]) / (v @ v))
    return result
