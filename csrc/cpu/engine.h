// The CPU fill, compiled once for each instruction set (see the small .cpp files beside this one).
// Owns the order in which elements are visited; what an element is, the core says.
#pragma once

#include "../core/lanes.h"
#include "pack.h"
// pack.h first: the core's templates must see its overloads.
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

// Steps whose Philox rounds go side by side; more would spill registers.
constexpr int kInStep = kPackBytes == 64 ? 4 : 2;

template <Distribution distribution, DType dtype>
struct Filler {
  using Out = Storage<dtype>;
  using Code = typename Out::Code;
  using S = typename Out::Compute;
  using F = typename PackOf<S>::Type;
  static constexpr int kLanes = kPackBytes / sizeof(S);
  static constexpr int kStep = 2 * kLanes;  // elements of a pair of packs
  static constexpr int kStepBlocks = kStep / kBlockElements<S>;
  static constexpr int kStride = kInStep * kStep;

  static constexpr bool kNarrow = sizeof(Code) < 4;

  const FillSpec& spec;
  const ResolvedLaw<S> law;
  const KeySchedule keys, mask_keys;

  explicit Filler(const FillSpec& fill)
      : spec(fill), law(resolve<Out>(fill.law, 1.0)), keys(fill.key.seed),
        mask_keys(fill.sparse.key.seed) {}

  // kCount steps of kStep elements, from the blocks `counters` on.
  template <int kCount>
  FASTINIT_HD void steps(PackU64 counters, Code* out) const {
    PhiloxBlock<PackU64> blocks[kCount];
    for (int i = 0; i < kCount; ++i) blocks[i] = counter_block(counters + i * kStepBlocks);
    philox(blocks, keys);
    FASTINIT_UNROLL
    for (int i = 0; i < kCount; ++i, out += kStep) {
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

  FASTINIT_HD PackU64 counters_from(uint64_t counter) const {
    return counter + counter_lanes<!kNarrow>();
  }

  // The `count` <= kStep - skip elements behind the first `skip` of a step.
  void partial_step(uint64_t counter, int64_t skip, int64_t count, Code* out) const {
    alignas(64) Code buffer[kStep];
    steps<1>(counters_from(counter), buffer);
    memcpy(out, buffer + skip, static_cast<size_t>(count) * sizeof(Code));
  }

  // Elements [index, index + count) of the stream to consecutive memory.
  __attribute__((noinline)) void run(uint64_t index, int64_t count, Code* out) const {
    uint64_t counter = spec.key.offset + index / kBlockElements<S>;
    const int64_t skip = static_cast<int64_t>(index % kBlockElements<S>);
    if (skip != 0) {
      const int64_t head = kStep - skip < count ? kStep - skip : count;
      partial_step(counter, skip, head, out);
      counter += kStepBlocks;
      out += head;
      count -= head;
    }
    PackU64 counters = counters_from(counter);
    for (; count >= kStride; count -= kStride, out += kStride) {
      steps<kInStep>(counters, out);
      counters += kInStep * kStepBlocks;
    }
    for (; count >= kStep; count -= kStep, out += kStep) {
      steps<1>(counters, out);
      counters += kStepBlocks;
    }
    if (count > 0) partial_step(counters[0], 0, count, out);
  }

  // The same with the sparse mask, if there is one.
  void masked_run(uint64_t index, int64_t count, Code* out) const {
    run(index, count, out);
    if (spec.sparse.zeros > 0) zero_masked(index, count, out);
  }

  __attribute__((noinline)) void zero_masked(uint64_t index, int64_t count, Code* out) const {
    const int complex = spec.law.complex ? 1 : 0;
    const uint64_t row_elements = static_cast<uint64_t>(spec.sparse.cols) << complex;
    const int bits = row_bits(spec.sparse.rows);
    while (count > 0) {
      const uint64_t row = index / row_elements, first = index % row_elements;
      const int64_t in_row = static_cast<int64_t>(row_elements - first);
      const int64_t n = in_row < count ? in_row : count;
      for (int64_t j = 0; j < n; j += kLanes32) {
        zero_masked_columns(row, first + j, complex, bits, n - j < kLanes32 ? n - j : kLanes32,
                            out + j);
      }
      index += n;
      count -= n;
      out += n;
    }
  }

  void zero_masked_columns(uint64_t row, uint64_t first, int complex, int bits, int64_t count,
                           Code* out) const {
    PackU64 even{}, odd{};  // the columns of the even and odd 32-bit lanes
    for (int i = 0; i < kLanes64; ++i) {
      even[i] = (first + 2 * i) >> complex;
      odd[i] = (first + 2 * i + 1) >> complex;
    }
    const auto a = philox(counter_block(spec.sparse.key.offset + even), mask_keys);
    const auto b = philox(counter_block(spec.sparse.key.offset + odd), mask_keys);
    const PackU32 words[4] = {merge_low_halves(a.x0, b.x0), merge_low_halves(a.x1, b.x1),
                              merge_low_halves(a.x2, b.x2), merge_low_halves(a.x3, b.x3)};
    const PackI32 zero = (PackI32)is_sparse_zero(words, splat<PackU32>(static_cast<uint32_t>(row)),
                                                 spec.sparse.rows, spec.sparse.zeros, bits);
    for (int i = 0; i < count; ++i) {
      if (zero[i] != 0) out[i] = 0;
    }
  }

  // Memory order is stream order in the last dimension: items are elements.
  void fill_runs(int64_t begin, int64_t end) const {
    const Layout& layout = spec.layout;
    const int64_t length = layout.ndim == 0 ? 1 : layout.size[layout.ndim - 1];
    Code* data = static_cast<Code*>(spec.data);
    while (begin < end) {
      const int64_t rest = length - begin % length;
      const int64_t count = rest < end - begin ? rest : end - begin;
      const Position position = position_of(layout, begin);
      masked_run(position.stream, count, data + position.memory);
      begin += count;
    }
  }

  // Elsewhere items are tiles, generated along the stream and stored along memory.
  void fill_tiles(int64_t begin, int64_t end) const {
    const Tiling tiling(spec.layout);
    Code* data = static_cast<Code*>(spec.data);
    alignas(64) Code buffer[kTileElements];
    for (int64_t item = begin; item < end; ++item) {
      const Tile tile = tiling.tile(item);
      if (tile.row_stream_step == static_cast<uint64_t>(tile.columns)) {
        masked_run(tile.origin.stream, tile.rows * tile.columns, buffer);
      } else {
        for (int64_t r = 0; r < tile.rows; ++r) {
          masked_run(tile.origin.stream + static_cast<uint64_t>(r) * tile.row_stream_step,
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

template <Distribution distribution>
void fill_distribution(const FillSpec& spec, int64_t begin, int64_t end) {
  switch (spec.dtype) {
    case DType::kFloat16:
      return fill_typed<distribution, DType::kFloat16>(spec, begin, end);
    case DType::kBFloat16:
      return fill_typed<distribution, DType::kBFloat16>(spec, begin, end);
    case DType::kFloat32:
      return fill_typed<distribution, DType::kFloat32>(spec, begin, end);
    case DType::kFloat64:
      return fill_typed<distribution, DType::kFloat64>(spec, begin, end);
    case DType::kFloat8E4M3:
      return fill_typed<distribution, DType::kFloat8E4M3>(spec, begin, end);
    case DType::kFloat8E5M2:
      return fill_typed<distribution, DType::kFloat8E5M2>(spec, begin, end);
  }
}

inline void fill_items(const FillSpec& spec, int64_t begin, int64_t end) {
  switch (spec.law.distribution) {
    case Distribution::kUniform:
      return fill_distribution<Distribution::kUniform>(spec, begin, end);
    case Distribution::kNormal:
      return fill_distribution<Distribution::kNormal>(spec, begin, end);
    case Distribution::kTruncNormal:
      return fill_distribution<Distribution::kTruncNormal>(spec, begin, end);
  }
}

}  // namespace FASTINIT_ISA
}  // namespace fastinit
