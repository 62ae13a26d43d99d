// The only file that knows tensors: every validation, the choice of the device's generator and
// backend, and the layout of a tensor as the engines see it. One function serves CPU, CUDA and
// meta, so that a refusal is the same everywhere. What an element is worth, the core says.
#include "ops.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/MemoryOverlap.h>
#include <ATen/Parallel.h>
#include <ATen/Utils.h>
#include <c10/util/Exception.h>
#include <c10/util/SmallVector.h>

#include <algorithm>
#include <atomic>
#include <cctype>
#include <cmath>
#include <limits>
#include <mutex>
#include <string>

#if defined(FASTINIT_WITH_CUDA)
#include <ATen/cuda/CUDAGeneratorImpl.h>
#include <ATen/ops/empty.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGraphsC10Utils.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#endif

#include "core/distributions.h"
#include "core/sparse.h"
#include "kernels.h"

namespace fastinit {
namespace {

using at::IntArrayRef;
using at::Tensor;

// ---------------------------------------------------------------------------------- names to enums

FanMode fan_mode_from(std::string_view name) {
  std::string lower(name);
  std::transform(lower.begin(), lower.end(), lower.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  if (lower == "fan_in") return FanMode::kFanIn;
  if (lower == "fan_out") return FanMode::kFanOut;
  if (lower == "fan_avg") return FanMode::kFanAvg;
  TORCH_CHECK_VALUE(false, "Mode ", lower,
                    " not supported, please use one of ['fan_in', 'fan_out', 'fan_avg']");
}

Nonlinearity nonlinearity_from(std::string_view name) {
  for (const char* linear : {"linear", "conv1d", "conv2d", "conv3d", "conv_transpose1d",
                             "conv_transpose2d", "conv_transpose3d"}) {
    if (name == linear) return Nonlinearity::kLinear;
  }
  if (name == "sigmoid") return Nonlinearity::kSigmoid;
  if (name == "tanh") return Nonlinearity::kTanh;
  if (name == "relu") return Nonlinearity::kRelu;
  if (name == "leaky_relu") return Nonlinearity::kLeakyRelu;
  if (name == "selu") return Nonlinearity::kSelu;
  TORCH_CHECK_VALUE(false, "Unsupported nonlinearity ", name);
}

Distribution distribution_from(std::string_view name) {
  if (name == "uniform") return Distribution::kUniform;
  if (name == "normal") return Distribution::kNormal;
  if (name == "truncated_normal") return Distribution::kTruncNormal;
  TORCH_CHECK_VALUE(false, "distribution must be 'uniform', 'normal' or 'truncated_normal', got '",
                    name, "'");
}

// The storage type, and whether elements are pairs of it.
std::pair<DType, bool> dtype_from(const char* op, at::ScalarType type) {
  switch (type) {
    case at::kHalf:
      return {DType::kFloat16, false};
    case at::kBFloat16:
      return {DType::kBFloat16, false};
    case at::kFloat:
      return {DType::kFloat32, false};
    case at::kDouble:
      return {DType::kFloat64, false};
    case at::kFloat8_e4m3fn:
      return {DType::kFloat8E4M3, false};
    case at::kFloat8_e5m2:
      return {DType::kFloat8E5M2, false};
    case at::kComplexFloat:
      return {DType::kFloat32, true};
    case at::kComplexDouble:
      return {DType::kFloat64, true};
    default:
      TORCH_CHECK_NOT_IMPLEMENTED(
          false, "fastinit.", op, ": tensor has dtype ", type,
          ", which has no random fill; use float16, bfloat16, float32, float64, float8_e4m3fn, "
          "float8_e5m2, complex64 or complex128");
  }
}

double largest_finite(DType dtype) {
  switch (dtype) {
    case DType::kFloat16:
      return 65504.0;
    case DType::kBFloat16:
      return 0x1.fep127;
    case DType::kFloat32:
      return std::numeric_limits<float>::max();
    case DType::kFloat8E4M3:
      return 448.0;
    case DType::kFloat8E5M2:
      return 57344.0;
    default:
      return std::numeric_limits<double>::max();
  }
}

// --------------------------------------------------------------------------------------- fans

// Which axes a layer sums over, produces, and merely repeats; by default those of Linear and Conv.
struct Axes {
  at::OptionalIntArrayRef in, out, batch;
};

c10::SmallVector<AxisRole, kMaxDims> axis_roles(int64_t ndim, const Axes& axes) {
  TORCH_CHECK_VALUE(
      ndim >= 2, "Fan in and fan out can not be computed for tensor with fewer than 2 dimensions");
  c10::SmallVector<AxisRole, kMaxDims> roles(ndim, AxisRole::kReceptive);
  const auto assign = [&](IntArrayRef named, AxisRole role, const char* name) {
    for (const int64_t axis : named) {
      TORCH_CHECK_VALUE(-ndim <= axis && axis < ndim, name, " holds ", axis, ", but a tensor of ",
                        ndim, " dimensions has axes ", -ndim, " to ", ndim - 1);
      AxisRole& held = roles[axis < 0 ? axis + ndim : axis];
      TORCH_CHECK_VALUE(
          held == AxisRole::kReceptive, name, " holds ", axis,
          ", which in_axis, out_axis or batch_axis already names; name each axis once");
      held = role;
    }
  };
  assign(axes.in.value_or(IntArrayRef{1}), AxisRole::kIn, "in_axis");
  assign(axes.out.value_or(IntArrayRef{0}), AxisRole::kOut, "out_axis");
  assign(axes.batch.value_or(IntArrayRef{}), AxisRole::kBatch, "batch_axis");
  return roles;
}

FanSpec fan_spec(IntArrayRef shape, const Axes& axes, int64_t groups) {
  const auto ndim = static_cast<int64_t>(shape.size());
  const auto roles = axis_roles(ndim, axes);
  TORCH_CHECK_VALUE(groups >= 1 && shape[0] % groups == 0, "groups is ", groups,
                    ", which does not divide the first axis (", shape[0],
                    "), where a grouped convolution keeps all its groups");
  FanSpec spec;
  spec.groups = groups;
  for (int64_t k = 0; k < ndim; ++k) {
    int at = spec.ndim;
    if (ndim > kMaxDims && k > 0) {  // fold the axes of equal role
      for (at = 1; at < spec.ndim && spec.role[at] != roles[k]; ++at) {
      }
    }
    if (at == spec.ndim) {
      spec.role[at] = roles[k];
      spec.size[at] = 1;
      ++spec.ndim;
    }
    spec.size[at] *= shape[k];
  }
  return spec;
}

// ------------------------------------------------------------------------------------- layouts

// One dimension of a tensor as the engines see it.
struct Dim {
  int64_t size, stride;
  uint64_t global_stride;
};
using Dims = c10::SmallVector<Dim, 2 * kMaxDims>;

// Element indices of real numbers, two a complex element, must fit 64 bits without sign.
int64_t checked_numel(IntArrayRef shape) {
  int64_t numel = 1;
  for (const int64_t size : shape) {
    TORCH_CHECK_VALUE(!__builtin_mul_overflow(numel, size, &numel), "a tensor of shape ", shape,
                      " has more than 2^63 - 1 elements; fill it in smaller tensors");
  }
  return numel;
}

// `self` as the rectangle at `offsets` of a tensor of `global_shape`, real numbers throughout, its
// dimensions merged as far as both memory and stream allow.
Dims merged_dims(const Tensor& self, IntArrayRef global_shape, bool complex) {
  Dims dims;
  const int64_t unit = complex ? 2 : 1;
  auto global_stride = static_cast<uint64_t>(unit);
  if (complex) dims.push_back({2, 1, 1});
  for (int64_t k = self.dim() - 1; k >= 0; --k) {
    const Dim dim{self.size(k), self.stride(k) * unit, global_stride};
    global_stride *= static_cast<uint64_t>(global_shape[k]);
    if (dim.size == 1) continue;
    if (!dims.empty() && dim.stride == dims.back().stride * dims.back().size &&
        dim.global_stride == dims.back().global_stride * static_cast<uint64_t>(dims.back().size)) {
      dims.back().size *= dim.size;
    } else {
      dims.push_back(dim);
    }
  }
  // The engines want a last dimension that the stream runs along.
  if (dims.empty() || dims.front().global_stride != 1) dims.insert(dims.begin(), {1, 1, 1});
  std::reverse(dims.begin(), dims.end());
  return dims;
}

// Calls fill(spec) once, or once a slice where there are more dimensions than a Layout holds.
template <class Fill>
void for_each_layout(FillSpec spec, const Dims& dims, size_t first, int64_t item_size,
                     const Fill& fill) {
  if (dims.size() - first > kMaxDims) {
    const Dim& dim = dims[first];
    for (int64_t i = 0; i < dim.size; ++i) {
      for_each_layout(spec, dims, first + 1, item_size, fill);
      spec.data = static_cast<char*>(spec.data) + dim.stride * item_size;
      spec.layout.start += dim.global_stride;
    }
    return;
  }
  Layout& layout = spec.layout;
  layout.numel = 1;
  layout.ndim = static_cast<int32_t>(dims.size() - first);
  for (int k = 0; k < layout.ndim; ++k) {
    const Dim& dim = dims[first + k];
    layout.size[k] = dim.size;
    layout.stride[k] = dim.stride;
    layout.global_stride[k] = dim.global_stride;
    layout.numel *= dim.size;
  }
  fill(spec);
}

// -------------------------------------------------------------------------------------- keys

StreamKey key_from_words(const int64_t* words) {
  return {static_cast<uint64_t>(words[0]), static_cast<uint64_t>(words[1])};
}

StreamKey key_from_generator(const std::optional<at::Generator>& generator) {
  auto* cpu = at::get_generator_or_default<at::CPUGeneratorImpl>(
      generator, at::detail::getDefaultCPUGenerator());
  const std::lock_guard<std::mutex> lock(cpu->mutex_);
  StreamKey key;
  key.seed = cpu->random64();
  key.offset = cpu->random64();
  return key;
}

void check_key_tensor(const Tensor& key) {
  TORCH_CHECK_TYPE(key.scalar_type() == at::kUInt64, "key has dtype ", key.scalar_type(),
                   "; a key tensor holds [seed, offset] as uint64");
  TORCH_CHECK_VALUE(key.dim() == 1 && key.size(0) == 2, "key has shape ", key.sizes(),
                    "; a key tensor holds [seed, offset], shape (2,)");
}

// -------------------------------------------------------------------------------------- fills

constexpr int64_t kUnitItems = 4096;       // threads begin at multiples of this many elements
constexpr int64_t kGrainElements = 32768;  // below it a thread costs more than it saves

// Tests have the CUDA kernels emulated on CPU tensors: by so many blocks of so many threads.
std::atomic<int64_t> emulated_blocks{0}, emulated_threads{0};

// Whether the fill of `self` reads keys and scales where they are, as CUDA kernels do.
bool reads_on_device(const Tensor& self) {
  return self.is_cuda() || emulated_blocks.load(std::memory_order_relaxed) > 0;
}

// Fills specs on the CPU, in parallel. The threads share the elements of all of them evenly,
// however they are spread over the specs: one huge and thousands of small ones take the same time.
void fill_cpu(c10::ArrayRef<FillSpec> specs) {
  c10::SmallVector<cpu::WorkSize, 1> work;
  c10::SmallVector<int64_t, 2> first{0};  // element of a spec, counted through all of them
  for (const FillSpec& spec : specs) {
    const cpu::WorkSize size = cpu::work_size(spec);
    work.push_back(size);
    first.push_back(first.back() + size.items * size.elements_per_item);
  }
  const auto fill_range = [&](int64_t begin, int64_t end) {
    size_t i = std::upper_bound(first.begin(), first.end(), begin) - first.begin() - 1;
    for (; i < specs.size() && first[i] < end; ++i) {
      const auto [items, elements_per_item] = work[i];
      const int64_t unit = elements_per_item == 1 ? kUnitItems : 1;
      const int64_t unit_elements = unit * elements_per_item;
      // A unit belongs to the range that its first element lies in.
      const auto item_from = [&, items = items](int64_t element) {
        const int64_t inside = std::max<int64_t>(0, element - first[i]);
        return std::min((inside + unit_elements - 1) / unit_elements * unit, items);
      };
      const int64_t from = item_from(begin), to = item_from(end);
      if (from < to) cpu::fill(specs[i], from, to);
    }
  };
  if (first.back() <= kGrainElements) return fill_range(0, first.back());
  at::parallel_for(0, first.back(), kGrainElements, fill_range);
}

#if defined(FASTINIT_WITH_CUDA)

// Reserves one step of the generator's counter. While a graph is captured, its state lies on the
// device, where each replay finds another one.
void take_key_from_cuda(FillSpec& spec, const std::optional<at::Generator>& generator,
                        at::Device device) {
  auto* cuda = at::get_generator_or_default<at::CUDAGeneratorImpl>(
      generator, at::cuda::detail::getDefaultCUDAGenerator(device.index()));
  TORCH_CHECK_VALUE(cuda->device() == device, "generator is on ", cuda->device(),
                    ", but the tensor to fill is on ", device, "; give a generator of that device");
  const std::lock_guard<std::mutex> lock(cuda->mutex_);
  const at::PhiloxCudaState state = cuda->philox_cuda_state(4);
  spec.device.generator = true;
  if (state.captured_) {
    spec.device.seed = state.seed_.ptr;
    spec.device.offset = state.offset_.ptr;
    spec.key.offset = state.offset_intragraph_;
  } else {
    spec.key = {state.seed_.val, state.offset_.val};
  }
}

// Fills specs of the current device: one by a launch that takes it by value, more from a table.
void fill_cuda(c10::ArrayRef<FillSpec> specs) {
  cudaStream_t stream = c10::cuda::getCurrentCUDAStream().stream();
  const auto check = [](int error) { C10_CUDA_CHECK(static_cast<cudaError_t>(error)); };
  if (specs.size() == 1) return check(cuda::fill(specs[0], stream));
  const auto count = static_cast<int64_t>(specs.size());
  const int64_t bytes = cuda::table_bytes(count);
  // A captured copy would read the host's memory at each replay, when it holds something else.
  const bool by_value =
      c10::cuda::currentStreamCaptureStatusMayInitCtx() != c10::cuda::CaptureStatus::None;
  const auto options = at::TensorOptions(at::kByte);
  const Tensor host = at::empty({bytes}, options.pinned_memory(!by_value));
  const Tensor table = at::empty({bytes}, options.device(at::kCUDA));
  cuda::write_table(specs.data(), count, host.mutable_data_ptr());
  if (by_value) {
    check(cuda::copy_table(host.const_data_ptr(), count, table.mutable_data_ptr(), stream));
  } else {
    table.copy_(host, /*non_blocking=*/true);  // keeps the pinned memory until it has been read
  }
  check(cuda::fill_table(host.const_data_ptr(), count, table.const_data_ptr(), stream));
}

#endif

void run(c10::ArrayRef<FillSpec> specs, const Tensor& any) {
#if defined(FASTINIT_WITH_CUDA)
  if (any.is_cuda()) {
    const c10::cuda::CUDAGuard guard(any.device());
    return fill_cuda(specs);
  }
#endif
  const int64_t blocks = emulated_blocks.load(std::memory_order_relaxed);
  if (blocks == 0) return fill_cpu(specs);
  cuda::emulate(specs.data(), static_cast<int64_t>(specs.size()), blocks, emulated_threads);
}

void check_backend(const char* op, const Tensor& self) {
#if defined(FASTINIT_WITH_CUDA)
  const bool filled = self.is_cpu() || self.is_cuda();
#else
  const bool filled = self.is_cpu();
#endif
  TORCH_CHECK(filled, "fastinit.", op, ": the tensor is on ", self.device(),
              ", but this fastinit was built without CUDA; rebuild it where the CUDA toolkit is: "
              "FASTINIT_CUDA=1 pip install --no-build-isolation --force-reinstall --no-deps .");
}

void check_scale(const Tensor& self, const Tensor& scale) {
  TORCH_CHECK_VALUE(scale.dim() == 0, "gain or std is a tensor of shape ", scale.sizes(),
                    "; give a number or a 0-dim tensor");
  TORCH_CHECK_TYPE(at::isFloatingType(scale.scalar_type()), "gain or std is a tensor of dtype ",
                   scale.scalar_type(), "; give a floating point one");
  TORCH_CHECK_VALUE(scale.device() == self.device(), "gain or std is a tensor on ", scale.device(),
                    ", but the tensor to fill is on ", self.device(), "; move it there");
}

// The bounds, as the stock initializers check them.
void check_law(const Law& law, DType dtype, const char* op) {
  const bool has_fan = law.fan.mode != FanMode::kNone;
  double std = law.std, low = law.low, high = law.high;
  if (has_fan) {
    std = std_of(law.fan);
    high = std::sqrt(3.0) * std;
    low = -high;
  }
  if (law.distribution == Distribution::kUniform) {
    TORCH_CHECK(low <= high, op, " expects to return a [from, to) range, but found from=", low,
                " > to=", high);
    const double most = largest_finite(dtype);
    TORCH_CHECK(-most <= low && low <= most, "from is out of bounds for the tensor's dtype: found ",
                low, ", largest finite value ", most);
    TORCH_CHECK(-most <= high && high <= most, "to is out of bounds for the tensor's dtype: found ",
                high, ", largest finite value ", most);
    TORCH_CHECK(high - low <= most, op, " expects to-from <= ", most, ", but found to=", high,
                " and from=", low, " which result in to-from to exceed the limit");
    return;
  }
  TORCH_CHECK(has_fan || std::isfinite(law.mean), "normal expects a finite mean, but found mean ",
              law.mean);
  TORCH_CHECK(std >= 0.0 && std::isfinite(std), "normal expects std >= 0.0, but found std ", std);
  if (law.distribution == Distribution::kTruncNormal && !has_fan) {
    TORCH_CHECK_VALUE(std > 0.0, op, ": std must not be zero");
    TORCH_CHECK(low <= high, op, " expects a <= b, but found a=", low, " > b=", high);
  }
}

// Takes in a factor of std or gain. A value on the device is not looked at.
void set_scale(FillSpec& spec, const Tensor& self, const Tensor& scale, const char* op) {
  if (reads_on_device(self)) {
    spec.device.scale = scale.const_data_ptr();
    spec.device.scale_dtype = dtype_from(op, scale.scalar_type()).first;
    return;
  }
  const auto factor = scale.item<double>();
  (spec.law.fan.mode == FanMode::kNone ? spec.law.std : spec.law.fan.gain) *= factor;
  check_law(spec.law, spec.dtype, op);
}

// Which part of a larger tensor a tensor is; all of it by default.
struct Region {
  at::OptionalIntArrayRef global_shape, offsets;

  IntArrayRef shape(const Tensor& self) const { return global_shape.value_or(self.sizes()); }
};

struct Stream {
  const std::optional<at::Generator>& generator;
  at::OptionalIntArrayRef key;
  const std::optional<Tensor>& key_tensor;
  Region region;
};

void check_region(const Tensor& self, const Region& region) {
  if (!region.global_shape.has_value()) return;
  TORCH_CHECK_VALUE(region.offsets.has_value(), "a region needs offsets beside its global_shape");
  const IntArrayRef global = *region.global_shape, offsets = *region.offsets;
  TORCH_CHECK_VALUE(
      global.size() == static_cast<size_t>(self.dim()) && offsets.size() == global.size(),
      "region has global_shape ", global, " and offsets ", offsets, ", but the tensor has shape ",
      self.sizes(), "; all three need the same number of dimensions");
  for (int64_t k = 0; k < self.dim(); ++k) {
    TORCH_CHECK_VALUE(
        0 <= offsets[k] && offsets[k] <= global[k] && self.size(k) <= global[k] - offsets[k],
        "region at offsets ", offsets, " of global_shape ", global,
        " does not contain a tensor of shape ", self.sizes(), " (dimension ", k, ")");
  }
}

// All that can be wrong with filling `self`, but for the key. The spec still lacks its key and its
// layout; nothing at all means that there is nothing to fill. `complete` may look at the global
// shape and finish the law.
template <class Complete>
std::optional<FillSpec> checked_spec(const char* op, const Tensor& self, Law law,
                                     const std::optional<Tensor>& scale, const Region& region,
                                     const Complete& complete) {
  FillSpec spec;
  std::tie(spec.dtype, law.complex) = dtype_from(op, self.scalar_type());
  if (self.is_meta() && self.unsafeGetTensorImpl()->has_symbolic_sizes_strides()) return {};
  check_region(self, region);
  const bool empty = checked_numel(region.shape(self)) == 0;
  spec.law = law;
  complete(spec, region.shape(self));
  if (!empty) check_law(spec.law, spec.dtype, op);
  if (scale.has_value()) check_scale(self, *scale);
  if (self.is_meta() || empty) return {};
  check_backend(op, self);
  if (scale.has_value()) set_scale(spec, self, *scale, op);
  at::assert_no_internal_overlap(self);
  return spec;
}

// The key that a key tensor holds. Returns what must live until the fill is launched.
Tensor set_key(FillSpec& spec, const Tensor& self, const Tensor& key) {
  if (!reads_on_device(self) || key.device() != self.device()) {
    TORCH_CHECK_VALUE(key.is_cpu() || self.is_cpu(), "key is on ", key.device(),
                      ", but the tensor to fill is on ", self.device(),
                      "; move the key there or to the CPU");
    const Tensor host = key.cpu().contiguous();
    spec.key = key_from_words(static_cast<const int64_t*>(host.const_data_ptr()));
    return host;
  }
  Tensor words = key.contiguous();
  const auto* word = static_cast<const int64_t*>(words.const_data_ptr());
  spec.device.seed = word;
  spec.device.offset = word + 1;
  return words;
}

void set_key(FillSpec& spec, const Tensor& self, const std::optional<at::Generator>& generator) {
#if defined(FASTINIT_WITH_CUDA)
  if (self.is_cuda()) return take_key_from_cuda(spec, generator, self.device());
#endif
  spec.key = key_from_generator(generator);
}

using FillSpecs = c10::SmallVector<FillSpec, 1>;

// Adds what fills `self`: one spec, or several where a layout has too many dimensions.
void add_layouts(FillSpecs& specs, const Tensor& self, const Region& region, FillSpec spec) {
  const Dims dims = merged_dims(self, region.shape(self), spec.law.complex);
  if (region.offsets.has_value()) {
    uint64_t stride = spec.law.complex ? 2 : 1;
    for (int64_t k = self.dim() - 1; k >= 0; --k) {
      spec.layout.start += stride * static_cast<uint64_t>((*region.offsets)[k]);
      stride *= static_cast<uint64_t>(region.shape(self)[k]);
    }
  }
  spec.data = self.mutable_data_ptr();
  const auto item_size = static_cast<int64_t>(self.element_size()) / (spec.law.complex ? 2 : 1);
  for_each_layout(spec, dims, 0, item_size,
                  [&](const FillSpec& complete) { specs.push_back(complete); });
}

// Fills `self` under `law`.
template <class Complete>
void fill(const char* op, const Tensor& self, const Law& law, const std::optional<Tensor>& scale,
          const Stream& stream, const Complete& complete) {
  const int keys =
      stream.generator.has_value() + stream.key.has_value() + stream.key_tensor.has_value();
  TORCH_CHECK_VALUE(keys <= 1, "generator and key exclude each other; give one of them");
  std::optional<FillSpec> spec = checked_spec(op, self, law, scale, stream.region, complete);
  if (stream.key.has_value()) {
    TORCH_CHECK_VALUE(stream.key->size() == 2, "key has ", stream.key->size(),
                      " numbers; it holds [seed, offset]");
  }
  if (!spec.has_value()) return;
  Tensor key_words;
  if (stream.key.has_value()) {
    spec->key = key_from_words(stream.key->data());
  } else if (stream.key_tensor.has_value()) {
    check_key_tensor(*stream.key_tensor);
    key_words = set_key(*spec, self, *stream.key_tensor);
  } else {
    set_key(*spec, self, stream.generator);
  }
  if (self.numel() == 0) return;  // an empty shard, which has used the generator like any other
  if (spec->sparse.zeros > 0) spec->sparse.key = child_key(spec->key, 0);
  self.unsafeGetTensorImpl()->bump_version();
  FillSpecs specs;
  add_layouts(specs, self, stream.region, *spec);
  run(specs, self);
}

void keep(FillSpec& /*spec*/, IntArrayRef /*global_shape*/) {}

}  // namespace

#define FASTINIT_STREAM                                   \
  Stream {                                                \
    generator, key, key_tensor, { global_shape, offsets } \
  }

void uniform_(const Tensor& self, double low, double high, FASTINIT_STREAM_ARGUMENTS) {
  Law law;
  law.distribution = Distribution::kUniform;
  law.low = low;
  law.high = high;
  fill("uniform_", self, law, std::nullopt, FASTINIT_STREAM, keep);
}

void normal_(const Tensor& self, double mean, double std, const std::optional<Tensor>& scale,
             FASTINIT_STREAM_ARGUMENTS) {
  Law law;
  law.distribution = Distribution::kNormal;
  law.mean = mean;
  law.std = std;
  fill("normal_", self, law, scale, FASTINIT_STREAM, keep);
}

void trunc_normal_(const Tensor& self, double mean, double std, double low, double high,
                   const std::optional<Tensor>& scale, FASTINIT_STREAM_ARGUMENTS) {
  Law law;
  law.distribution = Distribution::kTruncNormal;
  law.mean = mean;
  law.std = std::abs(std);  // the law depends on its square alone
  law.low = low;
  law.high = high;
  fill("trunc_normal_", self, law, scale, FASTINIT_STREAM, keep);
}

void variance_scaling_(const Tensor& self, std::string_view distribution, double gain,
                       const std::optional<Tensor>& scale, std::string_view mode,
                       std::string_view nonlinearity, double parameter,
                       at::OptionalIntArrayRef in_axis, at::OptionalIntArrayRef out_axis,
                       at::OptionalIntArrayRef batch_axis, int64_t groups,
                       FASTINIT_STREAM_ARGUMENTS) {
  const Axes axes{in_axis, out_axis, batch_axis};
  Law law;
  law.fan.mode = fan_mode_from(mode);
  axis_roles(self.dim(), axes);
  law.distribution = distribution_from(distribution);
  law.fan.nonlinearity = nonlinearity_from(nonlinearity);
  const auto complete = [&](FillSpec& spec, IntArrayRef shape) {
    FanSpec fan = fan_spec(shape, axes, groups);
    fan.mode = spec.law.fan.mode;
    fan.nonlinearity = spec.law.fan.nonlinearity;
    fan.parameter = parameter;
    fan.gain = gain;
    spec.law.fan = fan;
  };
  fill("variance_scaling_", self, law, scale, FASTINIT_STREAM, complete);
}

void sparse_(const Tensor& self, double sparsity, double std, FASTINIT_STREAM_ARGUMENTS) {
  TORCH_CHECK_VALUE(self.dim() == 2, "Only tensors with 2 dimensions are supported");
  Law law;
  law.distribution = Distribution::kNormal;
  law.std = std;
  const auto complete = [&](FillSpec& spec, IntArrayRef shape) {
    TORCH_CHECK_VALUE(std::isfinite(sparsity), "sparsity is ", sparsity,
                      "; give the fraction of zeros in a column, 0 to 1");
    TORCH_CHECK_VALUE(shape[0] <= kMaxSparseRows, "a matrix of ", shape[0],
                      " rows is too tall for sparse_, which takes 2^32 - 1 at most");
    const double zeros = std::ceil(sparsity * static_cast<double>(shape[0]));
    spec.sparse.rows = shape[0];
    spec.sparse.cols = shape[1];
    spec.sparse.zeros = static_cast<int64_t>(std::clamp(zeros, 0.0, static_cast<double>(shape[0])));
  };
  fill("sparse_", self, law, std::nullopt, FASTINIT_STREAM, complete);
}

namespace {

// The i-th tensor's part of lists that hold as many numbers a tensor as it has dimensions.
struct Regions {
  const at::OptionalIntArrayRef& global_shape;
  const at::OptionalIntArrayRef& offsets;
  size_t next = 0;

  void check(at::TensorList tensors) const {
    TORCH_CHECK_VALUE(global_shape.has_value() == offsets.has_value(),
                      "multi_fill_ takes global_shape and offsets together or neither");
    if (!global_shape.has_value()) return;
    size_t dims = 0;
    for (const Tensor& tensor : tensors) dims += static_cast<size_t>(tensor.dim());
    TORCH_CHECK_VALUE(global_shape->size() == dims && offsets->size() == dims,
                      "multi_fill_ got global_shape of ", global_shape->size(), " and offsets of ",
                      offsets->size(), " numbers, but the tensors have ", dims,
                      " dimensions in all; give one number a dimension");
  }

  Region of(const Tensor& tensor) {
    if (!global_shape.has_value()) return {};
    const size_t begin = next, count = static_cast<size_t>(tensor.dim());
    next += count;
    return {global_shape->slice(begin, count), offsets->slice(begin, count)};
  }
};

// Two tensors that share memory would get values that depend on which thread comes last.
void check_disjoint(c10::ArrayRef<const Tensor*> tensors) {
  struct Extent {
    const char *begin, *end;
    size_t index;
  };
  std::vector<Extent> extents;
  for (size_t i = 0; i < tensors.size(); ++i) {
    if (tensors[i] == nullptr || !tensors[i]->is_non_overlapping_and_dense()) continue;
    const auto* begin = static_cast<const char*>(tensors[i]->const_data_ptr());
    if (tensors[i]->numel() > 0) extents.push_back({begin, begin + tensors[i]->nbytes(), i});
  }
  const auto before = [](const Extent& a, const Extent& b) { return a.begin < b.begin; };
  std::sort(extents.begin(), extents.end(), before);
  for (size_t i = 1; i < extents.size(); ++i) {
    TORCH_CHECK(extents[i - 1].end <= extents[i].begin, "multi_fill_: tensors ",
                std::min(extents[i - 1].index, extents[i].index), " and ",
                std::max(extents[i - 1].index, extents[i].index),
                " share memory; name each only once");
  }
}

Distribution distribution_from(int64_t code) {
  TORCH_CHECK_VALUE(0 <= code && code <= 2, "distribution must be 0 (uniform), 1 (normal) or 2 ",
                    "(truncated normal), got ", code);
  return static_cast<Distribution>(code);
}

}  // namespace

void multi_fill_(at::TensorList self, IntArrayRef distribution, at::ArrayRef<double> mean,
                 at::ArrayRef<double> std, at::ArrayRef<double> low, at::ArrayRef<double> high,
                 IntArrayRef key, at::OptionalIntArrayRef global_shape,
                 at::OptionalIntArrayRef offsets) {
  const size_t count = self.size();
  for (const size_t size :
       {distribution.size(), mean.size(), std.size(), low.size(), high.size()}) {
    TORCH_CHECK_VALUE(size == count, "multi_fill_ got ", count, " tensors, but a list of ", size,
                      " numbers; distribution, mean, std, low and high hold one a tensor");
  }
  TORCH_CHECK_VALUE(key.size() == 2 * count, "multi_fill_ got ", count, " tensors and ", key.size(),
                    " key words; key holds seed and offset of each tensor in turn");
  Regions regions{global_shape, offsets};
  regions.check(self);
  FillSpecs specs;
  specs.reserve(count);
  std::vector<const Tensor*> targets;
  targets.reserve(count);
  for (size_t i = 0; i < count; ++i) {
    Law law;
    law.distribution = distribution_from(distribution[i]);
    law.mean = mean[i];
    law.std = law.distribution == Distribution::kTruncNormal ? std::abs(std[i]) : std[i];
    law.low = low[i];
    law.high = high[i];
    const Region region = regions.of(self[i]);
    std::optional<FillSpec> spec =
        checked_spec("multi_fill_", self[i], law, std::nullopt, region, keep);
    if (!spec.has_value() || self[i].numel() == 0) continue;
    TORCH_CHECK_VALUE(targets.empty() || targets[0]->device() == self[i].device(),
                      "multi_fill_ got tensors on ", targets[0]->device(), " and on ",
                      self[i].device(), " in one list; call it once for each device");
    targets.push_back(&self[i]);
    spec->key = key_from_words(&key[2 * i]);
    add_layouts(specs, self[i], region, *spec);
  }
  check_disjoint(targets);
  if (targets.empty()) return;
  for (const Tensor* target : targets) target->unsafeGetTensorImpl()->bump_version();
  run(specs, *targets[0]);
}

void refuse_multi_fill_(at::TensorList self, IntArrayRef distribution, at::ArrayRef<double> mean,
                        at::ArrayRef<double> std, at::ArrayRef<double> low,
                        at::ArrayRef<double> high, IntArrayRef key,
                        at::OptionalIntArrayRef global_shape, at::OptionalIntArrayRef offsets) {
  for (const Tensor& tensor : self) {
    TORCH_CHECK_NOT_IMPLEMENTED((tensor.is_cpu() || tensor.is_cuda() || tensor.is_meta()) &&
                                    tensor.layout() == at::kStrided,
                                "multi_fill_ got a tensor on ", tensor.device(), " with layout ",
                                tensor.layout(), "; it fills strided tensors on cpu and cuda");
  }
  multi_fill_(self, distribution, mean, std, low, high, key, global_shape, offsets);
}

void emulate_cuda(int64_t blocks, int64_t threads) {
  TORCH_CHECK_VALUE(blocks >= 0 && threads >= 1, "got ", blocks, " blocks of ", threads,
                    " threads");
  emulated_blocks = blocks;
  emulated_threads = threads;
}

double calculate_gain(std::string_view nonlinearity, double parameter) {
  return gain_of(nonlinearity_from(nonlinearity), parameter);
}

double std_of(IntArrayRef shape, std::string_view mode, std::string_view nonlinearity,
              double parameter, double gain, at::OptionalIntArrayRef in_axis,
              at::OptionalIntArrayRef out_axis, at::OptionalIntArrayRef batch_axis,
              int64_t groups) {
  FanSpec spec = fan_spec(shape, {in_axis, out_axis, batch_axis}, groups);
  spec.mode = fan_mode_from(mode);
  spec.nonlinearity = nonlinearity_from(nonlinearity);
  spec.parameter = parameter;
  spec.gain = gain;
  return std_of(spec);
}

std::pair<int64_t, int64_t> fans(IntArrayRef shape, at::OptionalIntArrayRef in_axis,
                                 at::OptionalIntArrayRef out_axis,
                                 at::OptionalIntArrayRef batch_axis, int64_t groups) {
  const Fans result = fans_of(fan_spec(shape, {in_axis, out_axis, batch_axis}, groups));
  return {result.in, result.out};
}

std::array<uint32_t, 4> philox_block(const std::array<uint32_t, 4>& counter,
                                     const std::array<uint32_t, 2>& key) {
  const auto block = philox(PhiloxBlock<uint64_t>{counter[0], counter[1], counter[2], counter[3]},
                            KeySchedule(key[0] | uint64_t{key[1]} << 32));
  return {static_cast<uint32_t>(block.x0), static_cast<uint32_t>(block.x1),
          static_cast<uint32_t>(block.x2), static_cast<uint32_t>(block.x3)};
}

std::pair<uint64_t, uint64_t> cuda_generator_key(uint64_t seed, uint64_t offset) {
  const StreamKey key = generator_key(seed, offset);
  return {key.seed, key.offset};
}

std::pair<uint64_t, uint64_t> child_key(uint64_t seed, uint64_t offset, uint64_t index) {
  const StreamKey child = child_key(StreamKey{seed, offset}, index);
  return {child.seed, child.offset};
}

}  // namespace fastinit
