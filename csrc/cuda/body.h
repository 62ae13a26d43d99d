// What a CUDA thread does, as host-device functions of (spec, thread, thread count): which elements
// it fills and how it stores them. The kernels of fill.cu and, with every thread in turn,
// emulate.cpp run this very code. Owns no thread, no launch and no memory; what an element is
// worth, the core says.
//
// A unit is what a thread fills at a time: whole blocks of the stream, so that none is generated
// twice.
#pragma once

#include "../core/dispatch.h"
#include "../core/fill.h"

namespace fastinit::cuda {

template <DType dtype>
using Compute = typename Storage<dtype>::Compute;
template <DType dtype>
using Code = typename Storage<dtype>::Code;

// What is the same for all elements of a fill; worked out once by each thread block.
template <class S>
struct Prepared {
  ResolvedLaw<S> law;
  uint64_t offset;
  KeySchedule keys;
};

template <DType dtype>
FASTINIT_HD double read_scalar(const void* value) {
  return static_cast<double>(Storage<dtype>::decode(*static_cast<const Code<dtype>*>(value)));
}

FASTINIT_HD double scale_factor(const DeviceInputs& device) {
  if (device.scale == nullptr) return 1.0;
  return with_dtype(device.scale_dtype,
                    [&]<DType dtype> { return read_scalar<dtype>(device.scale); });
}

FASTINIT_HD StreamKey resolved_key(StreamKey key, const DeviceInputs& device) {
  if (device.seed != nullptr) key.seed = static_cast<uint64_t>(*device.seed);
  if (device.offset != nullptr) key.offset += static_cast<uint64_t>(*device.offset);
  return device.generator ? generator_key(key.seed, key.offset) : key;
}
FASTINIT_HD StreamKey resolved_key(const FillSpec& spec) {
  return resolved_key(spec.key, spec.device);
}

template <DType dtype>
FASTINIT_HD Prepared<Compute<dtype>> prepare(const FillSpec& spec) {
  const StreamKey key = resolved_key(spec);
  return {resolve<Storage<dtype>>(spec.law, scale_factor(spec.device)), key.offset,
          KeySchedule(key.seed)};
}

// The codes of kBlocks successive blocks, each in the low bits of a lane.
template <Distribution distribution, DType dtype, int kBlocks>
struct Codes {
  using S = Compute<dtype>;
  static constexpr int kBlock = kBlockElements<S>;
  static constexpr int kCount = kBlocks * kBlock;
  UInt<S> lane[kCount];

  FASTINIT_HD Codes(const ResolvedLaw<S>& law, const KeySchedule& keys, uint64_t counter) {
    FASTINIT_UNROLL
    for (int b = 0; b < kBlocks; ++b) {
      S values[kBlock];
      block_values<distribution, S>(law, keys, counter + b, values);
      FASTINIT_UNROLL
      for (int i = 0; i < kBlock; ++i) lane[b * kBlock + i] = Storage<dtype>::encode(values[i]);
    }
  }

  // All of them, by one instruction. `out` is a multiple of their size.
  FASTINIT_HD void store(Code<dtype>* out) const {
    constexpr int kPacked = sizeof(UInt<S>) / sizeof(Code<dtype>);  // codes in a word
    struct alignas(kCount * sizeof(Code<dtype>)) Words {
      UInt<S> word[kCount / kPacked];
    } words;
    FASTINIT_UNROLL
    for (int w = 0; w < kCount / kPacked; ++w) {
      words.word[w] = lane[w * kPacked];
      FASTINIT_UNROLL
      for (int i = 1; i < kPacked; ++i) {
        words.word[w] |= lane[w * kPacked + i] << (8 * sizeof(Code<dtype>) * i);
      }
    }
    *reinterpret_cast<Words*>(out) = words;
  }

  // Those from `first` up to `end`, `stride` apart; `out` is where the 0th would be.
  FASTINIT_HD void store_some(Code<dtype>* out, int64_t stride, int64_t first, int64_t end) const {
    FASTINIT_UNROLL
    for (int i = 0; i < kCount; ++i) {
      if (first <= i && i < end) out[i * stride] = static_cast<Code<dtype>>(lane[i]);
    }
  }
};

// --------------------------------------------------------------------- memory in stream order

FASTINIT_HD bool is_dense(const FillSpec& spec) {
  return spec.layout.ndim == 1 && spec.layout.stride[0] == 1;
}

constexpr int kStoreBytes = 16;

// A dense fill in units of 16 bytes. They begin where memory is aligned, if blocks do too; else
// with a block, and are stored element by element.
template <DType dtype>
struct DenseUnits {
  static constexpr int kBlock = kBlockElements<Compute<dtype>>;
  static constexpr int kUnit = kStoreBytes / sizeof(Code<dtype>);
  static constexpr int kBlocks = kUnit / kBlock;

  int64_t head;  // the first unit begins so many elements before the first element
  int64_t count;
  int64_t whole, partial;  // units from `whole` to before `partial` are stored at once

  FASTINIT_HD explicit DenseUnits(const FillSpec& spec) {
    const uint64_t start = spec.layout.start;
    const auto past = reinterpret_cast<uintptr_t>(spec.data) / sizeof(Code<dtype>) % kUnit;
    const bool in_step = (start - past) % kBlock == 0;
    head = static_cast<int64_t>(in_step ? past : start % kBlock);
    count = (head + spec.layout.numel + kUnit - 1) / kUnit;
    partial = in_step ? (head + spec.layout.numel) / kUnit : 0;
    whole = in_step && head > 0 && partial > 0 ? 1 : 0;
  }
};

// The units from `begin` to `end` of a dense fill.
template <Distribution distribution, DType dtype>
FASTINIT_HD void run_dense(const FillSpec& spec, const Prepared<Compute<dtype>>& prepared,
                           int64_t begin, int64_t end, int64_t thread, int64_t threads) {
  using Units = DenseUnits<dtype>;
  constexpr int kUnit = Units::kUnit, kBlocks = Units::kBlocks;
  const ResolvedLaw<Compute<dtype>> law = prepared.law;
  const KeySchedule keys = prepared.keys;
  const Units units(spec);
  Code<dtype>* const data = static_cast<Code<dtype>*>(spec.data);
  const uint64_t counter =
      prepared.offset + spec.layout.start / Units::kBlock - units.head / Units::kBlock;
  const int64_t first_whole = begin < units.whole ? units.whole : begin;
  const int64_t end_whole = end < units.partial ? end : units.partial;

  Code<dtype>* out = data - units.head + (first_whole + thread) * kUnit;
  Code<dtype>* const out_end = data - units.head + end_whole * kUnit;
  uint64_t next = counter + (first_whole + thread) * kBlocks;
  for (; out < out_end; out += threads * kUnit, next += threads * kBlocks) {
    Codes<distribution, dtype, kBlocks>(law, keys, next).store(out);
  }
  // The others: those before `whole`, then those from `partial` on.
  const int64_t before = first_whole - begin;
  const int64_t from = begin < units.partial ? units.partial : begin;
  const int64_t after = end < from ? 0 : end - from;
  for (int64_t i = thread; i < before + after; i += threads) {
    const int64_t unit = i < before ? begin + i : from + i - before;
    const int64_t first = unit * kUnit - units.head;
    Codes<distribution, dtype, kBlocks>(law, keys, counter + unit * kBlocks)
        .store_some(data + first, 1, -first, spec.layout.numel - first);
  }
}

// ------------------------------------------------------------------------------- any layout

// The rows of a layout, which are its last dimension: runs of consecutive elements of the stream. A
// unit is one block of a row. Neighbouring units are neighbours in memory: in the row, or in the
// dimension that memory runs along.
struct Rows {
  const Layout& layout;
  int last, inner;
  int64_t row_units;  // also of a row that begins inside a block; some may then be empty
  int block;

  FASTINIT_HD Rows(const Layout& all, int block_elements)
      : layout(all), last(all.ndim - 1), inner(all.ndim - 1), block(block_elements) {
    FASTINIT_NO_UNROLL
    for (int k = 0; k < last; ++k) {
      if (layout.stride[k] < layout.stride[inner] && layout.size[k] > 1) inner = k;
    }
    row_units = (layout.size[last] + 2 * block - 2) / block;
  }

  FASTINIT_HD int64_t units() const {
    int64_t count = row_units;
    for (int k = 0; k < last; ++k) count *= layout.size[k];
    return count;
  }

  // The position of the row that a unit lies in; `unit` becomes its number in the row.
  FASTINIT_HD Position row_of(int64_t& unit) const {
    Position row{0, layout.start};
    if (last == 0) return row;
    int64_t rest = unit, along = 0;
    if (inner != last) {
      along = rest % layout.size[inner];
      rest /= layout.size[inner];
    }
    unit = rest % row_units;
    rest /= row_units;
    FASTINIT_NO_UNROLL
    for (int k = last - 1; k >= 0; --k) {
      int64_t coordinate = along;
      if (k != inner) {
        coordinate = rest % layout.size[k];
        rest /= layout.size[k];
      }
      row.memory += coordinate * layout.stride[k];
      row.stream += static_cast<uint64_t>(coordinate) * layout.global_stride[k];
    }
    return row;
  }
};

// The units from `begin` to `end` of a fill whose memory is not in stream order.
template <Distribution distribution, DType dtype>
FASTINIT_HD void run_rows(const FillSpec& spec, const Prepared<Compute<dtype>>& prepared,
                          int64_t begin, int64_t end, int64_t thread, int64_t threads) {
  using S = Compute<dtype>;
  constexpr int kBlock = kBlockElements<S>;
  constexpr int kBytes = kBlock * sizeof(Code<dtype>);
  const ResolvedLaw<S> law = prepared.law;
  const KeySchedule keys = prepared.keys;
  const Rows rows(spec.layout, kBlock);
  const int64_t length = spec.layout.size[rows.last], stride = spec.layout.stride[rows.last];
  for (int64_t unit = begin + thread; unit < end; unit += threads) {
    int64_t number = unit;
    const Position row = rows.row_of(number);
    const int64_t first = number * kBlock - static_cast<int64_t>(row.stream % kBlock);
    if (first >= length) continue;
    const uint64_t counter = row.stream / kBlock + number;
    const Codes<distribution, dtype, 1> codes(law, keys, prepared.offset + counter);
    Code<dtype>* out = static_cast<Code<dtype>*>(spec.data) + row.memory + first * stride;
    const bool aligned = reinterpret_cast<uintptr_t>(out) % kBytes == 0;
    if (stride == 1 && aligned && first >= 0 && first + kBlock <= length) {
      codes.store(out);
    } else {
      codes.store_some(out, stride, -first, length - first);
    }
  }
}

// ---------------------------------------------------------------------------------- any fill

template <DType dtype>
FASTINIT_HD int64_t units_of(const FillSpec& spec) {
  if (is_dense(spec)) return DenseUnits<dtype>(spec).count;
  return Rows(spec.layout, kBlockElements<Compute<dtype>>).units();
}

// The units from `begin` to `end`.
template <DType dtype>
FASTINIT_HD void run_units(const FillSpec& spec, const Prepared<Compute<dtype>>& prepared,
                           int64_t begin, int64_t end, int64_t thread, int64_t threads) {
  with_distribution(spec.law.distribution, [&]<Distribution distribution> {
    if (is_dense(spec)) {
      run_dense<distribution, dtype>(spec, prepared, begin, end, thread, threads);
    } else {
      run_rows<distribution, dtype>(spec, prepared, begin, end, thread, threads);
    }
  });
}

// --------------------------------------------------------------------------------- the mask

// Zeroes the elements that sparse_ leaves out, after a fill; elements of `Word` size.
template <class Word>
FASTINIT_HD void run_mask(const FillSpec& spec, StreamKey mask_key, int64_t thread,
                          int64_t threads) {
  const KeySchedule keys(mask_key.seed);
  const auto cols = static_cast<uint64_t>(spec.sparse.cols);
  const SparseDomain domain(spec.sparse.rows, spec.sparse.zeros);
  const int complex = spec.law.complex ? 1 : 0;
  for (int64_t i = thread; i < spec.layout.numel; i += threads) {
    const Position position = position_of(spec.layout, i);
    const uint64_t element = position.stream >> complex;
    const auto words = block_words<float>(mask_key.offset + element % cols, keys);
    uint32_t row[1] = {static_cast<uint32_t>(element / cols)};
    permute_rows(SparseColumn<uint32_t>(words.word), domain, row);
    if (row[0] < domain.zeros) {
      static_cast<Word*>(spec.data)[position.memory] = 0;
    }
  }
}

}  // namespace fastinit::cuda
