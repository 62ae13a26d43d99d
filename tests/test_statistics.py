"""Every random function draws from its law; every check here also rejects a wrong sampler.

Level. The keys are fixed, so each test passes or fails for good. The family-wise error is
ALPHA = 1e-3 over the FAMILY of cases by Bonferroni: with a right sampler anything in this file
fails with probability below 1e-3, once, when the keys are chosen. A case pools its own p-values
(KS, chi-square, four moments, tails) by Bonferroni too, so its level is ALPHA / FAMILY.

Power. At SIZE = 2^18 a std wrong by 2 % moves the second moment of a normal by 0.04 / sqrt(2 / n)
= 14 standard errors, a mean wrong by 0.02 std by 10, and 1 % of contamination at an end by more;
the level is reached at about 5. A tail lost beyond 2e-4 misses 26 expected values on either side
of the 1e-4 quantile: probability e^-26. Rounding twice gives even neighbours an eighth more mass
than odd ones, 0.125^2 n = 4000 on a chi-square with some thousand degrees of freedom. That all of
it is so is not left to reasoning: each case is run on wrong samplers and must reject them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import _laws
import numpy as np
import pytest
import torch
from _bits import COMPLEX, FLOAT8, NARROW, REAL, short, to_numpy
from _laws import Law, Wrong, check, dependence, normal, truncated, uniform, verdict
from scipy import stats

import fastinit
from fastinit import Key

pytestmark = pytest.mark.filterwarnings("ignore:mean is more than 2 std")  # far tails, on purpose

ALPHA = 1e-3
FAMILY = 300
LEVEL = ALPHA / FAMILY
SIZE = 1 << 18
MATRIX = (512, 512)  # SIZE elements
KERNEL = (64, 64, 8, 8)  # fan_in = fan_out = 4096
SEED = 20240607

# Cases: a function, what it is called with, the law its values must have


@dataclass(frozen=True)
class Case:
    name: str
    fill: Callable[..., torch.Tensor]
    law: Law
    shape: tuple[int, ...] = MATRIX
    dtypes: list[torch.dtype] = field(default_factory=lambda: REAL)

    def sample(self, dtype: torch.dtype, device: str = "cpu") -> torch.Tensor:
        key = Key(SEED).fold_in(self.name)
        return self.fill(torch.empty(self.shape, dtype=dtype, device=device), key=key)


def centred_uniform(std: float) -> Law:
    return uniform(-math.sqrt(3.0) * std, math.sqrt(3.0) * std)


def corrected_truncation(std: float) -> Law:
    wide = std / 0.87962566103423978
    return truncated(0.0, wide, -2.0 * wide, 2.0 * wide)


def fan_cases() -> list[Case]:
    cases = []
    wide, tall = (256, 1024), (1024, 256)  # fan_in 1024 and 256
    relu = math.sqrt(2.0)
    for shape, fans in [
        (wide, {"fan_in": 1024, "fan_out": 256}),
        (KERNEL, {"fan_in": 4096, "fan_out": 4096}),
    ]:
        for mode, fan in fans.items():
            std, tag = relu / math.sqrt(fan), f"{mode} {len(shape)}d"
            fill = partial(fastinit.kaiming_normal_, mode=mode, nonlinearity="relu")
            cases.append(Case(f"kaiming_normal_ {tag}", fill, normal(0.0, std), shape))
            fill = partial(fastinit.kaiming_uniform_, mode=mode, nonlinearity="relu")
            cases.append(Case(f"kaiming_uniform_ {tag}", fill, centred_uniform(std), shape))
    std = 1.5 / math.sqrt((1024 + 256) / 2)
    gained = partial(fastinit.xavier_normal_, gain=1.5)
    cases.append(Case("xavier_normal_", gained, normal(0.0, std), wide))
    gained = partial(fastinit.xavier_uniform_, gain=1.5)
    cases.append(Case("xavier_uniform_", gained, centred_uniform(std), wide))
    std = 1.0 / math.sqrt(256)
    cases.append(Case("lecun_normal_", fastinit.lecun_normal_, corrected_truncation(std), tall))
    cases.append(Case("lecun_uniform_", fastinit.lecun_uniform_, centred_uniform(std), tall))
    for distribution, law in [
        ("normal", partial(normal, 0.0)),
        ("uniform", centred_uniform),
        ("truncated_normal", corrected_truncation),
    ]:
        for mode, fan in [("fan_in", 256), ("fan_out", 1024), ("fan_avg", 640)]:
            fill = partial(
                fastinit.variance_scaling_, scale=3.0, mode=mode, distribution=distribution
            )
            name = f"variance_scaling_ {distribution} {mode}"
            dtypes = [torch.float32, torch.bfloat16]
            cases.append(Case(name, fill, law(math.sqrt(3.0 / fan)), tall, dtypes))
    return cases


def truncated_case(name: str, *law: float, dtypes: list[torch.dtype] = REAL) -> Case:
    mean, std, a, b = law
    fill = partial(fastinit.trunc_normal_, mean=mean, std=std, a=a, b=b)
    return Case(f"trunc_normal_ {name}", fill, truncated(*law), dtypes=dtypes)


FAN_CASES = fan_cases()
CASES = [
    Case("uniform_ unit", fastinit.uniform_, uniform(0.0, 1.0)),
    Case("uniform_ [-0.3, 0.7)", partial(fastinit.uniform_, a=-0.3, b=0.7), uniform(-0.3, 0.7)),
    Case("normal_ standard", fastinit.normal_, normal(0.0, 1.0)),
    Case("normal_ shifted", partial(fastinit.normal_, mean=0.5, std=0.25), normal(0.5, 0.25)),
    truncated_case("at 2 sigma", 0.0, 1.0, -2.0, 2.0),
    truncated_case("asymmetric", 0.5, 2.0, -1.0, 0.25),
    truncated_case("one-sided", 0.0, 1.0, 0.5, 1000.0),
    # (float8 has one value, or none, between 8 and 9)
    truncated_case("far tail", 0.0, 1.0, 8.0, 9.0, dtypes=REAL[:4]),
    truncated_case("far lower tail", 0.0, 1.0, -9.0, -8.0, dtypes=REAL[:4]),
    truncated_case("tiny std", 0.0, 0.001, -2.0, 2.0),
    *FAN_CASES,
]


def with_dtypes(cases: list[Case]) -> list[object]:
    return [
        pytest.param(case, dtype, id=f"{case.name}-{short(dtype)}")
        for case in cases
        for dtype in case.dtypes
    ]


def wrong_samplers() -> list[object]:
    """Every case with the samplers that its check must see through.

    The laws of fans differ from one another in their std alone, and so do their wrong samplers.
    Rounding towards zero in 16 bits moves the law by 2e-3 std at most, which only the comparison
    of bits in test_stream.py sees.
    """
    params = []
    for case in CASES:
        for dtype in case.dtypes:
            wrong: list[Wrong] = [_laws.std_off_by_two_percent]
            if case not in FAN_CASES:
                wrong += [_laws.mean_off_by_two_percent, _laws.one_percent_at_an_end]
                if dtype in NARROW:
                    wrong.append(_laws.rounded_twice)
                if dtype in FLOAT8:
                    wrong.append(_laws.rounded_towards_zero)
                if "normal_ standard" in case.name and dtype not in FLOAT8:
                    wrong.append(_laws.lost_tails)
                if case.law.half_open:
                    wrong.append(_laws.bound_reached)
            params += [
                pytest.param(case, dtype, w, id=f"{case.name}-{short(dtype)}-{w.__name__}")
                for w in wrong
            ]
    return params


@pytest.mark.parametrize(("case", "dtype"), with_dtypes(CASES))
def test_values_follow_their_law(case, dtype, device):
    assert check(case.sample(dtype, device), case.law) > LEVEL


@pytest.mark.parametrize(("case", "dtype", "wrong"), wrong_samplers())
def test_a_wrong_sampler_is_rejected(case, dtype, wrong):
    right = case.sample(torch.float64 if dtype == torch.float64 else torch.float32)
    assert check(wrong(right.flatten(), case.law, dtype), case.law) < LEVEL


# The truncated normal that used to have outliers (pytorch issues 145498 and 155588)

TINY = 0.001


def has_outliers(w: torch.Tensor) -> bool:
    """2^20 draws reach 5 sigma or so; 6.5 is beyond what 32 bits can reach."""
    return bool(np.abs(to_numpy(w)).max() > 6.5 * TINY)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=short)
def test_wide_bounds_leave_no_outliers(dtype, device):
    w = torch.empty(1 << 20, dtype=dtype, device=device)
    fastinit.trunc_normal_(w, 0.0, TINY, -2.0, 2.0, key=SEED)
    assert not has_outliers(w)
    assert float(np.abs(to_numpy(w)).max()) > 4.0 * TINY  # and the tails are there
    w[12345] = 2.0  # as the inverse of a rounded 1.0, clamped, used to be
    assert has_outliers(w)


# Complex


@dataclass(frozen=True)
class ComplexCase:
    name: str
    fill: Callable[..., torch.Tensor]
    part: Law
    modulus: Law | None = None

    def sample(self, dtype: torch.dtype, device: str = "cpu") -> torch.Tensor:
        w = torch.empty(MATRIX, dtype=dtype, device=device)
        return self.fill(w, key=Key(SEED).fold_in(f"complex {self.name}"))


def rayleigh(std: float) -> Law:
    return Law(stats.rayleigh(scale=std / math.sqrt(2.0)))


KAIMING_STD = math.sqrt(2.0 / 512)
COMPLEX_CASES = [
    ComplexCase(
        "normal_",
        partial(fastinit.normal_, std=3.0),
        normal(0.0, 3.0 / math.sqrt(2.0)),
        rayleigh(3.0),
    ),
    ComplexCase(
        "normal_ shifted",
        partial(fastinit.normal_, mean=0.5, std=0.25),
        normal(0.5, 0.25 / math.sqrt(2.0)),
    ),
    ComplexCase(
        "kaiming_normal_",
        fastinit.kaiming_normal_,
        normal(0.0, KAIMING_STD / math.sqrt(2.0)),
        rayleigh(KAIMING_STD),
    ),
    ComplexCase("kaiming_uniform_", fastinit.kaiming_uniform_, centred_uniform(KAIMING_STD)),
    ComplexCase(
        "lecun_uniform_", fastinit.lecun_uniform_, centred_uniform(math.sqrt(0.5 / MATRIX[1]))
    ),
    ComplexCase(
        "lecun_normal_", fastinit.lecun_normal_, corrected_truncation(math.sqrt(0.5 / MATRIX[1]))
    ),
    ComplexCase(
        "trunc_normal_",
        partial(fastinit.trunc_normal_, mean=0.5, std=2.0, a=-1.0, b=0.25),
        truncated(0.5, math.sqrt(2.0), -1.0, 0.25),
    ),
    ComplexCase("uniform_", partial(fastinit.uniform_, a=-1.0, b=2.0), uniform(-1.0, 2.0)),
]


def full_std_in_each_part(w: torch.Tensor) -> torch.Tensor:
    return w * math.sqrt(2.0)


def equal_parts(w: torch.Tensor) -> torch.Tensor:
    return torch.complex(w.real, w.real)


def correlated_parts(w: torch.Tensor) -> torch.Tensor:
    """One imaginary part in twenty-five repeats the real one."""
    parts = torch.view_as_real(w.clone())
    parts.view(-1, 2)[::25, 1] = parts.view(-1, 2)[::25, 0]
    return torch.view_as_complex(parts)


@pytest.mark.parametrize("dtype", COMPLEX, ids=short)
@pytest.mark.parametrize("case", COMPLEX_CASES, ids=lambda case: case.name)
def test_complex_values_follow_their_law(case, dtype, device):
    sample = case.sample(dtype, device)
    assert _laws.check_complex(sample, case.part, case.modulus) > LEVEL


@pytest.mark.parametrize("dtype", COMPLEX, ids=short)
@pytest.mark.parametrize("wrong", [full_std_in_each_part, equal_parts, correlated_parts])
@pytest.mark.parametrize("case", COMPLEX_CASES, ids=lambda case: case.name)
def test_a_wrong_complex_sampler_is_rejected(case, wrong, dtype):
    sample = wrong(case.sample(dtype))
    assert _laws.check_complex(sample, case.part, case.modulus) < LEVEL


# Sparse

SPARSE_STD = 0.02
SPARSE_CASES = [  # rows, columns, sparsity
    (10, 20_000, 0.25),
    (37, 8_000, 0.5),
    (64, 8_000, 0.9),
    (300, 2_000, 0.1),
]


def sparse_sample(case, dtype: torch.dtype = torch.float32, device: str = "cpu") -> torch.Tensor:
    rows, columns, sparsity = case
    w = torch.empty(rows, columns, dtype=dtype, device=device)
    return fastinit.sparse_(w, sparsity, SPARSE_STD, key=Key(SEED).fold_in(rows))


def sparse_verdict(w: np.ndarray, case: tuple[int, int, float]) -> float:
    return _laws.check_sparse(w, math.ceil(case[2] * case[0]), SPARSE_STD)


def rewritten(w: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Fresh normal values under another mask."""
    return np.where(mask, 0.0, np.random.default_rng(1).normal(0.0, SPARSE_STD, w.shape))


def one_zero_missing(w: np.ndarray) -> np.ndarray:
    changed = w.copy()
    changed[np.argmax(w[:, 7] == 0), 7] = SPARSE_STD
    return changed


def a_favoured_row(w: np.ndarray) -> np.ndarray:
    """In every second column row 0 takes over a zero from the first row that has one."""
    mask = w == 0
    mask[np.argmax(mask[:, ::2], axis=0), np.arange(0, w.shape[1], 2)] = False
    mask[0, ::2] = True
    missing = mask.sum(axis=0) < (w == 0).sum(axis=0)  # row 0 had one already: leave it
    mask[:, missing] = (w == 0)[:, missing]
    return rewritten(w, mask)


def runs_of_rows(w: np.ndarray) -> np.ndarray:
    """A random interval of rows: uniform rows, but neighbours go together."""
    rows, columns = w.shape
    start = np.random.default_rng(2).integers(0, rows, columns)
    return rewritten(w, (np.arange(rows)[:, None] - start) % rows < (w[:, 0] == 0).sum())


def masks_in_pairs(w: np.ndarray) -> np.ndarray:
    """One column in ten repeats the mask of the one before."""
    mask = w == 0
    mask[:, 1::10] = mask[:, : mask[:, 1::10].shape[1] * 10 : 10]
    return rewritten(w, mask)


def wrong_std(w: np.ndarray) -> np.ndarray:
    return w * 1.02


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=short)
@pytest.mark.parametrize("case", SPARSE_CASES, ids=str)
def test_sparse_zeroes_random_rows(case, dtype, device):
    assert sparse_verdict(to_numpy(sparse_sample(case, dtype, device)), case) > LEVEL


@pytest.mark.parametrize("dtype", NARROW, ids=short)
@pytest.mark.parametrize("case", SPARSE_CASES, ids=str)
def test_narrow_sparse_has_the_same_mask(case, dtype, device):
    """Its values are the float32 ones rounded (test_stream.py); those of float8 may round to 0."""
    wide, narrow = (to_numpy(sparse_sample(case, t, device)) for t in (torch.float32, dtype))
    assert (narrow[wide == 0] == 0).all()
    assert (narrow[np.abs(wide) > SPARSE_STD] != 0).all()


@pytest.mark.parametrize(
    "wrong", [one_zero_missing, a_favoured_row, runs_of_rows, masks_in_pairs, wrong_std]
)
@pytest.mark.parametrize("case", SPARSE_CASES, ids=str)
def test_a_wrong_mask_is_rejected(case, wrong):
    assert sparse_verdict(wrong(to_numpy(sparse_sample(case))), case) < LEVEL


# Independence: of neighbours in a stream, of streams, of the two halves of Box and Muller

STREAM_SIZE = 1 << 17
STREAMS = {
    "uniform_": fastinit.uniform_,
    "normal_": fastinit.normal_,
    "trunc_normal_": fastinit.trunc_normal_,
}
LAGS = [1, 2, 3, 4, 8, 1024]
KEY_PAIRS = {
    "ints": (Key(0), Key(1)),
    "large ints": (Key(2**63), Key(2**63 + 1)),
    "offsets": (Key(5, 0), Key(5, 1)),
    "distant offsets": (Key(5, 0), Key(5, 2**63)),
    "children": Key(5).split(2),
    "parent and child": (Key(5), Key(5).fold_in(0)),
    "names": (Key(5).fold_in("layers.0.weight"), Key(5).fold_in("layers.1.weight")),
}


def stream_of(name: str, key: Key, dtype: torch.dtype, device: str = "cpu") -> np.ndarray:
    return to_numpy(STREAMS[name](torch.empty(STREAM_SIZE, dtype=dtype, device=device), key=key))


both_widths = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=short)


@both_widths
@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("lag", LAGS)
def test_elements_of_a_stream_are_independent(name, lag, dtype, device):
    x = stream_of(name, Key(SEED), dtype, device)
    assert verdict(dependence(x[:-lag], x[lag:])) > LEVEL


@both_widths
@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("keys", KEY_PAIRS)
def test_streams_are_independent(name, keys, dtype, device):
    first, second = (stream_of(name, key, dtype, device) for key in KEY_PAIRS[keys])
    assert verdict(dependence(first, second)) > LEVEL


@pytest.mark.parametrize("name", STREAMS)
def test_dependence_is_rejected(name):
    x = stream_of(name, Key(SEED), torch.float32)
    y = stream_of(name, Key(SEED + 1), torch.float32)
    blend = y + 0.03 * x
    assert verdict(dependence(x, blend)) < LEVEL
    shared = np.where(np.arange(len(x)) % 40 == 0, x, y)  # one element in forty is the same
    assert verdict(dependence(x, shared)) < LEVEL
    scale = np.abs(x - np.median(x)) + 1.0  # uncorrelated, but of a scale that x decides
    assert verdict(dependence(x, (y - np.median(y)) * scale)) < LEVEL
    overlapping = stream_of(name, Key(SEED, 1), torch.float32)  # a stream moved by one block
    assert verdict(dependence(x[4:], overlapping[:-4])) < LEVEL


@both_widths
def test_box_muller_pairs_are_independent(dtype, device):
    x = stream_of("normal_", Key(SEED), dtype, device)
    assert _laws.check_pairs(x[0::2], x[1::2]) > LEVEL


def test_wrong_pairs_are_rejected():
    x = stream_of("normal_", Key(SEED), torch.float64)
    cosine, sine = x[0::2], x[1::2]
    assert _laws.check_pairs(cosine, np.abs(sine)) < LEVEL  # half a turn
    assert _laws.check_pairs(cosine, np.roll(sine, 1) * 1.02) < LEVEL
    turn = np.round(np.arctan2(sine, cosine) * 128 / np.pi) * np.pi / 128  # angles of 8 bits
    radius = np.hypot(cosine, sine)
    assert _laws.check_pairs(radius * np.cos(turn), radius * np.sin(turn)) < LEVEL


@pytest.mark.parametrize("kind", ["ints", "offsets", "children"])
def test_one_element_of_many_keys_follows_the_law(kind):
    """What a model of many small tensors sees: the first element under key after key."""
    count = 1 << 14
    keys = {
        "ints": lambda: [Key(n) for n in range(count)],
        "offsets": lambda: [Key(SEED, n) for n in range(count)],
        "children": lambda: Key(SEED).split(count),
    }[kind]()
    x = np.array([fastinit.normal_(torch.empty(1), key=key).item() for key in keys])
    p_values = _laws.check_continuous(x, normal(0.0, 1.0)) | dependence(x[:-1], x[1:])
    assert verdict(p_values) > LEVEL
    repeated = np.where(np.arange(count) % 10 == 9, np.roll(x, 1), x)  # a tenth of the keys collide
    p_values = _laws.check_continuous(repeated, normal(0.0, 1.0))
    p_values |= dependence(repeated[:-1], repeated[1:])
    assert verdict(p_values) < LEVEL


def test_the_family_is_no_larger_than_the_level_assumes():
    widths, others = 2, 10  # others: orthogonal, pairs, many keys, narrow masks decide nothing
    cases = (
        len(with_dtypes(CASES))
        + len(COMPLEX) * len(COMPLEX_CASES)
        + widths * len(SPARSE_CASES)
        + widths * len(STREAMS) * (len(LAGS) + len(KEY_PAIRS))
        + others
    )
    assert cases <= FAMILY
