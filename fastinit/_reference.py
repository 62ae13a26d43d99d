"""The stream in plain NumPy: what every element of every tensor is, written to be read.

This is the oracle that the tests hold the compiled core against. It imports nothing compiled by
this project and no torch, favours obviousness over speed, and evaluates logarithm, sine, cosine
and the inverse normal CDF in float64, so that it is the formula itself rather than a second
implementation of the same polynomials. Uniform draws are exact to the bit; normal and truncated
normal draws are what the core's are measured against.

Rounding to float16, bfloat16 and the float8 types is left to the caller: in those dtypes an
element is the float32 element rounded to nearest even (uniform draws: with `limit` passed).

Source of the generator: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3",
SC'11. Normal draws: Box and Muller, Ann. Math. Statist. 29 (1958).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

UInt64Array = npt.NDArray[np.uint64]
Float64Array = npt.NDArray[np.float64]
FloatType = type[np.float32] | type[np.float64]
KeyPair = tuple[int, int]  # (seed, offset), both in [0, 2^64)

MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
WEYL = (0x9E3779B9, 0xBB67AE85)  # the golden ratio and sqrt(3) - 1, as fractions of 2^32
ROUNDS = 10
LOW_32 = np.uint64(0xFFFFFFFF)
SHIFT_32 = np.uint64(32)
MASK_64 = (1 << 64) - 1

# Standard deviation of the standard normal cut at +-2; variance scaling divides by it.
TRUNCATED_STD = 0.87962566103423978


def philox4x32(counter: npt.ArrayLike, key: Sequence[int]) -> UInt64Array:
    """Return the Philox4x32-10 block of each counter.

    Args:
        counter: array (..., 4) of 32-bit words, lowest first.
        key: two 32-bit words.

    Returns:
        Array (..., 4) of 32-bit words, held in uint64.
    """
    words = np.asarray(counter, dtype=np.uint64)
    c0, c1, c2, c3 = (words[..., i] for i in range(4))
    key0, key1 = int(key[0]), int(key[1])
    for _ in range(ROUNDS):
        product0, product1 = MULTIPLIERS[0] * c0, MULTIPLIERS[1] * c2
        c0, c1, c2, c3 = (
            (product1 >> SHIFT_32) ^ c1 ^ np.uint64(key0),
            product1 & LOW_32,
            (product0 >> SHIFT_32) ^ c3 ^ np.uint64(key1),
            product0 & LOW_32,
        )
        key0, key1 = (key0 + WEYL[0]) & 0xFFFFFFFF, (key1 + WEYL[1]) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3], axis=-1)


def blocks(key: KeyPair, number: npt.ArrayLike) -> UInt64Array:
    """Return blocks `number` (an array of integers) of a key's stream, as an array (..., 4)."""
    seed, offset = key
    counter = np.asarray(number, dtype=np.uint64) + np.uint64(offset & MASK_64)  # modulo 2^64
    zero = np.zeros_like(counter)
    words = np.stack([counter & LOW_32, counter >> SHIFT_32, zero, zero], axis=-1)
    return philox4x32(words, (seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF))


def child_key(key: KeyPair, index: int) -> KeyPair:
    """Return child `index` of a key: `fold_in(index)`, and element `index` of `split`."""
    r0, r1, r2, r3 = (int(word) for word in blocks(key, np.uint64(index & MASK_64)))
    return r0 | r1 << 32, r2 | r3 << 32


def region_index(
    global_shape: Sequence[int], offsets: Sequence[int], shape: Sequence[int]
) -> UInt64Array:
    """Return, for each element of a rectangle, its row-major index in the global tensor."""
    index = np.zeros(tuple(shape), dtype=np.uint64)
    stride = 1
    for dim in reversed(range(len(shape))):
        along = np.arange(shape[dim], dtype=np.uint64) + np.uint64(offsets[dim])
        along = along * np.uint64(stride & MASK_64)
        index += along.reshape([-1 if d == dim else 1 for d in range(len(shape))])
        stride *= int(global_shape[dim])
    return index


def complex_index(index: npt.ArrayLike) -> UInt64Array:
    """Return the stream indices (..., 2) of the real and imaginary parts of complex elements."""
    first = np.asarray(index, dtype=np.uint64) * np.uint64(2)
    return np.stack([first, first + np.uint64(1)], axis=-1)


def bits32(key: KeyPair, index: npt.ArrayLike) -> tuple[UInt64Array, UInt64Array]:
    """Return (block of four words, lane) of each element computed in float32."""
    index = np.asarray(index, dtype=np.uint64)
    return blocks(key, index // np.uint64(4)), index % np.uint64(4)


def bits64(key: KeyPair, index: npt.ArrayLike) -> tuple[UInt64Array, UInt64Array]:
    """Return (block of four words, lane) of each element computed in float64."""
    index = np.asarray(index, dtype=np.uint64)
    return blocks(key, index // np.uint64(2)), index % np.uint64(2)


def _arithmetic(dtype: npt.DTypeLike) -> FloatType:
    """Return the scalar type in which elements of `dtype`, float32 or float64, are computed."""
    return np.float32 if np.dtype(dtype) == np.float32 else np.float64


def _own_word32(key: KeyPair, index: npt.ArrayLike) -> UInt64Array:
    block, lane = bits32(key, index)
    return np.take_along_axis(block, lane[..., None].astype(np.int64), axis=-1)[..., 0]


def _own_word64(key: KeyPair, index: npt.ArrayLike) -> UInt64Array:
    block, lane = bits64(key, index)
    even = block[..., 0] << SHIFT_32 | block[..., 1]
    odd = block[..., 2] << SHIFT_32 | block[..., 3]
    return np.where(lane == 0, even, odd)


def uniform(
    key: KeyPair,
    index: npt.ArrayLike,
    low: float = 0.0,
    high: float = 1.0,
    dtype: npt.DTypeLike = np.float32,
    limit: float | None = None,
) -> npt.NDArray[Any]:
    """Return uniform draws on [low, high), exact to the bit.

    `u * (high - low) + low` with two roundings and the bounds rounded to `dtype` first; then no
    more than `limit`: the largest value below `high` in the dtype of the destination (by default
    `dtype`), or `low` where that dtype has nothing in between.

    Args:
        key: (seed, offset).
        index: array of row-major indices in the global tensor.
        low, high: bounds.
        dtype: float32 or float64, the arithmetic.
        limit: the largest result, where the destination is narrower than `dtype`.
    """
    float_type = _arithmetic(dtype)
    if float_type is np.float32:
        grid, spacing = _own_word32(key, index) & np.uint64((1 << 24) - 1), 2.0**-24
    else:
        grid, spacing = _own_word64(key, index) & np.uint64((1 << 53) - 1), 2.0**-53
    unit: npt.NDArray[Any] = grid.astype(float_type)
    unit = unit * float_type(spacing)
    first, last = float_type(low), float_type(high)
    if limit is None:
        limit = float(np.nextafter(last, float_type(-np.inf))) if last > first else float(first)
    values: npt.NDArray[Any] = np.minimum(unit * (last - first) + first, float_type(limit))
    return values


def normal(
    key: KeyPair,
    index: npt.ArrayLike,
    mean: float = 0.0,
    std: float = 1.0,
    dtype: npt.DTypeLike = np.float32,
) -> Float64Array:
    """Return Box-Muller draws of the arithmetic `dtype`, evaluated in float64.

    `z = sqrt(-2 ln u1) * cos(2 pi t)`, or `sin` in odd lanes; lanes (0, 1) share one pair of
    uniforms and, in float32, lanes (2, 3) another.
    """
    float_type = _arithmetic(dtype)
    if float_type is np.float32:
        block, lane = bits32(key, index)
        first_pair = lane < np.uint64(2)
        x0 = np.where(first_pair, block[..., 0], block[..., 2])
        x1 = np.where(first_pair, block[..., 1], block[..., 3])
        # The sum is exact in float64, so the rounding to float32 is the only one: an fma.
        fused = x0.astype(np.float32).astype(np.float64) * 2.0**-32 + 2.0**-33
        u1 = fused.astype(np.float32).astype(np.float64)
        turn = (x1.astype(np.float64) + 0.5) * 2.0**-32
    else:
        block, lane = bits64(key, index)
        x0, x1, x2, x3 = (block[..., i].astype(np.float64) for i in range(4))
        u1 = (x0 + (x1 + 0.5) * 2.0**-32) * 2.0**-32
        turn = (x2 + (x3 + 0.5) * 2.0**-32) * 2.0**-32
    cosine, sine = _cos_sin_of_turn(turn)
    z: Float64Array = np.sqrt(-2.0 * np.log(u1)) * np.where(lane % np.uint64(2) == 0, cosine, sine)
    return z * float(float_type(std)) + float(float_type(mean))


def _cos_sin_of_turn(turn: Float64Array) -> tuple[Float64Array, Float64Array]:
    """Return cos and sin of 2 pi turn; the reduction to an eighth of a turn is exact."""
    quarter = np.rint(4.0 * turn)
    angle = 2.0 * math.pi * (turn - 0.25 * quarter)
    cosine, sine = np.cos(angle), np.sin(angle)
    quadrant = quarter.astype(np.int64) % 4
    return (
        np.choose(quadrant, [cosine, -sine, -cosine, sine]),
        np.choose(quadrant, [sine, cosine, -sine, -cosine]),
    )


def trunc_normal(
    key: KeyPair,
    index: npt.ArrayLike,
    mean: float = 0.0,
    std: float = 1.0,
    low: float = -2.0,
    high: float = 2.0,
    dtype: npt.DTypeLike = np.float32,
) -> Float64Array:
    """Return truncated normal draws of the arithmetic `dtype`, evaluated in float64.

    With alpha and beta the bounds in units of std from the mean and v in (0, 1), the lower tail
    probability is `(1 - v) Phi(alpha) + v Phi(beta)` and the upper one the same of Q = 1 - Phi.
    Neither subtracts anything, and whichever is smaller is inverted, so both tails are exact.
    Only the last step, `z * std + mean` kept within the bounds, sees the parameters as `dtype`
    holds them.
    """
    from scipy.special import ndtr, ndtri

    float_type = _arithmetic(dtype)
    if float_type is np.float32:
        word, scale = _own_word32(key, index), 2.0**-32
        complement = LOW_32 - word
    else:
        word, scale = _own_word64(key, index), 2.0**-64
        complement = np.uint64(MASK_64) - word
    v = (word.astype(np.float64) + 0.5) * scale
    one_minus_v = (complement.astype(np.float64) + 0.5) * scale
    alpha, beta = (low - mean) / std, (high - mean) / std
    below = one_minus_v * ndtr(alpha) + v * ndtr(beta)
    above = one_minus_v * ndtr(-alpha) + v * ndtr(-beta)
    z: Float64Array = np.where(
        below < above, ndtri(np.minimum(below, 0.5)), -ndtri(np.minimum(above, 0.5))
    )
    mean, std, low, high = (float(float_type(x)) for x in (mean, std, low, high))
    return np.clip(z * std + mean, low, high)


def sparse_zeros(
    key: KeyPair, row: npt.ArrayLike, column: npt.ArrayLike, rows: int, zeros: int
) -> npt.NDArray[np.bool_]:
    """Return which elements of a matrix with `rows` rows are among a column's `zeros` zeros.

    Column j sends row i to `pi_j(i)` and loses it if that is below `zeros`. `pi_j` repeats a
    bijection of the b-bit numbers, 2^b >= rows, until it arrives at a row again; the bijection is
    twelve rounds of adding, multiplying by an odd number and a xor-shift, with numbers hashed from
    the words of block j of the stream of `child_key(key, 0)`.

    Args:
        key: (seed, offset) of the fill.
        row, column: integer arrays of one shape, in the global matrix.
        rows: of the global matrix.
        zeros: per column, `ceil(sparsity * rows)`.
    """
    row, column = np.broadcast_arrays(np.asarray(row, np.uint64), np.asarray(column, np.uint64))
    words = blocks(child_key(key, 0), column)
    bits = max(1, (rows - 1).bit_length())
    mask, shift = np.uint64((1 << bits) - 1), np.uint64((bits + 1) // 2)
    x = row
    arrived = np.zeros(row.shape, dtype=bool)
    while not arrived.all():
        y = x
        for turn in range(12):
            number = words[..., turn % 4] + np.uint64(0x9E3779B9 * (turn + 1) & 0xFFFFFFFF)
            number &= LOW_32
            for right, multiplier in ((16, 0x21F0AAAD), (15, 0x735A2D97)):
                number = (number ^ number >> np.uint64(right)) * np.uint64(multiplier) & LOW_32
            number ^= number >> np.uint64(15)
            odd = (number >> np.uint64(16) | number << np.uint64(16)) & LOW_32 | np.uint64(1)
            y = ((y + number) & LOW_32) * odd & mask
            y = y ^ y >> shift
        x = np.where(arrived, x, y)
        arrived = x < rows
    return x < zeros
