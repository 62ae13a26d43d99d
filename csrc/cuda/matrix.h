// Where all that orthogonal matrices need lies in device memory, and how a thread block does its
// part of them. Matrices of one shape, of which one part is wanted, are made side by side. Owns the
// plan and the words in which bodies are written; the bodies are multiply.h's and orthogonal.h's.
//
// A body is a struct of plain data, the argument of its kernel. run() is what one thread block
// does, in steps: block.each(step) has all threads do step(thread, registers), and none begins the
// next step before all have done this one. Steps know nothing of other threads but what those wrote
// to shared memory in steps before. kResident blocks are to fit a multiprocessor, which leaves the
// registers that a thread needs: left alone, ptxas spills on sm_100 and sm_120 to come down to 72.
#pragma once

#include "../core/reflectors.h"
#include "body.h"

namespace fastinit::cuda {

constexpr int kBlockThreads = 128;
constexpr int kManyBlocks = 5;  // that a multiprocessor runs at a time: leaves 96 registers
constexpr int kTile = 64;       // rows and columns of a tile of elements
static_assert(kTile == kPanelColumns);

FASTINIT_HD int64_t tiles_of(int64_t count) { return (count + kTile - 1) / kTile; }

FASTINIT_HD int64_t number_of(const Side& side, int64_t i) {
  return side.index != nullptr ? side.index[i] : side.first + i;
}
FASTINIT_HD int64_t offset_of(const Side& side, int64_t i) {
  return side.offset != nullptr ? side.offset[i] : i * side.stride;
}

// A matrix of S in memory, strides in elements.
template <class S>
struct View {
  S* data;
  int64_t row_stride, column_stride;

  FASTINIT_HD S& at(int64_t row, int64_t column) const {
    return data[row * row_stride + column * column_stride];
  }
  FASTINIT_HD View from(int64_t row, int64_t column) const {
    return {&at(row, column), row_stride, column_stride};
  }
};

// Sums of segments that have memory of their own, so that all are made at a time; where they need
// more, one thread block makes all of a tile.
constexpr int64_t kMostPartBytes = int64_t{32} << 20;

// What matrices of one shape and part have in common: how many blocks of reflectors they need, and
// where in the memory of each things lie, in bytes. Q is made where it is wanted if it can be, else
// in this memory, in the order that it is written in.
template <class S>
struct MatrixPlan {
  int unit = 1;         // 2 if complex, else 1
  int64_t rows = 0;     // real
  int64_t columns = 0;  // wanted
  int64_t blocks = 0;   // of reflectors, from the first
  int64_t parts = 1;    // sums of W with memory of their own
  int64_t pitch = 0;    // of W and Z
  bool in_place = false;
  int64_t row_stride = 1, column_stride = 1;  // of Q, real rows
  bool along_rows = true;                     // memory of Q and of the result is
  int64_t inverses, heads, signs, sums, panel, w, z, q, bytes;

  explicit MatrixPlan(const MatrixSpec& spec) {
    unit = spec.complex ? 2 : 1;
    rows = spec.rows * unit;
    const Side &by_rows = spec.wanted_rows, &by_columns = spec.wanted_columns;
    columns = by_columns.count;
    blocks = block_of(spec, number_of(by_columns, columns - 1)) + 1;
    pitch = tiles_of(columns) * kTile;
    const Panel first(spec, 0);
    const auto size = static_cast<int64_t>(sizeof(S));
    const int64_t part_bytes = pitch * kTile * size;
    parts = first.segments * part_bytes <= kMostPartBytes ? first.segments : 1;
    const bool same_dtype =
        spec.dtype == (sizeof(S) == sizeof(double) ? DType::kFloat64 : DType::kFloat32);
    in_place = same_dtype && by_rows.offset == nullptr && by_rows.count == spec.rows &&
               by_columns.offset == nullptr && (unit == 1 || by_rows.stride == unit);
    along_rows = columns == 1 || (by_rows.count > 1 && step(by_rows) <= step(by_columns));
    if (in_place) {
      row_stride = by_rows.stride / unit;
      column_stride = by_columns.stride;
    } else {
      (along_rows ? column_stride : row_stride) = along_rows ? rows : columns;
    }
    int64_t end = 0;
    const auto place = [&end](int64_t length) {
      const int64_t begin = end;
      end += (length + 255) / 256 * 256;
      return begin;
    };
    inverses = place(blocks * kPanelSquare * size);
    heads = place(blocks * kPanelColumns * size);
    signs = place(blocks * kPanelColumns * size);
    // Sums are needed until all inverses are there, the rest afterwards.
    const int64_t shared = end;
    sums = place(blocks * kSumBytes);
    const int64_t first_end = end;
    end = shared;
    panel = place(rows * kPanelColumns * size);
    w = place(parts * part_bytes);
    z = place(part_bytes);
    if (end < first_end) end = first_end;
    q = place(in_place ? 0 : rows * columns * size);
    bytes = end;
  }

  static constexpr int64_t kPanelSquare = kPanelColumns * kPanelColumns;
  static constexpr int64_t kSumBytes = kPanelSquare * Twice<S, double>::kWords * sizeof(double);

 private:
  // How far apart neighbours lie.
  static int64_t step(const Side& side) {
    if (side.count < 2) return INT64_MAX;
    return offset_of(side, 1) - offset_of(side, 0);
  }
};

// The argument that all kernels of a launch sequence share: the matrices, and their memory.
template <class S>
struct MatrixJob {
  MatrixPlan<S> plan;
  MatrixSpec only;          // if it is one
  const MatrixSpec* specs;  // or null
  int64_t count;
  char* memory;

  FASTINIT_HD const MatrixSpec& spec(int64_t matrix) const {
    return specs != nullptr ? specs[matrix] : only;
  }
  FASTINIT_HD char* memory_of(int64_t matrix) const { return memory + matrix * plan.bytes; }
  FASTINIT_HD S* at(int64_t matrix, int64_t offset) const {
    return reinterpret_cast<S*>(memory_of(matrix) + offset);
  }
  FASTINIT_HD S* inverse(int64_t matrix, int64_t block) const {
    return at(matrix, plan.inverses) + block * plan.kPanelSquare;
  }
  // Of the real columns of a block: what is at the heads of its vectors, and where they send them.
  FASTINIT_HD S* heads(int64_t matrix, int64_t block) const {
    return at(matrix, plan.heads) + block * kPanelColumns;
  }
  FASTINIT_HD S* signs(int64_t matrix) const { return at(matrix, plan.signs); }
  FASTINIT_HD S* panel(int64_t matrix) const { return at(matrix, plan.panel); }
  FASTINIT_HD View<S> q(int64_t matrix) const {
    S* const data = plan.in_place ? static_cast<S*>(spec(matrix).data) : at(matrix, plan.q);
    return {data, plan.row_stride, plan.column_stride};
  }

  using Sum = Twice<S, double>;
  FASTINIT_HD double* sum_at(int64_t matrix, int64_t block, int i, int j) const {
    char* const sums = memory_of(matrix) + plan.sums + block * plan.kSumBytes;
    return reinterpret_cast<double*>(sums) + (i * kPanelColumns + j) * Sum::kWords;
  }
};

template <class S>
FASTINIT_HD Twice<S, double> load_wide(const double* from) {
  Twice<S, double> sum;
  sum.high = from[0];
  if constexpr (Twice<S, double>::kWords == 2) sum.low = from[1];
  return sum;
}
template <class S>
FASTINIT_HD void store_wide(double* to, const Twice<S, double>& sum) {
  to[0] = sum.high;
  if constexpr (Twice<S, double>::kWords == 2) to[1] = sum.low;
}

// The number of a thread block as that of a matrix and of a tile in it.
struct TileNumber {
  int64_t matrix, row, column;

  FASTINIT_HD TileNumber(int64_t number, int64_t rows, int64_t columns) {
    row = number % rows;
    column = number / rows % columns;
    matrix = number / rows / columns;
  }
};

// ------------------------------------------------------------------------- the normal matrix

// The standard normal law, and the key of a matrix; made by one thread of a block.
template <class S>
FASTINIT_HD Prepared<S> standard_normal(const MatrixSpec& spec) {
  const StreamKey key = resolved_key(spec.key, spec.device);
  ResolvedLaw<S> law{};
  law.scale = S{1};
  return {law, key.offset, KeySchedule(key.seed)};
}

// Columns [begin, end) of rows of a block of reflectors, unit by unit: the numbers of one block of
// the stream. Calls store(row, column, value), both real, for all; above the diagonal and beside
// the panel these are zero. `heads`, unless null, replace what is on the diagonal.
template <class S>
struct PanelDraw {
  static constexpr int kBlock = kBlockElements<S>;

  const MatrixSpec& spec;
  const Panel& panel;
  const Prepared<S>& normal;
  const S* heads;
  int begin, end;

  FASTINIT_HD int units_of_row() const { return (end - begin) / kBlock + 1; }

  template <class Store>
  FASTINIT_HD void unit(int64_t row, int unit, const Store& store) const {
    const auto width = static_cast<uint64_t>(spec.columns * panel.unit);
    const uint64_t index = spec.start + static_cast<uint64_t>(panel.first + row) * width +
                           static_cast<uint64_t>(panel.first * panel.unit + begin);
    const int first = begin + unit * kBlock - static_cast<int>(index % kBlock);
    if (first >= end) return;
    S values[kBlock];
    block_values<Distribution::kNormal, S>(normal.law, normal.keys,
                                           normal.offset + index / kBlock + unit, values);
    FASTINIT_UNROLL
    for (int e = 0; e < kBlock; ++e) {
      const int i = first + e;
      if (i < begin || i >= end) continue;
      const int64_t reflector = panel.unit == 2 ? i / 2 : i;
      const bool drawn = i < panel.columns && reflector <= row;
      const S value = !drawn ? S{0} : heads != nullptr && reflector == row ? heads[i] : values[e];
      if (panel.unit == 1) {
        store(row, i, value);
      } else {
        store(2 * row, i, i % 2 == 0 || !drawn ? value : -value);
        store(2 * row + 1, i ^ 1, value);
      }
    }
  }
};

}  // namespace fastinit::cuda
