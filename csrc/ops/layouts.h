// The layout of a tensor as the engines see it: the dimensions of memory and stream, merged as far
// as both allow.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/ArrayRef.h>
#include <c10/util/OptionalArrayRef.h>
#include <c10/util/SmallVector.h>

#include "../core/spec.h"

namespace fastinit {

// Which part of a larger tensor a tensor is; all of it by default. check_region() throws where it
// is none.
struct Region {
  at::OptionalIntArrayRef global_shape, offsets;

  at::IntArrayRef shape(const at::Tensor& self) const {
    return global_shape.value_or(self.sizes());
  }
};
void check_region(const at::Tensor& self, const Region& region);

// Refuses more elements than there are indices: those of real numbers, two a complex element, must
// fit 64 bits without sign.
int64_t checked_numel(at::IntArrayRef shape);

// Gives the last spec the layout of `self`; makes it several where that has too many dimensions.
using FillSpecs = c10::SmallVector<FillSpec, 1>;
void add_layout(FillSpecs& specs, const at::Tensor& self, const Region& region);

}  // namespace fastinit
