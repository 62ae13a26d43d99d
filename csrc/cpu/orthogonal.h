// Orthogonal matrices on the CPU, compiled once for each instruction set. A block of reflectors
// after the other, from the last, is made and applied to all wanted columns, which lie in tiles of
// kTileBytes a row and are independent of one another. Owns memory, order and the work of threads;
// the numbers are core/reflectors.h's, the products product.h's.
#pragma once

#include "../core/reflectors.h"
#include "engine.h"
#include "product.h"

namespace fastinit {
inline namespace FASTINIT_ISA {

constexpr int kTileBytes = 128;  // of a row of a tile
template <class S>
constexpr int kTileColumns = kTileBytes / sizeof(S);
constexpr int64_t kPanelSquare = kPanelColumns * kPanelColumns;

// Tiles that do not lie where the matrix is to be: as many as fit, at a time.
constexpr int64_t kMostTileBytes = int64_t{64} << 20;

// Where all that a matrix needs lies in one piece of memory.
template <class S>
struct MatrixMemory {
  int64_t tiles = 0;                                  // that memory has room for
  bool in_place = false;                              // whole tiles lie where the matrix will
  int64_t tile_bytes = 0;                             // of each
  int64_t panel, sums, block, scratch, slots, bytes;  // offsets, and the end

  MatrixMemory(const MatrixSpec& spec, int64_t threads) {
    const int64_t rows = spec.rows * (spec.complex ? 2 : 1);
    const int64_t all = (spec.wanted_columns.count + kTileColumns<S> - 1) / kTileColumns<S>;
    tile_bytes = rows * kTileBytes;
    in_place = lies_in_tiles(spec);
    const int64_t fitting = kMostTileBytes / tile_bytes;
    const int64_t at_least = fitting > threads ? fitting : threads;
    const int64_t needed = in_place ? (spec.wanted_columns.count % kTileColumns<S> != 0) : all;
    tiles = needed < at_least ? needed : at_least;
    int64_t end = 0;
    const auto place = [&end](int64_t size) {
      const int64_t begin = end;
      end += (size + 63) / 64 * 64;
      return begin;
    };
    panel = place(rows * kPanelColumns * static_cast<int64_t>(sizeof(S)));
    // Of each segment, and T.
    sums = place(((rows + kSegmentRows - 1) / kSegmentRows + 1) * kPanelSquare *
                 static_cast<int64_t>(2 * sizeof(S)));
    block = place(kPanelSquare * static_cast<int64_t>(sizeof(S)));
    scratch = place(in_place ? threads * tile_bytes : 0);
    slots = place(tiles * tile_bytes);
    bytes = end;
  }

  // Whether the memory of a whole tile's columns is all of one piece, to be used as one likes.
  static bool lies_in_tiles(const MatrixSpec& spec) {
    if ((spec.dtype == DType::kFloat64) != (sizeof(S) == 8)) return false;
    if (spec.dtype != DType::kFloat64 && spec.dtype != DType::kFloat32) return false;
    const int64_t unit = spec.complex ? 2 : 1;
    const Side &rows = spec.wanted_rows, &columns = spec.wanted_columns;
    if (rows.count != spec.rows) return false;
    for (int64_t r = 0; r < rows.count; ++r) {
      if (rows.offset[r] != r * unit) return false;
    }
    for (int64_t c = 1; c < columns.count; ++c) {
      if (columns.offset[c] != columns.offset[c - 1] + rows.count * unit) return false;
    }
    return true;
  }
};

template <class S>
struct OrthogonalMatrix {
  using F = typename PackOf<S>::Type;
  static constexpr int kColumns = kTileColumns<S>;
  static constexpr bool kSingle = sizeof(S) == 4;
  using Normal = Filler<Distribution::kNormal, kSingle ? DType::kFloat32 : DType::kFloat64>;

  const MatrixSpec& spec;
  const MatrixMemory<S> memory;
  const int unit;
  char* const base;
  const FillSpec normal_spec;
  const Normal normal;

  OrthogonalMatrix(const MatrixSpec& matrix, int64_t threads, void* workspace)
      : spec(matrix), memory(matrix, threads), unit(matrix.complex ? 2 : 1),
        base(static_cast<char*>(workspace)), normal_spec(normal_fill(matrix)), normal(normal_spec) {
  }

  static FillSpec normal_fill(const MatrixSpec& matrix) {
    FillSpec fill;
    fill.law.distribution = Distribution::kNormal;
    fill.key = matrix.key;
    return fill;
  }

  S* panel() const { return reinterpret_cast<S*>(base + memory.panel); }
  double* sums(int64_t segment) const {
    return reinterpret_cast<double*>(base + memory.sums) + segment * kPanelSquare * Sum::kWords;
  }
  S* block() const { return reinterpret_cast<S*>(base + memory.block); }

  // ------------------------------------------------------------------- a block of reflectors

  // The rows of a segment of the panel: the lower trapezoid of the normal matrix as it stands,
  // zeros above and beside it.
  void draw(const Panel& p, int64_t segment) const {
    const int64_t begin = segment * kSegmentRows, count = p.segment_end(segment) - begin;
    S* const out = panel() + begin * kPanelColumns;
    const int64_t row = p.first + begin / unit;
    const auto width = static_cast<uint64_t>(spec.columns * unit);
    const uint64_t index =
        spec.start + static_cast<uint64_t>(row) * width + static_cast<uint64_t>(p.first * unit);
    using Code = typename Normal::Code;
    if (p.columns < kPanelColumns) memset(out, 0, count * kPanelColumns * sizeof(S));
    if (unit == 1) {
      normal.run_rows(index, width, count, p.columns, reinterpret_cast<Code*>(out), kPanelColumns);
    } else {
      alignas(64) S parts[kSegmentRows / 2 * kPanelColumns];
      normal.run_rows(index, width, count / 2, p.columns, reinterpret_cast<Code*>(parts),
                      kPanelColumns);
      for (int64_t r = 0; r < count / 2; ++r) {
        for (int i = 0; i < p.columns; i += 2) {
          const S re = parts[r * kPanelColumns + i], im = parts[r * kPanelColumns + i + 1];
          set_complex(out + 2 * r * kPanelColumns + i, re, im);
        }
      }
    }
    for (int64_t t = 0; segment == 0 && t < p.top; ++t) {
      for (int64_t i = (t / unit + 1) * unit; i < p.columns; ++i) out[t * kPanelColumns + i] = 0;
    }
  }

  // A complex number as what it does to real and imaginary parts.
  static void set_complex(S* at, S re, S im) {
    at[0] = re;
    at[1] = -im;
    at[kPanelColumns] = im;
    at[kPanelColumns + 1] = re;
  }

  using Sum = Twice<S, PackF64>;

  static FASTINIT_HD Sum load_sum(const double* at) {
    Sum sum;
    sum.high = load<PackF64>(at);
    if constexpr (Sum::kWords == 2) sum.low = load<PackF64>(at + kPanelSquare);
    return sum;
  }
  static FASTINIT_HD void store_sum(double* at, const Sum& sum) {
    store(at, sum.high);
    if constexpr (Sum::kWords == 2) store(at + kPanelSquare, sum.low);
  }
  static FASTINIT_HD Twice<S, double> number(const double* at) {
    Twice<S, double> found;
    found.high = at[0];
    if constexpr (Sum::kWords == 2) found.low = at[kPanelSquare];
    return found;
  }
  static FASTINIT_HD Sum everywhere(const Twice<S, double>& number) {
    Sum sum;
    sum.high = splat<PackF64>(number.high);
    if constexpr (Sum::kWords == 2) sum.low = splat<PackF64>(number.low);
    return sum;
  }

  // Adds to sums of the products of all pairs of columns, of a pair in the order of columns at
  // least, `count` rows.
  template <bool kFromZero>
  static void add_products(const Panel& p, const double* rows, int64_t count, double* out) {
    constexpr int kRows = Sum::kWords == 2 ? 4 : kTileScalars, kPacks = 3 - Sum::kWords;
    for (int i = 0; i < p.columns; i += kRows) {
      for (int j = i / (kPacks * kLanes64) * kPacks * kLanes64; j < p.columns;
           j += kPacks * kLanes64) {
        double* const to = out + i * kPanelColumns + j;
        Sum sum[kRows][kPacks];
        FASTINIT_UNROLL
        for (int k = 0; k < kRows * kPacks; ++k) {
          if (!kFromZero) {
            sum[k / kPacks][k % kPacks] =
                load_sum(to + k / kPacks * kPanelColumns + k % kPacks * kLanes64);
          }
        }
        FASTINIT_NO_UNROLL
        for (int64_t r = 0; r < count; ++r) {
          const double* const row = rows + r * kPanelColumns;
          FASTINIT_UNROLL
          for (int k = 0; k < kRows * kPacks; ++k) {
            sum[k / kPacks][k % kPacks].add_product(splat<PackF64>(row[i + k / kPacks]),
                                                    load<PackF64>(row + j + k % kPacks * kLanes64));
          }
        }
        FASTINIT_UNROLL
        for (int k = 0; k < kRows * kPacks; ++k) {
          store_sum(to + k / kPacks * kPanelColumns + k % kPacks * kLanes64,
                    sum[k / kPacks][k % kPacks]);
        }
      }
    }
  }

  void multiply_columns(const Panel& p, int64_t segment) const {
    const int64_t begin = p.sum_begin(segment), end = p.segment_end(segment);
    alignas(64) double wide[kSegmentRows * kPanelColumns];
    const S* from = panel() + begin * kPanelColumns;
    for (int64_t i = 0; i < (end - begin) * kPanelColumns; ++i) {
      wide[i] = static_cast<double>(from[i]);
    }
    add_products<true>(p, wide, end - begin, sums(segment));
  }

  // From what segments have summed to the heads of the vectors, which go into the panel, and T.
  void finish(const Panel& p) {
    double* const u = sums(p.segments);
    for (int64_t segment = 1; segment < p.segments; ++segment) add_segment(p, segment);
    set_heads(p);
    add_top(p, sums(0));
    invert(p, sums(0), u);
  }

  void add_segment(const Panel& p, int64_t segment) const {
    double* const total = sums(0);
    const double* const more = sums(segment);
    for (int i = 0; i < p.columns; ++i) {
      for (int j = i / kLanes64 * kLanes64; j < p.columns; j += kLanes64) {
        const int at = i * kPanelColumns + j;
        Sum sum = load_sum(total + at);
        sum.add(load_sum(more + at));
        store_sum(total + at, sum);
      }
    }
  }

  void set_heads(const Panel& p) {
    S* const a = panel();
    Twice<S, double> behind[kPanelColumns];
    for (int i = 0; i < p.columns; ++i) behind[i] = number(sums(0) + i * (kPanelColumns + 1));
    for (int row = 0; row < p.top; ++row) {
      const int begun = row / unit * unit < p.columns ? row / unit * unit : p.columns;
      for (int i = 0; i < begun; ++i) {
        const double x = static_cast<double>(a[row * kPanelColumns + i]);
        behind[i].add_product(x, x);
      }
    }
    for (int i = 0; i < p.columns; i += unit) {
      S* const at = a + i * (kPanelColumns + 1);
      const Head<S> head(spec.complex, at[0], unit == 2 ? at[kPanelColumns] : S{0}, behind[i]);
      if (unit == 2) {
        set_complex(at, head.real, head.imaginary);
      } else {
        at[0] = head.real;
      }
      signs[i] = head.sign_real;
      signs[i + unit - 1] = unit == 2 ? head.sign_imaginary : head.sign_real;
      halves[i] = halves[i + unit - 1] = head.half;
    }
  }

  // Adds the top of the panel to the products of columns; what belongs to one reflector is known.
  void add_top(const Panel& p, double* u) const {
    alignas(64) double wide[kPanelSquare];
    for (int i = 0; i < p.top * kPanelColumns; ++i) wide[i] = static_cast<double>(panel()[i]);
    add_products<false>(p, wide, p.top, u);
    for (int i = 0; i < p.columns; ++i) {
      for (int word = 0; word < Sum::kWords; ++word) {
        double* const row = u + word * kPanelSquare + i * kPanelColumns;
        if (unit == 2) row[i ^ 1] = 0.0;
      }
      u[i * (kPanelColumns + 1)] = halves[i].high;
      if constexpr (Sum::kWords == 2) u[kPanelSquare + i * (kPanelColumns + 1)] = halves[i].low;
    }
  }

  // T, the inverse of the upper triangle of `u`, from the last row to the first.
  void invert(const Panel& p, const double* u, double* t) const {
    constexpr int kPacks = 2;
    S* const out = block();
    for (int i = p.columns - 1; i >= 0; --i) {
      const Twice<S, double> inverse = number(u + i * (kPanelColumns + 1)).inverse();
      for (int j = 0; j < kPanelColumns; j += kPacks * kLanes64) {
        Sum sum[kPacks];
        for (int l = i + 1; l < p.columns; ++l) {
          const Sum factor = everywhere(number(u + i * kPanelColumns + l));
          FASTINIT_UNROLL
          for (int k = 0; k < kPacks; ++k) {
            sum[k].add_product(factor, load_sum(t + l * kPanelColumns + j + k * kLanes64));
          }
        }
        for (int k = 0; k < kPacks; ++k) {
          store_sum(t + i * kPanelColumns + j + k * kLanes64,
                    sum[k].times(everywhere(inverse.negative())));
        }
      }
      double* const diagonal = t + i * (kPanelColumns + 1);
      diagonal[0] = inverse.high;
      if constexpr (Sum::kWords == 2) diagonal[kPanelSquare] = inverse.low;
      for (int j = 0; j < kPanelColumns; ++j) {
        out[i * kPanelColumns + j] =
            j < i ? S{0} : static_cast<S>(number(t + i * kPanelColumns + j).value());
      }
    }
  }

  // ----------------------------------------------------------------------------------- tiles

  // Columns of the matrix, `first` being the first of the wanted, in rows of kColumns.
  struct ColumnTile {
    int64_t first;
    int count;
    S* data;
  };

  int64_t tile_count() const { return (spec.wanted_columns.count + kColumns - 1) / kColumns; }

  // `slot`: its place in memory of our own, if it has one.
  ColumnTile tile(int64_t number, int64_t slot) const {
    const int64_t first = number * kColumns, left = spec.wanted_columns.count - first;
    const int count = static_cast<int>(left < kColumns ? left : kColumns);
    if (memory.in_place && count == kColumns) {
      return {first, count, static_cast<S*>(spec.data) + spec.wanted_columns.offset[first]};
    }
    if (memory.in_place) slot = 0;
    return {first, count, reinterpret_cast<S*>(base + memory.slots + slot * memory.tile_bytes)};
  }

  int64_t column(const ColumnTile& tile, int i) const {
    return spec.wanted_columns.index[tile.first + i];
  }

  // The wanted columns that have begun are multiplied by the block of reflectors.
  void apply(const Panel& p, const ColumnTile& tile) const {
    alignas(64) S w[kPanelColumns * kColumns];
    alignas(64) S z[kPanelColumns * kColumns];
    S* const rows = tile.data + p.first * unit * kColumns;
    const bool begins = column(tile, tile.count - 1) < p.first + p.columns / unit;
    memset(rows, 0, (begins ? p.rows : p.columns) * kTileBytes);
    for (int i = 0; i < tile.count; ++i) {
      const int64_t at = (column(tile, i) - p.first) * unit;
      if (at < 0 || at >= p.columns) continue;
      rows[at * kColumns + i] = signs[at];
      if (unit == 2) rows[(at + 1) * kColumns + i] = signs[at + 1];
    }
    const int64_t padded = (p.columns + kTileScalars - 1) / kTileScalars * kTileScalars;
    // All columns that begin here are zero below the panel's top.
    const int64_t height = begins ? p.top : p.rows;
    multiply_transposed<F, kSegmentRows>(panel(), kPanelColumns, padded, rows, kColumns, height, w);
    multiply<F, false>(block(), kPanelColumns, p.columns, w, kColumns, p.columns, z);
    multiply<F, true>(panel(), kPanelColumns, p.columns, z, kColumns, p.rows, rows);
  }

  // Writes a finished tile where it is wanted.
  template <DType dtype>
  void write(const ColumnTile& tile, int64_t thread) const {
    using Out = Storage<dtype>;
    using Code = typename Out::Code;
    const S* from = tile.data;
    if (memory.in_place && tile.count == kColumns) {
      S* const scratch = reinterpret_cast<S*>(base + memory.scratch + thread * memory.tile_bytes);
      memcpy(scratch, tile.data, memory.tile_bytes);
      from = scratch;
    }
    const Side &rows = spec.wanted_rows, &columns = spec.wanted_columns;
    const S gain = static_cast<S>(spec.gain);
    constexpr int64_t kBand = 32;  // rows that stay in the cache for all columns
    for (int64_t begin = 0; begin < rows.count; begin += kBand) {
      const int64_t end = begin + kBand < rows.count ? begin + kBand : rows.count;
      for (int i = 0; i < tile.count; ++i) {
        Code* const out = static_cast<Code*>(spec.data) + columns.offset[tile.first + i];
        for (int64_t r = begin; r < end; ++r) {
          const S* const at = from + rows.index[r] * unit * kColumns + i;
          for (int part = 0; part < unit; ++part) {
            out[rows.offset[r] + part] =
                static_cast<Code>(Out::template encode<S>(at[part * kColumns] * gain));
          }
        }
      }
    }
  }

  S signs[kPanelColumns];
  Twice<S, double> halves[kPanelColumns];

  // The whole of it: as many tiles at a time as memory has room for, each time all blocks.
  void run(const cpu::Parallel& parallel) {
    const int64_t all = tile_count(), most = memory.in_place ? all : memory.tiles;
    for (int64_t from = 0; from < all; from += most) {
      const int64_t to = from + most < all ? from + most : all;
      const ColumnTile last = tile(to - 1, to - 1 - from);
      for (int64_t b = block_of(spec, column(last, last.count - 1)); b >= 0; --b) {
        const Panel p(spec, b);
        parallel.each(p.segments, [&](int64_t segment, int64_t) {
          draw(p, segment);
          multiply_columns(p, segment);
        });
        finish(p);
        int64_t begun = from;
        while (block_of(spec, last_column(begun)) < b) ++begun;
        parallel.each(to - begun,
                      [&](int64_t i, int64_t) { apply(p, tile(begun + i, begun + i - from)); });
      }
      parallel.each(to - from, [&](int64_t i, int64_t thread) {
        const ColumnTile done = tile(from + i, i);
        with_dtype(spec.dtype, [&]<DType dtype> {
          if constexpr (sizeof(typename Storage<dtype>::Compute) == sizeof(S)) {
            write<dtype>(done, thread);
          }
        });
      });
    }
  }

  int64_t last_column(int64_t number) const {
    const ColumnTile at = tile(number, 0);
    return column(at, at.count - 1);
  }
};

inline int64_t orthogonal_memory(const MatrixSpec& spec, int64_t threads) {
  return spec.dtype == DType::kFloat64 ? MatrixMemory<double>(spec, threads).bytes
                                       : MatrixMemory<float>(spec, threads).bytes;
}

inline void orthogonal_matrix(const MatrixSpec& spec, void* workspace,
                              const cpu::Parallel& parallel) {
  if (spec.dtype == DType::kFloat64) {
    OrthogonalMatrix<double>(spec, parallel.threads, workspace).run(parallel);
  } else {
    OrthogonalMatrix<float>(spec, parallel.threads, workspace).run(parallel);
  }
}

}  // namespace FASTINIT_ISA
}  // namespace fastinit
