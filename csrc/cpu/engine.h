// The CPU fill, compiled once for each instruction set (see the small .cpp files beside this one).
// Owns the order in which elements are visited; what an element is, the core says.
#pragma once

#include "../core/lanes.h"
#include "pack.h"
// pack.h first: the core's templates must see its overloads.
#include "../core/dispatch.h"
#include "../core/fill.h"
#include "../kernels.h"
#include "tiles.h"

namespace fastinit {
inline namespace FASTINIT_ISA {

// The even and odd elements of as many blocks as a PackU64 has lanes; a 32-bit lane pair holds a
// block's first two and last two, a 64-bit lane its only two.
template <Distribution distribution, class F>
FASTINIT_HD void draw_blocks(const ResolvedLaw<Scalar<F>>& law, const PhiloxBlock<PackU64>& block,
                             F& even, F& odd) {
  if constexpr (sizeof(Scalar<F>) == 4) {
    draw<distribution, F>(law, merge_low_halves(block.x0, block.x2),
                          merge_low_halves(block.x1, block.x3), even, odd);
  } else {
    const PackU64 low = splat<PackU64>(uint64_t{0xffffffff});
    draw<distribution, F>(law, block.x0 << 32 | (block.x1 & low), block.x2 << 32 | (block.x3 & low),
                          even, odd);
  }
}

// Rows of a mask whose permutations go side by side, and the elements masked at a time.
constexpr int kRowsInStep = 8;
constexpr int64_t kMaskElements = 1 << 18;

// Rows below this many elements are generated several at a time.
constexpr int64_t kShortRow = 1024;

template <Distribution distribution, DType dtype>
struct Filler {
  using Out = Storage<dtype>;
  using Code = typename Out::Code;
  using S = typename Out::Compute;
  using F = typename PackOf<S>::Type;
  using High = CounterHigh<PackU64>;
  static constexpr int kLanes = kPackBytes / sizeof(S);
  static constexpr int kStep = 2 * kLanes;  // elements of a pair of packs
  static constexpr int kStepBlocks = kStep / kBlockElements<S>;
  // Steps whose Philox rounds go side by side; more would spill registers.
  static constexpr int kInStep = kPackBytes < 64                          ? 2
                                 : distribution == Distribution::kUniform ? 6
                                                                          : 4;
  static constexpr int kStride = kInStep * kStep;
  static constexpr bool kNarrow = sizeof(Code) < 4;

  const FillSpec& spec;
  const ResolvedLaw<S> law;
  const KeySchedule keys, mask_keys;

  explicit Filler(const FillSpec& fill)
      : spec(fill), law(resolve<Out>(fill.law, 1.0)), keys(fill.key.seed),
        mask_keys(fill.sparse.key.seed) {}

  // kCount steps of kStep elements, from the blocks `counters` on. The counters of a fill's steps
  // share their upper half.
  template <int kCount>
  FASTINIT_HD void steps(PackU64 counters, const High& high, Code* out) const {
    PackU64 all[kCount];
    Code* outs[kCount];
    for (int i = 0; i < kCount; ++i) {
      all[i] = counters + i * kStepBlocks;
      outs[i] = out + i * kStep;
    }
    steps(all, high, outs);
  }

  // The same for any steps.
  template <int kCount>
  FASTINIT_HD void steps(const PackU64 (&counters)[kCount], const High& high,
                         Code* const (&outs)[kCount]) const {
    PhiloxBlock<PackU64> blocks[kCount];
    philox(counters, high, keys, blocks);
    FASTINIT_UNROLL
    for (int i = 0; i < kCount; ++i) {
      Code* out = outs[i];
      F even, odd;
      draw_blocks<distribution, F>(law, blocks[i], even, odd);
      if constexpr (kNarrow) {
        store_pairs(out, Out::encode(even), Out::encode(odd));
      } else {
        F lower, upper;
        interleave(even, odd, lower, upper);
        store_codes(out, Out::encode(lower), Out::encode(upper));
      }
    }
  }

  // The counter of the block that element `index` lies in.
  FASTINIT_HD uint64_t counter_of(uint64_t index) const {
    return spec.key.offset + index / kBlockElements<S>;
  }

  FASTINIT_HD High high_of(uint64_t counter) const {
    return counter_high(splat<PackU64>(counter), keys);
  }

  FASTINIT_HD PackU64 counters_from(uint64_t counter) const {
    return counter + counter_lanes<!kNarrow>();
  }

  // The `count` <= kStep - skip elements behind the first `skip` of a step.
  void partial_step(uint64_t counter, const High& high, int64_t skip, int64_t count,
                    Code* out) const {
    alignas(64) Code buffer[kStep];
    steps<1>(counters_from(counter), high, buffer);
    memcpy(out, buffer + skip, static_cast<size_t>(count) * sizeof(Code));
  }

  // Elements [index, index + count) of the stream to consecutive memory.
  __attribute__((noinline)) void run(uint64_t index, int64_t count, Code* out) const {
    uint64_t counter = counter_of(index);
    const int64_t skip = static_cast<int64_t>(index % kBlockElements<S>);
    const int64_t low_blocks = (int64_t{1} << 32) - static_cast<uint32_t>(counter);
    const int64_t with_this_high = low_blocks * kBlockElements<S> - skip;
    if (count > with_this_high) {
      run(index + static_cast<uint64_t>(with_this_high), count - with_this_high,
          out + with_this_high);
      count = with_this_high;
    }
    const High high = high_of(counter);
    if (skip != 0) {
      const int64_t head = kStep - skip < count ? kStep - skip : count;
      partial_step(counter, high, skip, head, out);
      counter += kStepBlocks;
      out += head;
      count -= head;
    }
    PackU64 counters = counters_from(counter);
    for (; count >= kStride; count -= kStride, out += kStride) {
      steps<kInStep>(counters, high, out);
      counters += kInStep * kStepBlocks;
    }
    for (; count >= kStep; count -= kStep, out += kStep) {
      steps<1>(counters, high, out);
      counters += kStepBlocks;
    }
    if (count > 0) partial_step(counters[0], high, 0, count, out);
  }

  // Rows of a rectangle, `row_step` apart in the stream and `stride` in memory.
  void run_rows(uint64_t index, uint64_t row_step, int64_t rows, int64_t columns, Code* out,
                int64_t stride) const {
    if (columns < kShortRow && rows > 1) {
      const uint64_t last =
          index + static_cast<uint64_t>(rows - 1) * row_step + static_cast<uint64_t>(columns - 1);
      if (counter_of(index) >> 32 == counter_of(last) >> 32) {
        return run_short_rows(index, row_step, rows, columns, out, stride);
      }
      const int64_t half = rows / 2;
      run_rows(index, row_step, half, columns, out, stride);
      return run_rows(index + static_cast<uint64_t>(half) * row_step, row_step, rows - half,
                      columns, out + half * stride, stride);
    }
    for (int64_t r = 0; r < rows; ++r) {
      run(index + static_cast<uint64_t>(r) * row_step, columns, out + r * stride);
    }
  }

  // Steps of several rows that go side by side, as those of one long row do.
  struct WholeSteps {
    PackU64 counters[kInStep];
    Code* outs[kInStep];
    int size = 0;
  };

  // Blocks of several rows, generated together and then cut to the rows, so that lanes are not
  // wasted on what lies between them.
  struct CutBlocks {
    static constexpr int64_t kBlocks = 256;
    struct Piece {
      int64_t first, count;  // of codes
      Code* out;
    };
    alignas(64) uint64_t counters[kBlocks + kLanes64] = {};
    alignas(64) Code codes[kBlocks * kBlockElements<S>];
    Piece pieces[kBlocks];
    int64_t blocks = 0, size = 0;
  };

  // The counters of the whole rectangle share their upper half.
  __attribute__((noinline)) void run_short_rows(uint64_t index, uint64_t row_step, int64_t rows,
                                                int64_t columns, Code* out, int64_t stride) const {
    WholeSteps whole;
    CutBlocks cut;
    const High high = high_of(counter_of(index));
    for (int64_t r = 0; r < rows; ++r, index += row_step, out += stride) {
      uint64_t counter = counter_of(index);
      const int64_t skip = static_cast<int64_t>(index % kBlockElements<S>);
      int64_t done = 0;
      if (skip != 0 && columns > 2 * kStep) {
        done = kBlockElements<S> - skip;
        cut_run(counter++, high, skip, done, out, cut);
      }
      if (skip == 0 || done > 0) {
        for (; columns - done >= kStep; done += kStep, counter += kStepBlocks) {
          whole.counters[whole.size] = counters_from(counter);
          whole.outs[whole.size] = out + done;
          if (++whole.size == kInStep) {
            steps(whole.counters, high, whole.outs);
            whole.size = 0;
          }
        }
      }
      if (done < columns) {
        cut_run(counter, high, done == 0 ? skip : 0, columns - done, out + done, cut);
      }
    }
    for (int i = 0; i < whole.size; ++i) steps<1>(whole.counters[i], high, whole.outs[i]);
    flush(cut, high);
  }

  // `count` elements behind the first `skip` of block `counter`.
  void cut_run(uint64_t counter, const High& high, int64_t skip, int64_t count, Code* out,
               CutBlocks& cut) const {
    constexpr int64_t kElements = kBlockElements<S>;
    for (int64_t taken = 0; count > 0; skip = 0, count -= taken, out += taken) {
      int64_t blocks = (skip + count + kElements - 1) / kElements;
      if (blocks > CutBlocks::kBlocks - cut.blocks) blocks = CutBlocks::kBlocks - cut.blocks;
      taken = blocks * kElements - skip < count ? blocks * kElements - skip : count;
      for (int64_t i = 0; i < blocks; i += kLanes64) {  // and a few more, for the next to overwrite
        const PackU64 next = counter + static_cast<uint64_t>(i) + counter_lanes<false>();
        memcpy(cut.counters + cut.blocks + i, &next, sizeof(next));
      }
      counter += static_cast<uint64_t>(blocks);
      cut.pieces[cut.size++] = {cut.blocks * kElements + skip, taken, out};
      cut.blocks += blocks;
      if (cut.blocks == CutBlocks::kBlocks) flush(cut, high);
    }
  }

  void flush(CutBlocks& cut, const High& high) const {
    int64_t b = 0;
    for (; b + kInStep * kStepBlocks <= cut.blocks; b += kInStep * kStepBlocks) {
      listed_steps<kInStep>(cut, high, b);
    }
    for (; b < cut.blocks; b += kStepBlocks)
      listed_steps<1>(cut, high, b);  // with any blocks behind
    for (int64_t i = 0; i < cut.size; ++i) {
      const typename CutBlocks::Piece& piece = cut.pieces[i];
      copy_codes(piece.out, cut.codes + piece.first, piece.count);
    }
    cut.blocks = cut.size = 0;
  }

  template <int kCount>
  FASTINIT_HD void listed_steps(CutBlocks& cut, const High& high, int64_t first) const {
    PackU64 counters[kCount];
    Code* outs[kCount];
    for (int i = 0; i < kCount; ++i) {
      memcpy(&counters[i], cut.counters + first + i * kStepBlocks, sizeof(counters[i]));
      if constexpr (!kNarrow) counters[i] = interleave_halves(counters[i]);
      outs[i] = cut.codes + first * kBlockElements<S> + i * kStep;
    }
    steps(counters, high, outs);
  }

  // memcpy without the call, whose cost would show for pieces of few elements.
  static FASTINIT_HD void copy_codes(Code* out, const Code* from, int64_t count) {
    if (copy_parts<kPackBytes>(out, from, count) || copy_parts<32>(out, from, count) ||
        copy_parts<16>(out, from, count) || copy_parts<8>(out, from, count)) {
      return;
    }
    for (int64_t i = 0; i < count; ++i) {
      out[i] = from[i];
      asm volatile("");  // or else the compiler makes it a call
    }
  }

  template <int kBytes>
  static FASTINIT_HD bool copy_parts(Code* out, const Code* from, int64_t count) {
    constexpr int64_t kPart = kBytes / sizeof(Code);
    if (count < kPart) return false;
    for (int64_t i = 0; i < count - kPart; i += kPart) memcpy(out + i, from + i, kBytes);
    memcpy(out + count - kPart, from + count - kPart, kBytes);
    return true;
  }

  // Memory order is stream order in the last dimension: items are elements.
  void fill_runs(int64_t begin, int64_t end) const {
    const Layout& layout = spec.layout;
    const int64_t length = layout.size[layout.ndim - 1];
    Code* data = static_cast<Code*>(spec.data);
    const int row_dim = layout.ndim - 2;
    while (begin < end) {
      const Position position = position_of(layout, begin);
      const int64_t rest = length - begin % length;
      int64_t columns = rest < end - begin ? rest : end - begin, rows = 1;
      if (spec.sparse.zeros > 0 && columns > kMaskElements) columns = kMaskElements;
      if (columns == length && row_dim >= 0) {
        const int64_t rows_left = layout.size[row_dim] - begin / length % layout.size[row_dim];
        rows = (end - begin) / length;
        if (rows > rows_left) rows = rows_left;
        if (spec.sparse.zeros > 0) {  // a piece that stays in the cache until it has been masked
          if (rows * length > kMaskElements) rows = (kMaskElements + length - 1) / length;
          if (layout.global_stride[row_dim] != static_cast<uint64_t>(row_elements())) rows = 1;
        }
      }
      const int64_t stride = rows > 1 ? layout.stride[row_dim] : 0;
      const uint64_t row_step = rows > 1 ? layout.global_stride[row_dim] : 0;
      Code* out = data + position.memory;
      run_rows(position.stream, row_step, rows, columns, out, stride);
      if (spec.sparse.zeros > 0 && rows > 1) {
        mask_rectangle(position.stream, rows, columns, out, stride);
      } else {
        mask_run(position.stream, columns, out);
      }
      begin += rows * columns;
    }
  }

  // Elements of a row of the global matrix, real numbers.
  int64_t row_elements() const { return spec.sparse.cols * (spec.law.complex ? 2 : 1); }

  // Masks consecutive elements, if there is a mask: the end of a row, whole rows, the start of one.
  void mask_run(uint64_t index, int64_t count, Code* out) const {
    while (spec.sparse.zeros > 0 && count > 0) {
      const int64_t width = row_elements();
      const auto column = static_cast<int64_t>(index % static_cast<uint64_t>(width));
      const int64_t columns = width - column < count ? width - column : count;
      const int64_t rows = columns == width ? count / width : 1;
      mask_rectangle(index, rows, columns, out, width);
      index += static_cast<uint64_t>(rows * columns);
      out += rows * columns;
      count -= rows * columns;
    }
  }

  // Zeroes what the mask zeroes in `rows` x `columns` elements whose first has number `index`.
  __attribute__((noinline)) void mask_rectangle(uint64_t index, int64_t rows, int64_t columns,
                                                Code* out, int64_t stride) const {
    typedef Code Codes __attribute__((vector_size(kLanes32 * sizeof(Code))));
    const uint64_t first_row = index / static_cast<uint64_t>(row_elements());
    const uint64_t first_column = index % static_cast<uint64_t>(row_elements());
    const SparseDomain domain(spec.sparse.rows, spec.sparse.zeros);
    for (int64_t j = 0; j < columns; j += kLanes32) {
      const SparseColumn<PackU32> column = sparse_column(first_column + static_cast<uint64_t>(j));
      const size_t bytes =
          static_cast<size_t>(columns - j < kLanes32 ? columns - j : kLanes32) * sizeof(Code);
      for (int64_t r = 0; r < rows; r += kRowsInStep) {
        PackU32 x[kRowsInStep];
        for (int i = 0; i < kRowsInStep; ++i) {  // beyond the last row: any row will do
          x[i] = splat<PackU32>(static_cast<uint32_t>(first_row) +
                                static_cast<uint32_t>(r + i < rows ? r + i : r));
        }
        permute_rows(column, domain, x);
        for (int i = 0; i < kRowsInStep && r + i < rows; ++i) {
          const Codes keep = __builtin_convertvector((PackI32)(x[i] >= domain.zeros), Codes);
          Codes codes{};
          Code* at = out + (r + i) * stride + j;
          memcpy(&codes, at, bytes);
          codes &= keep;  // a code of zeros is a zero
          memcpy(at, &codes, bytes);
        }
      }
    }
  }

  // Of the columns that kLanes32 elements of a row, from number `first` on, lie in.
  FASTINIT_HD SparseColumn<PackU32> sparse_column(uint64_t first) const {
    const int complex = spec.law.complex ? 1 : 0;
    const PackU64 elements = first + 2 * counter_lanes<false>();  // in the even 32-bit lanes
    const auto even = philox(spec.sparse.key.offset + (elements >> complex), mask_keys);
    const auto odd = philox(spec.sparse.key.offset + ((elements + 1) >> complex), mask_keys);
    const PackU32 words[4] = {merge_low_halves(even.x0, odd.x0), merge_low_halves(even.x1, odd.x1),
                              merge_low_halves(even.x2, odd.x2), merge_low_halves(even.x3, odd.x3)};
    return SparseColumn<PackU32>(words);
  }

  // Elsewhere items are tiles, generated along the stream and stored along memory.
  void fill_tiles(int64_t begin, int64_t end) const {
    const Tiling tiling(spec.layout);
    Code* data = static_cast<Code*>(spec.data);
    alignas(64) Code buffer[kTileElements];
    for (int64_t item = begin; item < end; ++item) {
      const Tile tile = tiling.tile(item);
      if (tile.row_stream_step == static_cast<uint64_t>(tile.columns)) {
        run(tile.origin.stream, tile.rows * tile.columns, buffer);
        mask_run(tile.origin.stream, tile.rows * tile.columns, buffer);
      } else {
        run_rows(tile.origin.stream, tile.row_stream_step, tile.rows, tile.columns, buffer,
                 tile.columns);
        for (int64_t r = 0; r < tile.rows; ++r) {
          mask_run(tile.origin.stream + static_cast<uint64_t>(r) * tile.row_stream_step,
                   tile.columns, buffer + r * tile.columns);
        }
      }
      for (int64_t c = 0; c < tile.columns; ++c) {
        Code* out = data + tile.origin.memory + c * tile.column_stride;
        for (int64_t r = 0; r < tile.rows; ++r) {
          out[r * tile.row_stride] = buffer[r * tile.columns + c];
        }
      }
    }
  }
};

template <Distribution distribution, DType dtype>
void fill_typed(const FillSpec& spec, int64_t begin, int64_t end) {
  const Filler<distribution, dtype> filler(spec);
  if (Tiling::needed(spec.layout)) {
    filler.fill_tiles(begin, end);
  } else {
    filler.fill_runs(begin, end);
  }
}

inline void fill_items(const FillSpec& spec, int64_t begin, int64_t end) {
  with_kind(spec, [&]<Distribution distribution, DType dtype> {
    fill_typed<distribution, dtype>(spec, begin, end);
  });
}

}  // namespace FASTINIT_ISA
}  // namespace fastinit
