// The fill of one tensor. One function serves CPU, CUDA and meta, so that a refusal is the same
// everywhere.
#include "ops.h"

#include <c10/util/Exception.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <tuple>

#include "../core/blake2b.h"
#include "../core/distributions.h"
#include "../core/sparse.h"
#include "arguments.h"
#include "backends.h"
#include "layouts.h"

namespace fastinit {

using at::IntArrayRef;
using at::Tensor;

namespace {

// The specs of a fill of `self`, but for those that a layout adds, from one that lacks only its
// key.
FillSpecs with_keys(const FillSpec& spec, const Tensor& self, const Stream& stream,
                    const std::optional<KeyWords>& words) {
  FillSpecs specs;
  const int64_t count = stream.region.each ? self.size(0) : 1;
  specs.reserve(count);
  for (int64_t i = 0; i < count; ++i) {
    FillSpec& one = specs.emplace_back(spec);
    if (words.has_value()) words->set_key(one, i);
    if (one.sparse.zeros > 0) one.sparse.key = child_key(one.key, 0);
    add_layout(specs, self, stream.region, i);
  }
  return specs;
}

// Fills `self` by a law that `complete` may finish.
void fill(const char* op, const Tensor& self, const Law& law, const std::optional<Tensor>& scale,
          const Stream& stream, Complete complete) {
  FillSpec spec;
  spec.law = law;
  if (!check_fill(spec, op, self, scale, stream.region, complete)) return;
  std::optional<KeyWords> words;
  if (stream.key.has_value()) {
    spec.key = key_from_words(stream.key->data());
  } else if (stream.key_tensor.has_value()) {
    words.emplace(self, *stream.key_tensor);
  } else {
    set_key(spec, self, stream.generator);
  }
  if (self.numel() == 0) return;  // an empty shard, which has used the generator like any other
  const FillSpecs specs = with_keys(spec, self, stream, words);
  self.unsafeGetTensorImpl()->bump_version();
  run(specs, {&self});
}

}  // namespace

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
  law.std = std;
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
  const Stream stream = FASTINIT_STREAM;
  Law law;
  law.fan.mode = fan_mode_from(mode);
  check_axes(stream.region.dim(self), axes);
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
  fill("variance_scaling_", self, law, scale, stream, complete);
}

void sparse_(const Tensor& self, double sparsity, double std, const std::optional<Tensor>& scale,
             FASTINIT_STREAM_ARGUMENTS) {
  const Stream stream = FASTINIT_STREAM;
  TORCH_CHECK_VALUE(stream.region.dim(self) == 2, "Only tensors with 2 dimensions are supported");
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
  fill("sparse_", self, law, scale, stream, complete);
}

double calculate_gain(std::string_view nonlinearity, double parameter) {
  return gain_of(nonlinearity_from(nonlinearity), parameter);
}

std::array<double, 3> std_and_bounds(IntArrayRef shape, std::string_view distribution, bool complex,
                                     double gain, std::string_view mode,
                                     std::string_view nonlinearity, double parameter,
                                     at::OptionalIntArrayRef in_axis,
                                     at::OptionalIntArrayRef out_axis,
                                     at::OptionalIntArrayRef batch_axis, int64_t groups) {
  Law law;
  law.distribution = distribution_from(distribution);
  law.complex = complex;
  law.fan = fan_spec(shape, {in_axis, out_axis, batch_axis}, groups);
  law.fan.mode = fan_mode_from(mode);
  law.fan.nonlinearity = nonlinearity_from(nonlinearity);
  law.fan.parameter = parameter;
  law.fan.gain = gain;
  const Spread spread = spread_of(law);
  return {spread.std, spread.low, spread.high};
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

std::pair<uint64_t, uint64_t> cpu_generator_key(const std::optional<at::Generator>& generator) {
  const StreamKey key = key_from_generator(generator);
  return {key.seed, key.offset};
}

std::pair<uint64_t, uint64_t> cuda_generator_key(uint64_t seed, uint64_t offset) {
  const StreamKey key = generator_key(seed, offset);
  return {key.seed, key.offset};
}

std::pair<uint64_t, uint64_t> child_key(uint64_t seed, uint64_t offset, uint64_t index) {
  const StreamKey child = child_key(StreamKey{seed, offset}, index);
  return {child.seed, child.offset};
}

std::vector<std::pair<int64_t, int64_t>> named_keys(uint64_t seed, uint64_t offset,
                                                    const std::vector<std::string_view>& names) {
  std::vector<std::pair<int64_t, int64_t>> keys;
  keys.reserve(names.size());
  for (const std::string_view name : names) {
    const uint64_t index = Blake2b::digest(name.data(), name.size());
    const StreamKey child = child_key(StreamKey{seed, offset}, index);
    keys.emplace_back(static_cast<int64_t>(child.seed), static_cast<int64_t>(child.offset));
  }
  return keys;
}

std::vector<uintptr_t> addresses(const std::vector<Tensor>& tensors) {
  std::vector<uintptr_t> found;
  found.reserve(tensors.size());
  for (const Tensor& tensor : tensors) {
    const bool plain = tensor.is_cpu() && tensor.layout() == at::kStrided && tensor.has_storage() &&
                       !tensor.key_set().has(at::DispatchKey::Python);
    found.push_back(plain ? reinterpret_cast<uintptr_t>(tensor.const_data_ptr()) : 0);
  }
  return found;
}

std::vector<size_t> first_alike(const std::vector<Tensor>& tensors) {
  std::map<std::tuple<at::DeviceType, at::DeviceIndex, at::ScalarType, std::vector<int64_t>>,
           size_t>
      first;
  std::vector<size_t> found;
  found.reserve(tensors.size());
  for (size_t i = 0; i < tensors.size(); ++i) {
    const Tensor& tensor = tensors[i];
    const at::Device device = tensor.device();
    found.push_back(
        first
            .try_emplace(
                {device.type(), device.index(), tensor.scalar_type(), tensor.sizes().vec()}, i)
            .first->second);
  }
  return found;
}

std::vector<std::optional<int64_t>> versions(const std::vector<Tensor>& tensors) {
  std::vector<std::optional<int64_t>> found;
  found.reserve(tensors.size());
  for (const Tensor& tensor : tensors) {
    found.push_back(tensor.is_inference() ? std::nullopt : std::optional(tensor._version()));
  }
  return found;
}

}  // namespace fastinit
