// The checks of arguments.h, in the order in which stock initializers make theirs.
#include "arguments.h"

#include <ATen/MemoryOverlap.h>
#include <c10/util/Exception.h>
#include <c10/util/SmallVector.h>

#include <algorithm>
#include <cctype>
#include <cmath>
#include <limits>
#include <string>
#include <tuple>

#include "../core/distributions.h"
#include "backends.h"

namespace fastinit {

using at::IntArrayRef;
using at::Tensor;

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

Distribution distribution_from(int64_t code) {
  TORCH_CHECK_VALUE(0 <= code && code <= 2, "distribution must be 0 (uniform), 1 (normal) or 2 ",
                    "(truncated normal), got ", code);
  return static_cast<Distribution>(code);
}

namespace {

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

}  // namespace

void check_axes(int64_t ndim, const Axes& axes) { axis_roles(ndim, axes); }

std::vector<bool> batch_axes(int64_t ndim, at::OptionalIntArrayRef batch) {
  std::vector<bool> is_batch(static_cast<size_t>(ndim), false);
  const IntArrayRef named = batch.value_or(IntArrayRef{});
  for (const int64_t axis : named) {
    TORCH_CHECK_VALUE(-ndim <= axis && axis < ndim, "batch_axis holds ", axis, ", but a tensor of ",
                      ndim, " dimensions has axes ", -ndim, " to ", ndim - 1);
    const auto at = static_cast<size_t>(axis < 0 ? axis + ndim : axis);
    TORCH_CHECK_VALUE(!is_batch[at], "batch_axis holds ", axis, " twice; name each axis once");
    is_batch[at] = true;
  }
  const int64_t left = ndim - static_cast<int64_t>(named.size());
  TORCH_CHECK_VALUE(left >= 2, "batch_axis ", named, " leaves ", left, " of the tensor's ", ndim,
                    " dimensions, but each matrix needs 2; leave at least two axes out of it");
  return is_batch;
}

void check_scale(const Tensor& self, const Tensor& scale) {
  TORCH_CHECK_VALUE(scale.dim() == 0, "gain or std is a tensor of shape ", scale.sizes(),
                    "; give a number or a 0-dim tensor");
  TORCH_CHECK_TYPE(at::isFloatingType(scale.scalar_type()), "gain or std is a tensor of dtype ",
                   scale.scalar_type(), "; give a floating point one");
  TORCH_CHECK_VALUE(scale.device() == self.device(), "gain or std is a tensor on ", scale.device(),
                    ", but the tensor to fill is on ", self.device(), "; move it there");
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

namespace {

// Std and bounds, as the stock initializers check them.
void check_law(const Law& law, DType dtype, const char* op) {
  const bool has_fan = law.fan.mode != FanMode::kNone;
  const auto [std, low, high] = spread_of(law);
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
  const bool truncated = law.distribution == Distribution::kTruncNormal && !has_fan;
  TORCH_CHECK(std >= 0.0 || (truncated && std < 0.0), "normal expects std >= 0.0, but found std ",
              std);
  TORCH_CHECK(std::isfinite(std), "normal expects a finite std, but found std ", std);
  if (truncated) {
    TORCH_CHECK_VALUE(std != 0.0, op, ": std must not be zero");
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

}  // namespace

Stream::Stream(const Tensor& self, const std::optional<at::Generator>& generator_or_none,
               at::OptionalIntArrayRef key_words, const std::optional<Tensor>& key_or_none,
               at::OptionalIntArrayRef global_shape, at::OptionalIntArrayRef offsets)
    : generator(generator_or_none), key(key_words), key_tensor(key_or_none),
      region{global_shape, offsets, key_or_none.has_value() && key_or_none->dim() == 2} {
  TORCH_CHECK_VALUE(generator.has_value() + key.has_value() + key_tensor.has_value() <= 1,
                    "generator and key exclude each other; give one of them");
  TORCH_CHECK_VALUE(!key.has_value() || key->size() == 2, "key has ", key->size(),
                    " numbers; it holds [seed, offset]");
  if (!key_tensor.has_value()) return;
  const auto keys = key_tensor->sym_sizes();
  TORCH_CHECK_TYPE(key_tensor->scalar_type() == at::kUInt64, "key has dtype ",
                   key_tensor->scalar_type(), "; a key tensor holds [seed, offset] as uint64");
  TORCH_CHECK_VALUE(
      (keys.size() == 1 || keys.size() == 2) && keys.back() == 2, "key has shape ", keys,
      "; a key tensor holds [seed, offset], shape (2,), or one key for each slice, shape (n, 2)");
  if (!region.each) return;
  TORCH_CHECK_VALUE(!global_shape.has_value(),
                    "key holds a key for each slice of the tensor, which has a region; fill the "
                    "slices one by one");
  TORCH_CHECK_VALUE(self.dim() >= 1 && keys[0] == self.sym_size(0), "key holds ", keys[0],
                    " keys, but the tensor has shape ", self.sym_sizes(),
                    "; give one key for each of its slices along axis 0");
}

bool check_fill(FillSpec& spec, const char* op, const Tensor& self,
                const std::optional<Tensor>& scale, const Region& region, Complete complete) {
  std::tie(spec.dtype, spec.law.complex) = dtype_from(op, self.scalar_type());
  if (self.is_meta() && self.unsafeGetTensorImpl()->has_symbolic_sizes_strides()) return false;
  check_region(self, region);
  const bool empty = checked_numel(region.shape(self)) == 0;
  complete(spec, region.shape(self));
  // Without elements a fan may be 0, and std infinite.
  if (!empty || std::isfinite(spread_of(spec.law).std)) check_law(spec.law, spec.dtype, op);
  if (scale.has_value()) check_scale(self, *scale);
  if (self.is_meta() || empty) return false;
  check_backend(op, self);
  if (scale.has_value()) set_scale(spec, self, *scale, op);
  at::assert_no_internal_overlap(self);
  return true;
}

void keep(FillSpec& /*spec*/, IntArrayRef /*global_shape*/) {}

}  // namespace fastinit
