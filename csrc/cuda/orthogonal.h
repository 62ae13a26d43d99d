// Orthogonal matrices by CUDA: the bodies of the kernels and their order. First, for all blocks of
// reflectors at a time, the wide products of their columns, the heads of the vectors and T; then Q
// is begun, and block after block, from the last, is drawn again and applied to the columns that
// have begun. Owns the division of that work among thread blocks; the numbers are those of
// core/reflectors.h, and docs/stream.md says which sums there are and in which order.
#pragma once

#include "multiply.h"

namespace fastinit::cuda {

// ------------------------------------------------------------------------ blocks of reflectors

// Sums of products of 16 x 16 pairs of columns, over all rows of a panel below its top.
template <class S>
struct MultiplyColumns {
  static constexpr int kPairs = 16, kStrips = kPanelColumns / kPairs;
  static constexpr int kTiles = kStrips * (kStrips + 1) / 2;
  static constexpr int kRows = 32;  // at a time
  static constexpr int kOwn = kPairs * kPairs / kBlockThreads;
  static_assert(kSegmentRows % kRows == 0 && kPanelColumns % kRows == 0);

  static constexpr int kResident = kManyBlocks;

  struct Shared {
    Prepared<S> normal;
    double strip[2][kRows][kPairs];
  };
  struct Registers {
    Twice<S, double> sum[kOwn], total[kOwn];
  };

  MatrixJob<S> job;

  int64_t blocks() const { return job.count * job.plan.blocks * kTiles; }

  FASTINIT_ANY_CALLEE
  template <class Block>
  FASTINIT_HD void run(Block& block, int64_t number) const {
    int tile = static_cast<int>(number % kTiles), first = 0;
    while (tile >= kStrips - first) tile -= kStrips - first++;
    const int left_column = first * kPairs, right_column = (first + tile) * kPairs;
    const int64_t of_matrix = number / kTiles, matrix = of_matrix / job.plan.blocks;
    const int64_t of_block = of_matrix % job.plan.blocks;
    const MatrixSpec& spec = job.spec(matrix);
    const Panel panel(spec, of_block);
    if (right_column >= panel.columns) return;
    block.each([&](int thread, Registers&) {
      if (thread == 0) block.shared.normal = standard_normal<S>(spec);
    });
    FASTINIT_NO_UNROLL
    for (int64_t row = panel.top; row < panel.rows; row += kRows) {
      const int64_t left = panel.rows - row;
      const int count = static_cast<int>(left < kRows ? left : kRows);
      block.each([&](int thread, Registers&) {
        FASTINIT_NO_UNROLL
        for (int side = 0; side < (tile == 0 ? 1 : 2); ++side) {
          const int begin = side == 0 ? left_column : right_column;
          const PanelDraw<S> draw{spec, panel, block.shared.normal, nullptr, begin, begin + kPairs};
          const int units = draw.units_of_row(), rows = count / panel.unit;
          FASTINIT_NO_UNROLL
          for (int i = thread; i < rows * units; i += kBlockThreads) {
            draw.unit(
                row / panel.unit + i / units, i % units, [&](int64_t at, int column, S value) {
                  block.shared.strip[side][at - row][column - begin] = static_cast<double>(value);
                });
          }
        }
      });
      block.each([&](int thread, Registers& registers) {
        const int i = thread / (kPairs / kOwn), j = thread % (kPairs / kOwn) * kOwn;
        if (row == panel.top || row % kSegmentRows == 0) {
          for (auto& sum : registers.sum) sum = {};
        }
        const auto& right = block.shared.strip[tile == 0 ? 0 : 1];
        FASTINIT_NO_UNROLL
        for (int r = 0; r < count; ++r) {
          FASTINIT_UNROLL
          for (int own = 0; own < kOwn; ++own) {
            registers.sum[own].add_product(block.shared.strip[0][r][i], right[r][j + own]);
          }
        }
        if (left <= kRows || (row + kRows) % kSegmentRows == 0) {
          for (int own = 0; own < kOwn; ++own) registers.total[own].add(registers.sum[own]);
        }
      });
    }
    block.each([&](int thread, Registers& registers) {
      const int i = thread / (kPairs / kOwn), j = thread % (kPairs / kOwn) * kOwn;
      for (int own = 0; own < kOwn; ++own) {
        store_wide(job.sum_at(matrix, of_block, left_column + i, right_column + j + own),
                   registers.total[own]);
      }
    });
  }
};

// The heads of a block's vectors, and T.
template <class S>
struct FinishBlock {
  using Sum = Twice<S, double>;
  static constexpr int kSize = kPanelColumns, kPairs = kSize * (kSize + 1) / 2;

  static constexpr int kResident = kManyBlocks;

  struct Shared {
    Prepared<S> normal;
    double half[kSize][Sum::kWords];  // then the inverses of the diagonal
    union {
      S top[kSize][kSize + 1];
      double upper[Sum::kWords][kPairs];  // U, and T in its place, row by row
    };
  };
  struct Registers {
    Sum sum;
  };

  MatrixJob<S> job;

  int64_t blocks() const { return job.count * job.plan.blocks; }

  static FASTINIT_HD int place(int i, int j) { return i * kSize - i * (i - 1) / 2 + j - i; }
  static FASTINIT_HD Sum load(const Shared& shared, int i, int j) {
    Sum sum;
    sum.high = shared.upper[0][place(i, j)];
    if constexpr (Sum::kWords == 2) sum.low = shared.upper[1][place(i, j)];
    return sum;
  }
  static FASTINIT_HD void store(Shared& shared, int i, int j, const Sum& sum) {
    shared.upper[0][place(i, j)] = sum.high;
    if constexpr (Sum::kWords == 2) shared.upper[1][place(i, j)] = sum.low;
  }

  FASTINIT_ANY_CALLEE
  template <class Block>
  FASTINIT_HD void run(Block& block, int64_t number) const {
    const int64_t matrix = number / job.plan.blocks, of_block = number % job.plan.blocks;
    const MatrixSpec& spec = job.spec(matrix);
    const Panel panel(spec, of_block);
    Shared& shared = block.shared;
    block.each([&](int thread, Registers&) {
      if (thread == 0) shared.normal = standard_normal<S>(spec);
    });
    block.each([&](int thread, Registers&) {
      const PanelDraw<S> draw{spec, panel, shared.normal, nullptr, 0, kSize};
      const int units = draw.units_of_row(), rows = panel.top / panel.unit;
      FASTINIT_NO_UNROLL
      for (int i = thread; i < rows * units; i += kBlockThreads) {
        draw.unit(i / units, i % units,
                  [&](int64_t row, int column, S value) { shared.top[row][column] = value; });
      }
    });
    block.each([&](int thread, Registers&) { set_head(matrix, of_block, panel, shared, thread); });
    block.each([&](int thread, Registers&) {
      for (int i = thread; i < kSize * kSize; i += kBlockThreads) {
        if (i / kSize <= i % kSize) add_top(matrix, of_block, panel, shared, i / kSize, i % kSize);
      }
    });
    block.each([&](int thread, Registers&) {
      for (int i = thread; i < kSize * kSize; i += kBlockThreads) {
        const int row = i / kSize, column = i % kSize;
        if (row > column || column >= panel.columns) continue;
        store(shared, row, column, load_wide<S>(job.sum_at(matrix, of_block, row, column)));
      }
      if (thread < panel.columns) {
        store_wide(shared.half[thread], load_wide<S>(shared.half[thread]).inverse());
      }
    });
    for (int i = panel.columns - 1; i >= 0; --i) {
      block.each([&](int j, Registers& registers) {
        if (j < i || j >= panel.columns) return;
        const Sum inverse = load_wide<S>(shared.half[i]);
        Sum sum;
        FASTINIT_NO_UNROLL
        for (int l = i + 1; l <= j; ++l) sum.add_product(load(shared, i, l), load(shared, l, j));
        registers.sum = j == i ? inverse : sum.times(inverse.negative());
      });
      block.each([&](int j, Registers& registers) {
        if (i <= j && j < panel.columns) store(shared, i, j, registers.sum);
      });
    }
    block.each([&](int thread, Registers&) {
      S* const out = job.inverse(matrix, of_block);
      for (int i = thread; i < kSize * kSize; i += kBlockThreads) {
        const int row = i / kSize, column = i % kSize;
        const bool inside = row <= column && column < panel.columns;
        out[i] = inside ? static_cast<S>(load(shared, row, column).value()) : S{0};
      }
    });
  }

  FASTINIT_HD void set_head(int64_t matrix, int64_t of_block, const Panel& panel, Shared& shared,
                            int column) const {
    const int unit = panel.unit;
    if (column >= panel.columns || column % unit != 0) return;
    Sum behind = load_wide<S>(job.sum_at(matrix, of_block, column, column));
    FASTINIT_NO_UNROLL
    for (int row = column + unit; row < panel.top; ++row) {
      const double x = static_cast<double>(shared.top[row][column]);
      behind.add_product(x, x);
    }
    S(&top)[kSize][kSize + 1] = shared.top;
    const Head<S> head(unit == 2, top[column][column], unit == 2 ? top[column + 1][column] : S{0},
                       behind);
    put_head(matrix, of_block, shared, column, head.real, head.sign_real, head.half);
    top[column][column] = head.real;
    if (unit == 1) return;
    put_head(matrix, of_block, shared, column + 1, head.imaginary, head.sign_imaginary, head.half);
    top[column][column + 1] = -head.imaginary;
    top[column + 1][column] = head.imaginary;
    top[column + 1][column + 1] = head.real;
  }
  FASTINIT_HD void put_head(int64_t matrix, int64_t of_block, Shared& shared, int column, S head,
                            S sign, const Sum& half) const {
    job.heads(matrix, of_block)[column] = head;
    job.signs(matrix)[of_block * kPanelColumns + column] = sign;
    store_wide(shared.half[column], half);
  }

  // Adds the top of the panel to the products of two columns; what belongs to one reflector is
  // known.
  FASTINIT_HD void add_top(int64_t matrix, int64_t of_block, const Panel& panel,
                           const Shared& shared, int i, int j) const {
    if (j >= panel.columns) return;
    double* const at = job.sum_at(matrix, of_block, i, j);
    Sum sum;
    if (i == j) {
      sum = load_wide<S>(shared.half[i]);
    } else if (i / panel.unit != j / panel.unit) {
      sum = load_wide<S>(at);
      FASTINIT_NO_UNROLL
      for (int row = j / panel.unit * panel.unit; row < panel.top; ++row) {
        sum.add_product(static_cast<double>(shared.top[row][i]),
                        static_cast<double>(shared.top[row][j]));
      }
    }
    store_wide(at, sum);
  }
};

// ------------------------------------------------------------------------------------ tiles

// A tile of elements, whose threads go along memory: calls use(row, column), for those there are.
template <class Use>
FASTINIT_HD void each_of_tile(int64_t rows, int64_t columns, bool along_rows, int64_t row_tile,
                              int64_t column_tile, int thread, const Use& use) {
  FASTINIT_NO_UNROLL
  for (int i = thread; i < kTile * kTile; i += kBlockThreads) {
    const int64_t row = row_tile * kTile + (along_rows ? i % kTile : i / kTile);
    const int64_t column = column_tile * kTile + (along_rows ? i / kTile : i % kTile);
    if (row < rows && column < columns) use(row, column);
  }
}

// Q as it begins: where a reflector sends its axis.
template <class S>
struct BeginMatrix {
  static constexpr int kResident = kManyBlocks;
  struct Shared {};
  struct Registers {};

  MatrixJob<S> job;

  int64_t blocks() const {
    return job.count * tiles_of(job.plan.rows) * tiles_of(job.plan.columns);
  }

  FASTINIT_ANY_CALLEE
  template <class Block>
  FASTINIT_HD void run(Block& block, int64_t number) const {
    const MatrixPlan<S>& plan = job.plan;
    const TileNumber tile(number, tiles_of(plan.rows), tiles_of(plan.columns));
    const Side& columns = job.spec(tile.matrix).wanted_columns;
    const S* const signs = job.signs(tile.matrix);
    const View<S> q = job.q(tile.matrix);
    block.each([&](int thread, Registers&) {
      each_of_tile(plan.rows, plan.columns, plan.along_rows, tile.row, tile.column, thread,
                   [&](int64_t row, int64_t column) {
                     const bool begins = row / plan.unit == number_of(columns, column);
                     q.at(row, column) = begins ? signs[row] : S{0};
                   });
    });
  }
};

// The panel of a block of reflectors.
template <class S>
struct DrawPanel {
  static constexpr int kRows = 32;  // of the matrix, a thread block

  static constexpr int kResident = kManyBlocks;

  struct Shared {
    Prepared<S> normal;
  };
  struct Registers {};

  MatrixJob<S> job;
  Panel panel;
  int64_t of_block;

  FASTINIT_HD int64_t shares() const { return (panel.rows / panel.unit + kRows - 1) / kRows; }
  int64_t blocks() const { return job.count * shares(); }

  FASTINIT_ANY_CALLEE
  template <class Block>
  FASTINIT_HD void run(Block& block, int64_t number) const {
    const int64_t matrix = number / shares(), first = number % shares() * kRows;
    const MatrixSpec& spec = job.spec(matrix);
    S* const out = job.panel(matrix);
    block.each([&](int thread, Registers&) {
      if (thread == 0) block.shared.normal = standard_normal<S>(spec);
    });
    block.each([&](int thread, Registers&) {
      const PanelDraw<S> draw{spec, panel,        block.shared.normal, job.heads(matrix, of_block),
                              0,    kPanelColumns};
      const int units = draw.units_of_row();
      const int64_t left = panel.rows / panel.unit - first;
      const int rows = static_cast<int>(left < kRows ? left : kRows);
      FASTINIT_NO_UNROLL
      for (int i = thread; i < rows * units; i += kBlockThreads) {
        draw.unit(first + i / units, i % units, [&](int64_t row, int column, S value) {
          out[row * kPanelColumns + column] = value;
        });
      }
    });
  }
};

// ----------------------------------------------------------------------------------- the end

// The wanted rows, times gain, as the tensor's dtype holds them.
template <DType dtype>
struct WriteMatrix {
  using S = Compute<dtype>;
  static constexpr int kResident = kManyBlocks;
  struct Shared {};
  struct Registers {};

  MatrixJob<S> job;

  FASTINIT_HD int64_t rows() const { return job.only.wanted_rows.count * job.plan.unit; }
  int64_t blocks() const { return job.count * tiles_of(rows()) * tiles_of(job.plan.columns); }

  FASTINIT_ANY_CALLEE
  template <class Block>
  FASTINIT_HD void run(Block& block, int64_t number) const {
    const MatrixPlan<S>& plan = job.plan;
    const TileNumber tile(number, tiles_of(rows()), tiles_of(plan.columns));
    const MatrixSpec& spec = job.spec(tile.matrix);
    const View<S> q = job.q(tile.matrix);
    Code<dtype>* const out = static_cast<Code<dtype>*>(spec.data);
    const S gain = static_cast<S>(spec.gain * scale_factor(spec.device));
    block.each([&](int thread, Registers&) {
      each_of_tile(rows(), plan.columns, plan.along_rows, tile.row, tile.column, thread,
                   [&](int64_t row, int64_t column) {
                     const int64_t number = row / plan.unit, part = row % plan.unit;
                     const int64_t of_q = number_of(spec.wanted_rows, number) * plan.unit + part;
                     const int64_t place = offset_of(spec.wanted_rows, number) + part +
                                           offset_of(spec.wanted_columns, column);
                     const S value = q.at(of_q, column) * gain;
                     out[place] = static_cast<Code<dtype>>(Storage<dtype>::encode(value));
                   });
    });
  }
};

// All kernels in their order; launch(body) runs the thread blocks of one.
template <class S, class Launch>
void run_matrices(const MatrixJob<S>& job, const Launch& launch) {
  const MatrixSpec& spec = job.only;
  launch(MultiplyColumns<S>{job});
  launch(FinishBlock<S>{job});
  launch(BeginMatrix<S>{job});
  int64_t begun = job.plan.columns;  // the first column that has
  for (int64_t of_block = job.plan.blocks - 1; of_block >= 0; --of_block) {
    const Panel panel(spec, of_block);
    while (begun > 0 && number_of(spec.wanted_columns, begun - 1) >= panel.first) --begun;
    if (begun == job.plan.columns) continue;
    const BlockProduct<S> product{job, panel, of_block, begun / kTile};
    launch(DrawPanel<S>{job, panel, of_block});
    launch(ProjectColumns<S>{product});
    launch(ScaleProjections<S>{product});
    launch(ReflectColumns<S>{product});
  }
  const bool done = job.plan.in_place && spec.gain == 1.0 && spec.device.scale == nullptr;
  if (done) return;
  with_dtype(spec.dtype, [&]<DType dtype> {
    if constexpr (sizeof(Compute<dtype>) == sizeof(S)) launch(WriteMatrix<dtype>{job});
  });
}

// Calls run(MatrixJob<S>) for matrices of one shape and part, of which `specs` are on the host and
// `table`, unless none is needed, in memory of the device.
template <class Run>
void with_job(const MatrixSpec* specs, const void* table, int64_t count, void* memory,
              const Run& run) {
  const auto* const there = static_cast<const MatrixSpec*>(table);
  const auto make = [&]<class S>(S) {
    run(MatrixJob<S>{MatrixPlan<S>(*specs), *specs, there, count, static_cast<char*>(memory)});
  };
  if (specs->dtype == DType::kFloat64) {
    make(double{});
  } else {
    make(float{});
  }
}

}  // namespace fastinit::cuda
