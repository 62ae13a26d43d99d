"""The permutations behind sparse_: every row goes everywhere alike, and so does every pair.

`sparse_` with z zeros tells which rows pi_j sends below z, so that all z together tell pi_j itself.
For each count of rows, Pearson's test of where single rows go and of where pairs of rows go.

Level: ALPHA = 1e-3 for the whole file, by Bonferroni over the FAMILY of tests; the keys are fixed.
Power: the same permutations with 6 or 8 rounds instead of 12 are rejected. test_statistics.py has
matrices of up to 300 rows, and their values.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy import stats

import fastinit
from fastinit import Key
from fastinit import _reference as reference

ALPHA = 1e-3
ROWS = [2, 3, 4, 5, 6, 7, 8, 9, 11, 13, 16, 17]
FAMILY = 2 * len(ROWS)
LEVEL = ALPHA / FAMILY
ELEMENTS = 1 << 21  # of the permutations: columns * rows

Permutations = npt.NDArray[np.int64]  # [row, column]: where the column's permutation sends the row


def columns_for(rows: int) -> int:
    return ELEMENTS // rows


def permutations(rows: int, key: Key) -> Permutations:
    """Those of the extension, by its zeros. In float64 no value kept is zero by chance."""
    at = np.full((rows, columns_for(rows)), rows - 1)
    w = torch.empty(at.shape, dtype=torch.float64)
    for zeros in range(1, rows):
        fastinit.sparse_(w, (zeros - 0.5) / rows, 1.0, key=key)
        at -= (w == 0).numpy()
    return at


def permutations_of(rows: int, key: Key, rounds: int) -> Permutations:
    """The formula of csrc/core/sparse.h with any number of rounds."""
    low = np.uint64(0xFFFFFFFF)
    column = np.arange(columns_for(rows), dtype=np.uint64)
    words = reference.blocks(reference.child_key((key.seed, key.offset), 0), column)
    bits = max(1, (rows - 1).bit_length())
    mask, shift = np.uint64((1 << bits) - 1), np.uint64((bits + 1) // 2)
    numbers = []
    for turn in range(rounds):
        number = words[..., turn % 4] + np.uint64(0x9E3779B9 * (turn + 1) & 0xFFFFFFFF) & low
        for right, multiplier in ((16, 0x21F0AAAD), (15, 0x735A2D97)):
            number = (number ^ number >> np.uint64(right)) * np.uint64(multiplier) & low
        number ^= number >> np.uint64(15)
        odd = (number >> np.uint64(16) | number << np.uint64(16)) & low | np.uint64(1)
        numbers.append((number & mask, odd & mask))
    # Where the bijections send all numbers, then their cycles.
    everywhere = np.arange(1 << bits, dtype=np.uint64)[:, None]
    sent = np.broadcast_to(everywhere, (1 << bits, len(column)))
    for add, odd in numbers:
        sent = (sent + add) * odd & mask
        sent = sent ^ sent >> shift
    x = sent[:rows]
    while (x >= rows).any():
        x = np.where(x < rows, x, np.take_along_axis(sent, x.astype(np.int64), axis=0))
    return x.astype(np.int64)


def p_values(at: Permutations) -> tuple[float, float]:
    """Of single rows and of pairs of rows."""
    rows, columns = at.shape
    counts = np.stack([np.bincount(row, minlength=rows) for row in at])
    statistic = float(((counts - columns / rows) ** 2).sum() / (columns / rows))
    # A sum of permutation matrices: all rows and columns sum to the same, and the covariance on the
    # (rows - 1)^2 dimensions left is rows / (rows - 1) times that of independent draws.
    single = float(stats.chi2.sf(statistic * (rows - 1) / rows, (rows - 1) ** 2))
    if rows == 2:
        return single, 1.0
    # Each pair has a table of rows (rows - 1) cells; Bonferroni over the pairs.
    cells = rows * (rows - 1)
    expected = columns / cells
    smallest, pairs = 1.0, 0
    for first in range(rows):
        for second in range(first + 1, rows):
            found = np.bincount(at[first] * rows + at[second], minlength=rows * rows)
            found = found.reshape(rows, rows)[~np.eye(rows, dtype=bool)]
            statistic = float(((found - expected) ** 2).sum() / expected)
            smallest = min(smallest, float(stats.chi2.sf(statistic, cells - 1)))
            pairs += 1
    return single, min(1.0, smallest * pairs)


def key_for(rows: int) -> Key:
    return Key(20240607).fold_in(rows)


@pytest.mark.parametrize("rows", ROWS)
def test_rows_and_pairs_of_rows_go_everywhere_alike(rows: int) -> None:
    at = permutations(rows, key_for(rows))
    assert np.array_equal(np.sort(at, axis=0), np.indices(at.shape)[0])  # permutations they are
    single, pairs = p_values(at)
    assert single > LEVEL
    assert pairs > LEVEL


@pytest.mark.parametrize("rows", [5, 8])
def test_the_formula_has_twelve_rounds(rows: int) -> None:
    at = permutations(rows, key_for(rows))
    assert np.array_equal(at, permutations_of(rows, key_for(rows), 12))


@pytest.mark.parametrize(
    ("rows", "rounds"),
    [(3, 6), (5, 6), (8, 6), (9, 6), (13, 6), (16, 6), (4, 8), (5, 8), (6, 8), (16, 8)],
)
def test_fewer_rounds_are_rejected(rows: int, rounds: int) -> None:
    assert min(p_values(permutations_of(rows, key_for(rows), rounds))) < LEVEL


def test_a_favoured_place_is_rejected() -> None:
    """In one column of fifty rows 0 and 1 are exchanged if that sends row 0 lower."""
    at = permutations(8, key_for(8))
    some = at[:, ::50]
    some[:2] = np.sort(some[:2], axis=0)
    single, _ = p_values(at)
    assert single < LEVEL
