// The operators, in terms of tensors: torch.ops.fastinit.* and the entries of fastinit._C. Each
// fills `self` in place, or throws TypeError, ValueError or RuntimeError and leaves it as it was.
#pragma once

#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>
#include <c10/util/ArrayRef.h>

#include <array>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

namespace fastinit {

// Where the random words come from and which part of a larger tensor `self` is. At most one of the
// first three is given; with none, the key is drawn from the device's default generator.
#define FASTINIT_STREAM_ARGUMENTS                                                       \
  const std::optional<at::Generator>&generator, at::OptionalIntArrayRef key,            \
      const std::optional<at::Tensor>&key_tensor, at::OptionalIntArrayRef global_shape, \
      at::OptionalIntArrayRef offsets

void uniform_(const at::Tensor& self, double low, double high, FASTINIT_STREAM_ARGUMENTS);

void normal_(const at::Tensor& self, double mean, double std,
             const std::optional<at::Tensor>& scale, FASTINIT_STREAM_ARGUMENTS);

void trunc_normal_(const at::Tensor& self, double mean, double std, double low, double high,
                   const std::optional<at::Tensor>& scale, FASTINIT_STREAM_ARGUMENTS);

void variance_scaling_(const at::Tensor& self, std::string_view distribution, double gain,
                       const std::optional<at::Tensor>& scale, std::string_view mode,
                       std::string_view nonlinearity, double parameter,
                       at::OptionalIntArrayRef in_axis, at::OptionalIntArrayRef out_axis,
                       at::OptionalIntArrayRef batch_axis, int64_t groups,
                       FASTINIT_STREAM_ARGUMENTS);

void sparse_(const at::Tensor& self, double sparsity, double std,
             const std::optional<at::Tensor>& scale, FASTINIT_STREAM_ARGUMENTS);

// One matrix for each index of the batch axes: rows along the first of the others, the rest
// flattened to columns. Rows or columns, whichever are fewer, are orthonormal times gain.
void orthogonal_(const at::Tensor& self, double gain, const std::optional<at::Tensor>& scale,
                 at::OptionalIntArrayRef batch_axis, FASTINIT_STREAM_ARGUMENTS);

// Fills every tensor of a list, tensor i with distribution[i] (0 uniform, 1 normal, 2 truncated
// normal), mean[i] and so on, under the key (key[2i], key[2i + 1]): the values that a single fill
// gives. Numbers a distribution does not use are ignored. global_shape and offsets hold the regions
// of all tensors one after the other, a number a dimension. Nothing is written if anything is wrong
// with any tensor. Empty tensors and those on meta are passed over.
void multi_fill_(at::TensorList self, at::IntArrayRef distribution, at::ArrayRef<double> mean,
                 at::ArrayRef<double> std, at::ArrayRef<double> low, at::ArrayRef<double> high,
                 at::IntArrayRef key, at::OptionalIntArrayRef global_shape,
                 at::OptionalIntArrayRef offsets);
// The same where the list names no backend: one without tensors, or with some that nobody fills.
void refuse_multi_fill_(at::TensorList self, at::IntArrayRef distribution,
                        at::ArrayRef<double> mean, at::ArrayRef<double> std,
                        at::ArrayRef<double> low, at::ArrayRef<double> high, at::IntArrayRef key,
                        at::OptionalIntArrayRef global_shape, at::OptionalIntArrayRef offsets);

// Adds the elements of `values`, whose memory holds `inner` elements of a unit and then those of
// the next, to the rows of fastinit.diagnostics.watching.moments, (2, 7) in double, and to the
// peaks of the units, (2, units) in float. An element at or beyond low or high counts as saturated.
void measure_(const at::Tensor& rows, const at::Tensor& peaks, const at::Tensor& values,
              int64_t inner, double low, double high);

// The core's own numbers, for Python.
double calculate_gain(std::string_view nonlinearity, double parameter);
// Standard deviation and bounds of a law with a fan, as variance_scaling_ takes it.
std::array<double, 3> std_and_bounds(at::IntArrayRef shape, std::string_view distribution,
                                     bool complex, double gain, std::string_view mode,
                                     std::string_view nonlinearity, double parameter,
                                     at::OptionalIntArrayRef in_axis,
                                     at::OptionalIntArrayRef out_axis,
                                     at::OptionalIntArrayRef batch_axis, int64_t groups);
std::pair<int64_t, int64_t> fans(at::IntArrayRef shape, at::OptionalIntArrayRef in_axis,
                                 at::OptionalIntArrayRef out_axis,
                                 at::OptionalIntArrayRef batch_axis, int64_t groups);
std::array<uint32_t, 4> philox_block(const std::array<uint32_t, 4>& counter,
                                     const std::array<uint32_t, 2>& key);
std::pair<uint64_t, uint64_t> child_key(uint64_t seed, uint64_t offset, uint64_t index);
// The keys of the children that names stand for, in signed words, as fills take them.
std::vector<std::pair<int64_t, int64_t>> named_keys(uint64_t seed, uint64_t offset,
                                                    const std::vector<std::string_view>& names);

// What Python would ask thousands of tensors one by one.
// Where the values of plain tensors in main memory begin; 0 for a tensor of any other kind.
std::vector<uintptr_t> addresses(const std::vector<at::Tensor>& tensors);
// For each tensor the index of the first that has its shape, dtype and device.
std::vector<size_t> first_alike(const std::vector<at::Tensor>& tensors);
// How often each was written to; nothing of inference tensors, which do not count.
std::vector<std::optional<int64_t>> versions(const std::vector<at::Tensor>& tensors);
// The key that a CPU generator, by default the default one, gives next.
std::pair<uint64_t, uint64_t> cpu_generator_key(const std::optional<at::Generator>& generator);
// The key that a CUDA generator's state gives.
std::pair<uint64_t, uint64_t> cuda_generator_key(uint64_t seed, uint64_t offset);

}  // namespace fastinit
