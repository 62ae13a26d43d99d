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

void sparse_(const at::Tensor& self, double sparsity, double std, FASTINIT_STREAM_ARGUMENTS);

// The core's own numbers, for Python.
double calculate_gain(std::string_view nonlinearity, double parameter);
std::pair<int64_t, int64_t> fans(at::IntArrayRef shape, at::OptionalIntArrayRef in_axis,
                                 at::OptionalIntArrayRef out_axis,
                                 at::OptionalIntArrayRef batch_axis, int64_t groups);
std::array<uint32_t, 4> philox_block(const std::array<uint32_t, 4>& counter,
                                     const std::array<uint32_t, 2>& key);
std::pair<uint64_t, uint64_t> child_key(uint64_t seed, uint64_t offset, uint64_t index);

}  // namespace fastinit
