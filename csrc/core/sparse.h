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
constexpr int64_t kMaxSparseRows = int64_t{1} << 32;

// Smallest b >= 1 with 2^b >= rows.
FASTINIT_HD int row_bits(int64_t rows) {
  int bits = 1;
  while (bits < 32 && (int64_t{1} << bits) < rows) ++bits;
  return bits;
}

// Whether row `row` is one of the zeros of a column, given the column's Philox block as 32-bit
// lanes: all ones (packs) or true.
template <class U>
FASTINIT_HD auto is_sparse_zero(const U (&word)[4], U row, int64_t rows, int64_t zeros, int bits) {
  const uint32_t mask = ~uint32_t{0} >> (32 - bits);
  const int shift = (bits + 1) / 2;
  const uint32_t last_row = static_cast<uint32_t>(rows - 1);
  U x = row;
  auto arrived = x != x;  // nowhere: the first pass moves every lane
  do {
    U y = x;
    FASTINIT_UNROLL
    for (int round = 0; round < 8; ++round) {
      const U key = round < 4 ? word[round] : word[round - 4] >> 11;
      y = ((y + key) * ((key >> 15 | key << 17) | 1u)) & mask;
      y = y ^ y >> shift;
    }
    x = arrived ? x : y;
    arrived = x <= last_row;
  } while (any(!arrived));
  return x < static_cast<uint32_t>(zeros);
}

}  // namespace FASTINIT_ISA
}  // namespace fastinit
