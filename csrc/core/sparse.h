// The mask of sparse_: column j zeroes the rows i with pi_j(i) < zeros, where pi_j is a keyed
// permutation of the rows, so that every column loses exactly that many and any element can be
// decided alone. pi_j walks the cycles (Black and Rogaway, "Ciphers with arbitrary finite domains",
// 2002) of a bijection of the b-bit numbers, b the smallest with 2^b >= rows: rounds of an
// addition, a multiplication by an odd number and a xor-shift, with numbers from the column's
// Philox block.
#pragma once

#include "philox.h"

namespace fastinit {
inline namespace FASTINIT_ISA {

// Larger matrices are refused: a row index is one 32-bit word.
constexpr int64_t kMaxSparseRows = (int64_t{1} << 32) - 1;

// tests/test_sparse.py: in chi-square tests of where single rows and pairs of rows go, of 2 to 17
// rows and 2^21 elements, these leave no trace; up to 16 rows 6 rounds mostly do, 8 at times.
constexpr int kSparseRounds = 12;

// The mask's parameters, the same for all columns.
struct SparseDomain {
  uint32_t mask;      // 2^b - 1
  uint32_t last_row;  // rows - 1
  uint32_t zeros;     // in a column
  int shift;

  FASTINIT_HD SparseDomain(int64_t rows, int64_t zeros_per_column)
      : last_row(static_cast<uint32_t>(rows - 1)), zeros(static_cast<uint32_t>(zeros_per_column)) {
    int bits = 1;
    while (bits < 32 && (int64_t{1} << bits) < rows) ++bits;
    mask = ~uint32_t{0} >> (32 - bits);
    shift = (bits + 1) / 2;
  }
};

// The numbers of one column's permutation, from its Philox block as 32-bit lanes. The few bits that
// a small domain looks at must be independent from round to round: each round's come from a hash
// (multipliers: C. Wellons, "Prospecting for hash functions", 2018) of a word and the round.
template <class U>
struct SparseColumn {
  U add[kSparseRounds];
  U multiply[kSparseRounds];

  FASTINIT_HD explicit SparseColumn(const U (&word)[4]) {
    FASTINIT_UNROLL
    for (int round = 0; round < kSparseRounds; ++round) {
      U hash = word[round % 4] + 0x9E3779B9u * static_cast<uint32_t>(round + 1);
      hash = (hash ^ hash >> 16) * 0x21f0aaadu;
      hash = (hash ^ hash >> 15) * 0x735a2d97u;
      hash = hash ^ hash >> 15;
      add[round] = hash;
      multiply[round] = (hash >> 16 | hash << 16) | 1u;
    }
  }
};

// Replaces the rows in `x`, several independent ones in step, by where their permutation sends
// them.
template <int kCount, class U>
FASTINIT_HD void permute_rows(const SparseColumn<U>& column, const SparseDomain& domain,
                              U (&x)[kCount]) {
  bool walking = true;
  decltype(x[0] < x[0]) arrived[kCount];
  for (auto& lane : arrived) lane = x[0] != x[0];  // nowhere: the first pass moves every lane
  while (walking) {
    U y[kCount];
    for (int i = 0; i < kCount; ++i) y[i] = x[i];
    FASTINIT_UNROLL
    for (int round = 0; round < kSparseRounds; ++round) {
      FASTINIT_UNROLL
      for (U& lane : y) {
        lane = ((lane + column.add[round]) * column.multiply[round]) & domain.mask;
        lane = lane ^ lane >> domain.shift;
      }
    }
    walking = false;
    for (int i = 0; i < kCount; ++i) {
      x[i] = arrived[i] ? x[i] : y[i];
      arrived[i] = x[i] <= domain.last_row;
      walking = walking || any(!arrived[i]);
    }
  }
}

}  // namespace FASTINIT_ISA
}  // namespace fastinit
