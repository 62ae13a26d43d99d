// The matrix products of a block of reflectors, a tile of 64 x 64 elements a thread block: each
// element is one chain of fused multiply-adds over ascending k, made by one thread. Operands come
// through shared memory, 16 of k at a time. Owns tiles and registers, and which products there are;
// their order is orthogonal.h's.
#pragma once

#include "matrix.h"

namespace fastinit::cuda {

// Elements of a tile, `k` by `stride` elements in memory, `parts` of them to be added in turn.
template <class S>
struct Operand {
  const S* data;
  int64_t k_stride, stride;
  int64_t k_count, count;  // beyond them all is zero
  int64_t parts = 1, part_stride = 0;

  FASTINIT_HD S load(const S* from) const {
    S value = *from;
    FASTINIT_NO_UNROLL
    for (int64_t part = 1; part < parts; ++part) value = value + from[part * part_stride];
    return value;
  }
};

template <class S>
struct TileProduct {
  static constexpr int kResident = sizeof(S) == 4 ? 3 : 2;
  static constexpr int kDepth = 16;              // of k at a time
  static constexpr int kRows = 8, kColumns = 4;  // of a thread
  static constexpr int kAcross = kTile / kColumns;
  static constexpr int kPitch = kTile + 4;
  static_assert(kAcross * (kTile / kRows) == kBlockThreads);

  struct Shared {
    alignas(16) S a[kDepth][kPitch];
    alignas(16) S b[kDepth][kPitch];
  };
  struct Registers {
    S sum[kRows][kColumns];
  };

  static FASTINIT_HD int row_of(int thread) { return thread / kAcross * kRows; }
  static FASTINIT_HD int column_of(int thread) { return thread % kAcross * kColumns; }

  static FASTINIT_HD void clear(Registers& registers) {
    FASTINIT_UNROLL
    for (auto& row : registers.sum) {
      FASTINIT_UNROLL
      for (S& sum : row) sum = S{0};
    }
  }

  // Neighbouring threads read along what memory runs along.
  static FASTINIT_HD void stage(const Operand<S>& from, int64_t k, S (&to)[kDepth][kPitch],
                                int thread) {
    if (from.k_stride != 1) {
      stage<kBlockThreads / kTile, 0>(from, k, to, thread / kTile, thread % kTile);
    } else {
      stage<0, kBlockThreads / kDepth>(from, k, to, thread % kDepth, thread / kDepth);
    }
  }
  // A thread's elements, from the first on in such steps.
  template <int kDeeper, int kWider>
  static FASTINIT_HD void stage(const Operand<S>& from, int64_t k, S (&to)[kDepth][kPitch],
                                int deep, int wide) {
    constexpr int kCount = kDepth * kTile / kBlockThreads;
    const int depth = static_cast<int>(from.k_count - k < kDepth ? from.k_count - k : kDepth);
    const int width = static_cast<int>(from.count < kTile ? from.count : kTile);
    const S* at = from.data + (k + deep) * from.k_stride + wide * from.stride;
    const int64_t step = kDeeper * from.k_stride + kWider * from.stride;
    S value[kCount];
    FASTINIT_UNROLL
    for (int e = 0; e < kCount; ++e, at += step) {
      const bool inside = deep + e * kDeeper < depth && wide + e * kWider < width;
      value[e] = inside ? from.load(at) : S{0};
    }
    FASTINIT_UNROLL
    for (int e = 0; e < kCount; ++e) to[deep + e * kDeeper][wide + e * kWider] = value[e];
  }

  static FASTINIT_HD void accumulate(const Shared& shared, Registers& registers, int thread) {
    struct alignas(16) Row {
      S value[kRows];
    };
    struct alignas(16) Column {
      S value[kColumns];
    };
    FASTINIT_UNROLL
    for (int k = 0; k < kDepth; ++k) {
      const Row a = *reinterpret_cast<const Row*>(&shared.a[k][row_of(thread)]);
      const Column b = *reinterpret_cast<const Column*>(&shared.b[k][column_of(thread)]);
      FASTINIT_UNROLL
      for (int i = 0; i < kRows; ++i) {
        FASTINIT_UNROLL
        for (int j = 0; j < kColumns; ++j) {
          registers.sum[i][j] = fma(a.value[i], b.value[j], registers.sum[i][j]);
        }
      }
    }
  }

  // The chains of a tile over k from `begin` to `end`; has all threads do finish(segment, thread,
  // registers) with those of each segment of so many of k.
  FASTINIT_ANY_CALLEE
  template <class Block, class Finish>
  static FASTINIT_HD void run(Block& block, const Operand<S>& a, const Operand<S>& b, int64_t begin,
                              int64_t end, int segment, const Finish& finish) {
    FASTINIT_NO_UNROLL
    for (int64_t k = begin; k < end; k += kDepth) {
      block.each([&](int thread, Registers& registers) {
        if (k % segment == 0) clear(registers);
        stage(a, k, block.shared.a, thread);
        stage(b, k, block.shared.b, thread);
      });
      const int64_t next = k + kDepth;
      block.each([&](int thread, Registers& registers) {
        accumulate(block.shared, registers, thread);
        if (next >= end || next % segment == 0) finish(k / segment, thread, registers);
      });
    }
  }

  // Calls use(row, column, sum) for all elements of a thread.
  template <class Use>
  static FASTINIT_HD void each(Registers& registers, int thread, const Use& use) {
    FASTINIT_UNROLL
    for (int i = 0; i < kRows; ++i) {
      FASTINIT_UNROLL
      for (int j = 0; j < kColumns; ++j) {
        use(row_of(thread) + i, column_of(thread) + j, registers.sum[i][j]);
      }
    }
  }
};

// ------------------------------------------------------------------------ a block's products

// What the products of a block of reflectors with the columns that have begun have in common: a
// thread block makes tile `row` (or part, or nothing else) of tiles of columns from `first_tile`.
template <class S>
struct BlockProduct {
  using Tile = TileProduct<S>;
  using Shared = typename Tile::Shared;
  using Registers = typename Tile::Registers;
  static constexpr int kResident = Tile::kResident;

  MatrixJob<S> job;
  Panel panel;
  int64_t of_block, first_tile;

  FASTINIT_HD int64_t column_tiles() const { return tiles_of(job.plan.columns) - first_tile; }
  FASTINIT_HD S* w(int64_t matrix) const { return job.at(matrix, job.plan.w); }
  FASTINIT_HD S* z(int64_t matrix) const { return job.at(matrix, job.plan.z); }
  FASTINIT_HD int64_t part_stride() const { return kPanelColumns * job.plan.pitch; }
};

// W = A^T C: a sum for each segment, or all of them added in turn.
template <class S>
struct ProjectColumns : BlockProduct<S> {
  using Base = BlockProduct<S>;
  using typename Base::Registers;
  using Tile = typename Base::Tile;

  FASTINIT_HD int64_t parts() const { return this->job.plan.parts > 1 ? this->panel.segments : 1; }
  int64_t blocks() const { return this->job.count * parts() * this->column_tiles(); }

  FASTINIT_ANY_CALLEE
  template <class Block>
  FASTINIT_HD void run(Block& block, int64_t number) const {
    const MatrixPlan<S>& plan = this->job.plan;
    const Panel& panel = this->panel;
    const TileNumber tile(number, parts(), this->column_tiles());
    const int64_t column = (this->first_tile + tile.column) * kTile;
    const View<S> q = this->job.q(tile.matrix).from(panel.first * panel.unit, column);
    const Operand<S> a{this->job.panel(tile.matrix), kPanelColumns, 1, panel.rows, kTile};
    const Operand<S> c{q.data, q.row_stride, q.column_stride, panel.rows, plan.columns - column};
    S* const out = this->w(tile.matrix) + tile.row * this->part_stride() + column;
    const int64_t end = parts() > 1 ? panel.segment_end(tile.row) : panel.rows;
    Tile::run(block, a, c, tile.row * kSegmentRows, end, kSegmentRows,
              [&](int64_t segment, int thread, Registers& registers) {
                if (segment > tile.row) {
                  Tile::each(registers, thread,
                             [&](int i, int j, S& sum) { sum = out[i * plan.pitch + j] + sum; });
                }
                Tile::each(registers, thread,
                           [&](int i, int j, S sum) { out[i * plan.pitch + j] = sum; });
              });
  }
};

// Z = T W.
template <class S>
struct ScaleProjections : BlockProduct<S> {
  using Base = BlockProduct<S>;
  using typename Base::Registers;
  using Tile = typename Base::Tile;

  int64_t blocks() const { return this->job.count * this->column_tiles(); }

  FASTINIT_ANY_CALLEE
  template <class Block>
  FASTINIT_HD void run(Block& block, int64_t number) const {
    const MatrixPlan<S>& plan = this->job.plan;
    const TileNumber tile(number, 1, this->column_tiles());
    const int64_t column = (this->first_tile + tile.column) * kTile;
    const Operand<S> t{this->job.inverse(tile.matrix, this->of_block), 1, kPanelColumns,
                       kPanelColumns, kTile};
    const Operand<S> w{this->w(tile.matrix) + column,
                       plan.pitch,
                       1,
                       kPanelColumns,
                       kTile,
                       plan.parts > 1 ? this->panel.segments : 1,
                       this->part_stride()};
    S* const out = this->z(tile.matrix) + column;
    Tile::run(block, t, w, 0, kPanelColumns, kPanelColumns,
              [&](int64_t, int thread, Registers& registers) {
                Tile::each(registers, thread,
                           [&](int i, int j, S sum) { out[i * plan.pitch + j] = sum; });
              });
  }
};

// C - A Z.
template <class S>
struct ReflectColumns : BlockProduct<S> {
  using Base = BlockProduct<S>;
  using typename Base::Registers;
  using Tile = typename Base::Tile;

  FASTINIT_HD int64_t row_tiles() const { return tiles_of(this->panel.rows); }
  int64_t blocks() const { return this->job.count * row_tiles() * this->column_tiles(); }

  FASTINIT_ANY_CALLEE
  template <class Block>
  FASTINIT_HD void run(Block& block, int64_t number) const {
    const MatrixPlan<S>& plan = this->job.plan;
    const Panel& panel = this->panel;
    const TileNumber tile(number, row_tiles(), this->column_tiles());
    const int64_t column = (this->first_tile + tile.column) * kTile, row = tile.row * kTile;
    const View<S> q = this->job.q(tile.matrix).from(panel.first * panel.unit + row, column);
    const int64_t rows = panel.rows - row, columns = plan.columns - column;
    const Operand<S> a{this->job.panel(tile.matrix) + row * kPanelColumns, 1, kPanelColumns,
                       kPanelColumns, rows};
    const Operand<S> z{this->z(tile.matrix) + column, plan.pitch, 1, kPanelColumns, kTile};
    Tile::run(block, a, z, 0, kPanelColumns, kPanelColumns,
              [&](int64_t, int thread, Registers& registers) {
                Tile::each(registers, thread, [&](int i, int j, S sum) {
                  if (i < rows && j < columns) q.at(i, j) = q.at(i, j) - sum;
                });
              });
  }
};

}  // namespace fastinit::cuda
