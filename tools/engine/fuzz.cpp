// libFuzzer's target: makes up fills and orthogonal matrices, of any law, dtype, shape, strides and
// place in the stream that ops/ could ask for, and makes each in all ways of ways.h. Further, an
// element must be what a fill of nothing else makes of it, two fills of one table of the CUDA
// kernels what each is alone, and a part of a matrix what the whole has there.
#include <fuzzer/FuzzedDataProvider.h>

#include <algorithm>
#include <cmath>

#include "ways.h"

namespace {

using namespace engine;

constexpr int64_t kMostElements = 1500;
constexpr int64_t kMostRows = 70;
constexpr uint64_t kLast = (uint64_t{1} << 63) - 2;  // the largest index of ops/

struct Source : FuzzedDataProvider {
  using FuzzedDataProvider::FuzzedDataProvider;

  template <class T>
  T from(T least, T most) {
    return ConsumeIntegralInRange<T>(least, most);
  }

  // Finite: small, of common size, or anything whose differences are still finite.
  double real() {
    switch (from(0, 2)) {
      case 0:
        return from(-8, 8) / 2.0;
      case 1:
        return ConsumeFloatingPointInRange(-1e3, 1e3);
      default:
        return ConsumeFloatingPointInRange(-8e307, 8e307);
    }
  }

  // Of the stream: near its start, near 2^32, near the last of the elements that a tensor may have,
  // anywhere; `room` elements before that last one at least.
  uint64_t place(uint64_t room) {
    const uint64_t most = kLast - room, near = from<uint64_t>(0, 9000);
    switch (from(0, 3)) {
      case 0:
        return near;
      case 1:
        return (uint64_t{1} << 32) - 4096 + near;
      case 2:
        return most - near;
      default:
        return from<uint64_t>(0, most);
    }
  }

  StreamKey key() { return {ConsumeIntegral<uint64_t>(), ConsumeIntegral<uint64_t>()}; }
};

DType any_dtype(Source& source) { return static_cast<DType>(source.from(0, 5)); }

bool may_be_complex(DType dtype) { return dtype == DType::kFloat32 || dtype == DType::kFloat64; }

FanSpec any_fan(Source& source) {
  FanSpec fan;
  fan.mode = static_cast<FanMode>(source.from(0, 3));
  fan.nonlinearity = static_cast<Nonlinearity>(source.from(0, 5));
  fan.parameter = source.real();
  fan.gain = source.real();
  fan.ndim = source.from(2, 5);
  for (int k = 0; k < fan.ndim; ++k) {
    fan.size[k] = int64_t{1} << source.from(0, 12);
    fan.role[k] = static_cast<AxisRole>(source.from(0, 3));
  }
  return fan;
}

// Within the dtype's range, as ops/ demands of a uniform law.
double bound_of(DType dtype, double value) {
  const double most = dtype == DType::kFloat64      ? 8e307
                      : dtype == DType::kFloat32    ? 1e38
                      : dtype == DType::kBFloat16   ? 1e38
                      : dtype == DType::kFloat8E4M3 ? 400.0
                                                    : 5e4;
  return std::clamp(value, -most, most);
}

FillSpec any_fill(Source& source) {
  FillSpec spec;
  spec.dtype = any_dtype(source);
  Law& law = spec.law;
  law.distribution = static_cast<Distribution>(source.from(0, 2));
  law.complex = may_be_complex(spec.dtype) && source.ConsumeBool();
  law.mean = source.real();
  law.std = std::abs(source.real());
  law.low = bound_of(spec.dtype, source.real());
  law.high = bound_of(spec.dtype, source.real());
  if (law.low > law.high) std::swap(law.low, law.high);
  if (law.distribution == Distribution::kTruncNormal && law.std == 0.0) law.std = 1.0;
  law.fan = any_fan(source);
  spec.key = source.key();

  Layout& layout = spec.layout;
  layout.ndim = source.from(1, kMaxDims - 1);
  layout.numel = 1;
  for (int k = 0; k < layout.ndim; ++k) {
    const int64_t most = kMostElements / layout.numel;
    layout.size[k] =
        source.from<int64_t>(1, k + 1 < layout.ndim ? std::min<int64_t>(most, 40) : most);
    layout.numel *= layout.size[k];
  }
  // The last element that a tensor may have is the last that is ever asked for.
  layout.start = source.place(kMostElements);
  uint64_t room = kLast - layout.start;
  for (int k = layout.ndim - 1; k >= 0; --k) {
    const auto steps = static_cast<uint64_t>(layout.size[k] - 1);
    uint64_t stride = k + 1 == layout.ndim   ? 1
                      : source.ConsumeBool() ? source.place(0)
                                             : source.from<uint64_t>(0, 4096);
    if (steps > 0) stride = std::min(stride, room / steps);
    layout.global_stride[k] = stride;
    room -= steps * stride;
  }
  const bool sparse = !law.complex && source.from(0, 3) == 0;
  if (sparse) {  // a block of a matrix
    SparseSpec& mask = spec.sparse;
    layout.ndim = 2;
    layout.size[0] = source.from<int64_t>(1, 40);
    layout.size[1] = source.from<int64_t>(1, kMostElements / layout.size[0]);
    layout.numel = layout.size[0] * layout.size[1];
    mask.rows = layout.size[0] + source.from<int64_t>(0, 1 << 20);
    mask.cols = layout.size[1] + source.from<int64_t>(0, 1 << 20);
    mask.zeros = source.from<int64_t>(0, mask.rows);
    mask.key = child_key(spec.key, 0);
    const auto row = static_cast<uint64_t>(source.from<int64_t>(0, mask.rows - layout.size[0]));
    const auto column = static_cast<uint64_t>(source.from<int64_t>(0, mask.cols - layout.size[1]));
    layout.global_stride[0] = static_cast<uint64_t>(mask.cols);
    layout.global_stride[1] = 1;
    layout.start = row * layout.global_stride[0] + column;
  } else if (law.complex) {  // two real numbers an element
    const int last = layout.ndim++;
    layout.size[last] = 2;
    layout.global_stride[last] = 1;
    layout.numel *= 2;
    layout.start *= 2;
    for (int k = 0; k < last; ++k) layout.global_stride[k] *= 2;
  }
  return spec;
}

// Element i alone: one more place in the stream, nothing else.
Bytes alone(FillSpec spec, int64_t i) {
  Layout& layout = spec.layout;
  for (int k = layout.ndim - 1; k >= 0; --k) {
    layout.start += static_cast<uint64_t>(i % layout.size[k]) * layout.global_stride[k];
    i /= layout.size[k];
  }
  layout.ndim = 1;
  layout.numel = layout.size[0] = layout.stride[0] = 1;
  layout.global_stride[0] = 1;
  const size_t item = item_size(spec.dtype);
  Guarded memory(item, true);
  spec.data = memory.data;
  cpu::fill(spec, 0, 1);
  return Bytes(memory.data, memory.data + item);
}

// What the CUDA kernels make of two fills in one table has to be what each is by itself.
void check_table(FillSpec first, FillSpec second, const Bytes& of_first, const Bytes& of_second,
                 int kind) {
  FillSpec specs[] = {first, second};
  const Bytes* expected[] = {&of_first, &of_second};
  size_t bytes[2];
  for (int i = 0; i < 2; ++i) {
    bytes[i] = static_cast<size_t>(set_strides(specs[i].layout, kind)) * item_size(specs[i].dtype);
  }
  Guarded memory_of_first(bytes[0], true), memory_of_second(bytes[1], false);
  unsigned char* memory[] = {memory_of_first.data, memory_of_second.data};
  for (int i = 0; i < 2; ++i) specs[i].data = memory[i];
  cuda::emulate(specs, 2, 3, 32);
  for (int i = 0; i < 2; ++i) {
    if (gather(specs[i].layout, memory[i], item_size(specs[i].dtype)) != *expected[i]) {
      fail("a table of two fills: number " + std::to_string(i) + " differs");
    }
    for (size_t k = 0; k < bytes[i]; ++k) {
      if (memory[i][k] != kPoison) fail("a table of two fills: wrote between the elements");
    }
  }
}

void check_fills(Source& source) {
  const FillSpec first = any_fill(source);
  const int kind = source.from(0, kLayouts - 1);
  const bool two = source.ConsumeBool();
  const Bytes whole = fill_all_ways(first, "the fill");
  const size_t item = item_size(first.dtype);
  for (int64_t i = 0; i < first.layout.numel; i += 1 + first.layout.numel / 8) {
    const Bytes single = alone(first, i);
    if (!std::equal(single.begin(), single.end(), whole.begin() + i * static_cast<int64_t>(item))) {
      fail("element " + std::to_string(i) + " differs from itself alone");
    }
  }
  if (two) {
    const FillSpec second = any_fill(source);
    check_table(first, second, whole, fill_all_ways(second, "the second fill"), kind);
  }
}

// All of a matrix, or a rectangle of it.
Bytes part(const MatrixSpec& spec, int64_t row, int64_t rows, int64_t column, int64_t columns,
           bool transposed) {
  const int64_t unit = spec.complex ? 2 : 1;
  const Wanted down(row, rows, transposed ? unit : columns * unit);
  const Wanted across(column, columns, transposed ? rows * unit : unit);
  MatrixSpec wanted = spec;
  wanted.wanted_rows = down.side();
  wanted.wanted_columns = across.side();
  return matrix_all_ways(wanted, "the matrix");
}

void check_matrix(Source& source) {
  MatrixSpec spec;
  spec.dtype = any_dtype(source);
  spec.complex = may_be_complex(spec.dtype) && source.ConsumeBool();
  spec.rows = source.from<int64_t>(1, kMostRows);
  spec.columns = source.from<int64_t>(1, spec.rows);
  spec.gain = source.from(-8, 8) / 2.0;
  spec.key = source.key();
  spec.start = source.place(kMostRows * kMostRows) * (spec.complex ? 2 : 1);
  const int64_t row = source.from<int64_t>(0, spec.rows - 1);
  const int64_t column = source.from<int64_t>(0, spec.columns - 1);
  const int64_t rows = source.from<int64_t>(1, spec.rows - row);
  const int64_t columns = source.from<int64_t>(1, spec.columns - column);
  const bool transposed = source.ConsumeBool();

  const Bytes whole = part(spec, 0, spec.rows, 0, spec.columns, false);
  const Bytes some = part(spec, row, rows, column, columns, transposed);
  const size_t item = item_size(spec.dtype) * (spec.complex ? 2 : 1);
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < columns; ++j) {
      const auto at = static_cast<size_t>(transposed ? j * rows + i : i * columns + j);
      const auto in_whole = static_cast<size_t>((row + i) * spec.columns + column + j);
      if (memcmp(&some[at * item], &whole[in_whole * item], item) != 0) {
        fail("a part of a matrix differs from the whole");
      }
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Source source(data, size);
  source.from(0, 7) == 0 ? check_matrix(source) : check_fills(source);
  return 0;
}
