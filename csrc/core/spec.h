// FillSpec: all that a fill needs to know, as plain data that travels unchanged from ops/ to the
// CPU engine or into a CUDA kernel's arguments. Knows no tensor library; owns no memory.
#pragma once

#include <cstdint>

namespace fastinit {

// Bits of the stream; a change of any value of any element is a new version.
constexpr int kStreamVersion = 2;

enum class DType : uint8_t { kFloat16, kBFloat16, kFloat32, kFloat64, kFloat8E4M3, kFloat8E5M2 };

enum class Distribution : uint8_t { kUniform, kNormal, kTruncNormal };

enum class FanMode : uint8_t { kNone, kFanIn, kFanOut, kFanAvg };

enum class Nonlinearity : uint8_t { kLinear, kSigmoid, kTanh, kRelu, kLeakyRelu, kSelu };

enum class AxisRole : uint8_t { kReceptive, kIn, kOut, kBatch };

// More dimensions than this are folded (fans) or filled slice by slice (layouts) by ops/.
constexpr int kMaxDims = 8;

// The fan of a weight and the gain of the nonlinearity behind it:
// std = gain * gain_of(nonlinearity, parameter) / sqrt(fan). With mode kNone the law's own std
// holds.
struct FanSpec {
  FanMode mode = FanMode::kNone;
  Nonlinearity nonlinearity = Nonlinearity::kLinear;
  int32_t ndim = 0;
  int64_t groups = 1;  // a grouped convolution's first axis holds this many groups
  int64_t size[kMaxDims] = {};
  AxisRole role[kMaxDims] = {};
  double parameter = 0.0;  // negative slope of leaky_relu
  double gain = 1.0;
};

// The law of one element. Uniform: [low, high). Normal: mean, std. Truncated normal: all four.
// With a fan, std comes from it, the mean is zero, uniform means +-sqrt(3) std and truncated normal
// +-2 std of the normal whose truncation has that std.
//
// Of a complex element the parts of a normal or truncated normal have std / sqrt(2) each, and the
// mean and the bounds hold for both; a uniform with a fan spans the full +-sqrt(3) std in each, as
// torch.nn.init's do.
struct Law {
  Distribution distribution = Distribution::kUniform;
  double mean = 0.0;
  double std = 1.0;
  double low = 0.0;
  double high = 1.0;
  FanSpec fan;
  bool complex = false;  // elements are real and imaginary parts in turn
};

// Element (i0, i1, ...) lies at data[sum i_k * stride_k] and is element
// start + sum i_k * global_stride_k of the stream. Strides count elements. There is a last
// dimension, its global stride is 1, and dimensions that can be merged have been.
struct Layout {
  int32_t ndim = 0;
  int64_t numel = 0;
  uint64_t start = 0;
  int64_t size[kMaxDims] = {};
  int64_t stride[kMaxDims] = {};
  uint64_t global_stride[kMaxDims] = {};
};

struct StreamKey {
  uint64_t seed = 0;
  uint64_t offset = 0;
};

// Zeroes, in each column of a matrix, the rows that a keyed permutation sends below `zeros`.
struct SparseSpec {
  int64_t zeros = 0;  // per column; 0 means dense
  int64_t rows = 0;   // of the global matrix
  int64_t cols = 1;
  StreamKey key;
};

// What only the device knows; each optional, each on the device that the fill runs on.
struct DeviceInputs {
  const void* scale = nullptr;  // a factor of std
  DType scale_dtype = DType::kFloat32;
  const int64_t* seed = nullptr;    // replaces key.seed
  const int64_t* offset = nullptr;  // is added to key.offset
  bool generator = false;           // seed and offset are a generator's state, not yet a key
};

struct FillSpec {
  void* data = nullptr;
  DType dtype = DType::kFloat32;
  Law law;
  Layout layout;
  StreamKey key;
  SparseSpec sparse;
  DeviceInputs device;
};

// Rows or columns of a matrix that are wanted, ascending: their numbers in it, and how far from the
// first element of memory they lie, in real numbers. Without lists they are those from `first` on,
// `stride` apart.
struct Side {
  int64_t count = 0;
  const int64_t* index = nullptr;
  const int64_t* offset = nullptr;
  int64_t first = 0, stride = 0;
};

// The wanted part of an orthogonal matrix with no more columns than rows, which are orthonormal.
struct MatrixSpec {
  void* data = nullptr;
  DType dtype = DType::kFloat32;
  bool complex = false;
  int64_t rows = 0, columns = 0;
  Side wanted_rows, wanted_columns;
  double gain = 1.0;
  StreamKey key;
  uint64_t start = 0;   // of its normal matrix in the stream, real numbers
  DeviceInputs device;  // for CUDA kernels; its scale is a factor of gain
};

}  // namespace fastinit
