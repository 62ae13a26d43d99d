"""The law of `orthogonal_`: uniform (Haar) on matrices with orthonormal columns, or rows.

What is known of that law: a uniform point on the sphere in every direction, the moments of pairs of
columns (Collins and Sniady, "Integration with respect to the Haar measure", 2006), those of traces
of powers (Diaconis and Shahshahani, "On the eigenvalues of random matrices", 1994), determinants,
and the angles of eigenvalues, for which scipy has samples of its own. Each verdict is a p-value by
Bonferroni; ALPHA is the chance that a right sampler fails any test of this file. Seeds are fixed.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from _laws import two_sided, verdict
from scipy import stats

import fastinit

ALPHA = 1e-3
SHAPES = {"square": (12, 12), "tall": (12, 5), "wide": (5, 12)}
FIELDS = {"real": (torch.float32, torch.float64), "complex": (torch.complex64, torch.complex128)}
COUNT = 4000
LEVEL = ALPHA / 20  # verdicts that should hold

Sample = np.ndarray


def mean_is(values: Sample, expected: float) -> float:
    spread = values.std() / np.sqrt(len(values))
    return two_sided((values.mean() - expected) / spread)


def on_the_sphere(x: Sample, n: int) -> dict[str, float]:
    """A coordinate of a uniform point on the unit sphere of R^n or C^n."""
    if not np.iscomplexobj(x):
        law = stats.beta((n - 1) / 2, (n - 1) / 2, -1, 2)
        return {"value": float(stats.kstest(x, law.cdf).pvalue)}
    turn = stats.uniform(-np.pi, 2 * np.pi)
    return {
        "size": float(stats.kstest(abs(x) ** 2, stats.beta(1, n - 1).cdf).pvalue),
        "angle": float(stats.kstest(np.angle(x), turn.cdf).pvalue),
    }


def check(q: Sample) -> float:
    """The verdict on matrices (count, n, k) with orthonormal columns."""
    _, n, k = q.shape
    found: dict[str, float] = {}
    for i in (0, 1, n - 1):
        for j in (0, 1, k - 1):
            found |= {f"{i}, {j}: {w}": p for w, p in on_the_sphere(q[:, i, j], n).items()}
    rng = np.random.default_rng(1)
    for turn in range(3):
        left, right = rng.normal(size=n), rng.normal(size=k)
        left, right = left / np.linalg.norm(left), right / np.linalg.norm(right)
        x = np.einsum("i,kij,j->k", left, q, right)
        found |= {f"direction {turn}: {w}": p for w, p in on_the_sphere(x, n).items()}
    a, b, c, d = q[:, 0, 0], q[:, 1, 1], q[:, 0, 1].conj(), q[:, 1, 0].conj()
    if np.iscomplexobj(q):
        squares, cross = 1 / (n**2 - 1), -1 / (n * (n**2 - 1))
    else:
        squares, cross = (n + 1) / ((n - 1) * n * (n + 2)), -1 / ((n - 1) * n * (n + 2))
    found["squares of two columns"] = mean_is(abs(a * b) ** 2, squares)
    found["products of two columns"] = mean_is((a * b * c * d).real, cross)
    if n == k:
        found |= check_square(q)
    return verdict(found)


def check_square(q: Sample) -> dict[str, float]:
    _, n, _ = q.shape
    found: dict[str, float] = {}
    power = np.broadcast_to(np.eye(n), q.shape)
    for k in (1, 2, 3):
        power = power @ q
        trace = np.trace(power, axis1=1, axis2=2)
        centre = 0.0 if np.iscomplexobj(q) else (k + 1) % 2
        found[f"trace of power {k}"] = mean_is(trace.real, centre)
        found[f"its square, {k}"] = mean_is(abs(trace - centre) ** 2, k)
    determinant = np.linalg.det(q)
    pick = np.random.default_rng(2).integers(n, size=len(q))
    angle = np.angle(np.linalg.eigvals(q)[np.arange(len(q)), pick])
    if np.iscomplexobj(q):
        turn = stats.uniform(-np.pi, 2 * np.pi)
        found["determinant"] = float(stats.kstest(np.angle(determinant), turn.cdf).pvalue)
        found["angles"] = float(stats.kstest(angle, turn.cdf).pvalue)
    else:
        positive = int((determinant > 0).sum())
        found["determinant"] = float(stats.binomtest(positive, len(q)).pvalue)
        other = np.linalg.eigvals(stats.ortho_group.rvs(n, len(q), random_state=3))
        known = np.angle(other[np.arange(len(q)), pick])
        found["angles"] = float(stats.ks_2samp(abs(angle), abs(known)).pvalue)
    return found


def upright(q: Sample) -> Sample:
    return q if q.shape[1] >= q.shape[2] else np.swapaxes(q, 1, 2)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [d for field in FIELDS.values() for d in field], ids=str)
def test_uniform(shape: str, dtype: torch.dtype, device: str) -> None:
    w = torch.empty(COUNT, *SHAPES[shape], dtype=dtype, device=device)
    fastinit.orthogonal_(w, key=20240607, batch_axis=0)
    q = w.cpu().numpy().astype(np.complex128 if dtype.is_complex else np.float64)
    assert check(upright(q)) > LEVEL


def test_beyond_one_block_of_reflectors() -> None:
    """Matrices of three blocks, by the same verdict."""
    w = fastinit.orthogonal_(torch.empty(400, 140, 140), key=5, batch_axis=0).double().numpy()
    assert check(w[:, :, :70]) > LEVEL
    assert check(np.ascontiguousarray(np.swapaxes(w, 1, 2)[:, :, 60:])) > LEVEL


# Samplers that are wrong, of a normal sample.


def unsigned(g: Sample) -> Sample:
    """Q of QR as LAPACK has it."""
    return np.linalg.qr(g)[0]


def right(g: Sample) -> Sample:
    q, r = np.linalg.qr(g)
    d = np.diagonal(r, axis1=1, axis2=2)
    return q * (d / abs(d))[:, None]


def one_column_upright(g: Sample) -> Sample:
    q = right(g)
    q[:, :, 0] *= np.sign(q[:, :1, 0].real)
    return q


def not_orthogonal(g: Sample) -> Sample:
    """Each column by itself is right."""
    return g / np.linalg.norm(g, axis=1, keepdims=True)


def of_uniform(g: Sample) -> Sample:
    """From a matrix whose law no rotation leaves alone."""
    return right(np.sign(g.real) + 0.1 * g)


def rotations(g: Sample) -> Sample:
    q = right(g)
    q[:, :, 0] /= np.linalg.det(q)[:, None]
    return q


WRONG: list[Callable[[Sample], Sample]] = [unsigned, one_column_upright, not_orthogonal, of_uniform]


def normals(shape: str, field: str) -> Sample:
    rng = np.random.default_rng(7)
    size = (COUNT, max(SHAPES[shape]), min(SHAPES[shape]))
    g = rng.normal(size=size)
    return g + 1j * rng.normal(size=size) if field == "complex" else g


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("shape", ["square", "tall"])
@pytest.mark.parametrize("wrong", WRONG, ids=lambda f: f.__name__)
def test_a_wrong_sampler_is_rejected(shape: str, field: str, wrong: Callable[[Sample], Sample]):
    assert check(wrong(normals(shape, field))) < LEVEL


@pytest.mark.parametrize("field", FIELDS)
def test_a_wrong_determinant_is_rejected(field: str) -> None:
    assert check(rotations(normals("square", field))) < LEVEL


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("shape", ["square", "tall"])
def test_a_right_sampler_of_others_is_not_rejected(shape: str, field: str) -> None:
    assert check(right(normals(shape, field))) > LEVEL
