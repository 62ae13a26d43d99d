// The two matrix products of a block of reflectors, for the CPU: each element is one chain of fused
// multiply-adds over ascending k, whatever the tiles. Lanes run across columns. Owns tiles and
// registers; what is multiplied, orthogonal.h says.
#pragma once

#include "../core/lanes.h"
#include "pack.h"

namespace fastinit {
inline namespace FASTINIT_ISA {

// A tile of accumulators: so many scalars against so many packs. 16 chains hide the latency of an
// fma on two ports; 16 registers have room for 8.
constexpr int kTileScalars = kPackBytes == 64 ? 8 : kPackBytes == 32 ? 4 : 2;
constexpr int kTilePacks = 2;

template <class F>
FASTINIT_HD F load(const Scalar<F>* from) {
  F pack;
  memcpy(&pack, from, sizeof(pack));
  return pack;
}
template <class F>
FASTINIT_HD void store(Scalar<F>* to, F pack) {
  memcpy(to, &pack, sizeof(pack));
}

// Accumulators of `kRows` x kTilePacks packs.
template <class F, int kRows>
struct Sums {
  F sum[kRows][kTilePacks];

  FASTINIT_HD void clear() {
    FASTINIT_UNROLL
    for (auto& row : sum) {
      FASTINIT_UNROLL
      for (F& pack : row) pack = F{};
    }
  }

  // += a^T b over `rows` rows, of which a's hold kRows scalars and b's kTilePacks packs.
  FASTINIT_HD void add_transposed(const Scalar<F>* a, int64_t a_stride, const Scalar<F>* b,
                                  int64_t b_stride, int64_t rows) {
    FASTINIT_NO_UNROLL
    for (int64_t r = 0; r < rows; ++r, a += a_stride, b += b_stride) add_step(a, 1, b);
  }

  // += a b, where a has kRows rows and `depth` columns.
  FASTINIT_HD void add(const Scalar<F>* a, int64_t a_stride, const Scalar<F>* b, int64_t b_stride,
                       int64_t depth) {
    FASTINIT_NO_UNROLL
    for (int64_t k = 0; k < depth; ++k, ++a, b += b_stride) add_step(a, a_stride, b);
  }

  FASTINIT_HD void add_step(const Scalar<F>* a, int64_t a_stride, const Scalar<F>* b) {
    constexpr int kLanes = kPackBytes / sizeof(Scalar<F>);
    F pack[kTilePacks];
    FASTINIT_UNROLL
    for (int v = 0; v < kTilePacks; ++v) pack[v] = load<F>(b + v * kLanes);
    FASTINIT_UNROLL
    for (int i = 0; i < kRows; ++i) {
      const F scalar = splat<F>(a[i * a_stride]);
      FASTINIT_UNROLL
      for (int v = 0; v < kTilePacks; ++v) {
        sum[i][v] = fma(scalar, pack[v], sum[i][v]);
      }
    }
  }

  // Calls use(row, lane, pack) for all packs.
  template <class Use>
  FASTINIT_HD void each(const Use& use) {
    constexpr int kLanes = kPackBytes / sizeof(Scalar<F>);
    FASTINIT_UNROLL
    for (int i = 0; i < kRows; ++i) {
      FASTINIT_UNROLL
      for (int v = 0; v < kTilePacks; ++v) use(i, v * kLanes, sum[i][v]);
    }
  }
};

// out = the sum, over segments of kSegment rows, of a^T b; `a_columns`, a multiple of kTileScalars,
// of a's columns against `lanes` of b's, a multiple of a tile's.
template <class F, int kSegment>
inline void multiply_transposed(const Scalar<F>* a, int64_t a_stride, int64_t a_columns,
                                const Scalar<F>* b, int64_t lanes, int64_t rows, Scalar<F>* out) {
  constexpr int kLanes = kTilePacks * kPackBytes / sizeof(Scalar<F>);
  for (int64_t begin = 0; begin < rows; begin += kSegment) {
    const int64_t count = rows - begin < kSegment ? rows - begin : kSegment;
    for (int64_t lane = 0; lane < lanes; lane += kLanes) {
      for (int64_t i = 0; i < a_columns; i += kTileScalars) {
        Sums<F, kTileScalars> tile;
        tile.clear();
        tile.add_transposed(a + begin * a_stride + i, a_stride, b + begin * lanes + lane, lanes,
                            count);
        Scalar<F>* to = out + i * lanes + lane;
        tile.each([&](int row, int at, F sum) {
          Scalar<F>* place = to + row * lanes + at;
          store(place, begin == 0 ? sum : load<F>(place) + sum);
        });
      }
    }
  }
}

// Rows of out: those of a b, of depth `depth`, or what is there less those.
template <class F, bool kSubtract, int kRows = kTileScalars>
FASTINIT_HD void multiply(const Scalar<F>* a, int64_t a_stride, int64_t depth, const Scalar<F>* b,
                          int64_t lanes, int64_t rows, Scalar<F>* out) {
  constexpr int kLanes = kTilePacks * kPackBytes / sizeof(Scalar<F>);
  int64_t r = 0;
  for (; r + kRows <= rows; r += kRows) {
    for (int64_t lane = 0; lane < lanes; lane += kLanes) {
      Sums<F, kRows> tile;
      tile.clear();
      tile.add(a + r * a_stride, a_stride, b + lane, lanes, depth);
      Scalar<F>* to = out + r * lanes + lane;
      tile.each([&](int row, int at, F sum) {
        Scalar<F>* place = to + row * lanes + at;
        store(place, kSubtract ? load<F>(place) - sum : sum);
      });
    }
  }
  if constexpr (kRows > 1) {
    if (r < rows) {
      multiply<F, kSubtract, 1>(a + r * a_stride, a_stride, depth, b, lanes, rows - r,
                                out + r * lanes);
    }
  }
}

}  // namespace FASTINIT_ISA
}  // namespace fastinit
