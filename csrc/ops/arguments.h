// What a caller may say, and the refusal of the rest: names, dtypes, axes and bounds, each checked
// here and nowhere else. Every refusal is a TypeError, ValueError, RuntimeError or
// NotImplementedError that leaves the tensor as it was.
#pragma once

#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>
#include <c10/util/ArrayRef.h>
#include <c10/util/FunctionRef.h>
#include <c10/util/OptionalArrayRef.h>

#include <optional>
#include <string_view>
#include <vector>

#include "../core/spec.h"
#include "layouts.h"

namespace fastinit {

FanMode fan_mode_from(std::string_view name);
Nonlinearity nonlinearity_from(std::string_view name);
Distribution distribution_from(std::string_view name);
Distribution distribution_from(int64_t code);

// Which axes a layer sums over, produces, and merely repeats; by default those of Linear and Conv.
struct Axes {
  at::OptionalIntArrayRef in, out, batch;
};
void check_axes(int64_t ndim, const Axes& axes);
FanSpec fan_spec(at::IntArrayRef shape, const Axes& axes, int64_t groups);

// Which axes number matrices, of at least two dimensions each.
std::vector<bool> batch_axes(int64_t ndim, at::OptionalIntArrayRef batch);

// Checks a gain or std that is a tensor.
void check_scale(const at::Tensor& self, const at::Tensor& scale);

// Where the random words come from, and which part of a larger tensor is filled with them. A key
// tensor of two dimensions holds one key for each slice of the tensor along axis 0.
struct Stream {
  const std::optional<at::Generator>& generator;
  at::OptionalIntArrayRef key;
  const std::optional<at::Tensor>& key_tensor;
  Region region;

  Stream(const at::Tensor& self, const std::optional<at::Generator>& generator,
         at::OptionalIntArrayRef key, const std::optional<at::Tensor>& key_tensor,
         at::OptionalIntArrayRef global_shape, at::OptionalIntArrayRef offsets);
};
// From the arguments of an operator.
#define FASTINIT_STREAM Stream(self, generator, key, key_tensor, global_shape, offsets)

// Checks all that can be wrong with filling `self` by the law in `spec`, but for the key, and adds
// dtype and scale to the spec, which then lacks its key and its layout. False if there is nothing
// to fill. `complete` may look at the global shape and finish the law.
using Complete = c10::function_ref<void(FillSpec& spec, at::IntArrayRef global_shape)>;
bool check_fill(FillSpec& spec, const char* op, const at::Tensor& self,
                const std::optional<at::Tensor>& scale, const Region& region, Complete complete);
void keep(FillSpec& spec, at::IntArrayRef global_shape);  // the `complete` that finishes nothing

}  // namespace fastinit
