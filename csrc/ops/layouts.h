// The layout of a tensor as the engines see it: the dimensions of memory and stream, merged as far
// as both allow.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/ArrayRef.h>
#include <c10/util/OptionalArrayRef.h>
#include <c10/util/SmallVector.h>

#include "../core/spec.h"

namespace fastinit {

// Which part of a larger tensor a tensor is, all of it by default: the rectangle at `offsets`; the
// elements from offsets[0] on of that tensor flattened, if it is of one dimension and the larger
// one of another number; or `each` of its slices along axis 0 is a whole tensor. check_region()
// throws where it is none of these.
struct Region {
  at::OptionalIntArrayRef global_shape, offsets;
  bool each = false;

  // Of the global tensor.
  int64_t dim(const at::Tensor& self) const {
    return global_shape.has_value() ? static_cast<int64_t>(global_shape->size())
                                    : self.dim() - (each ? 1 : 0);
  }
  at::IntArrayRef shape(const at::Tensor& self) const {
    return global_shape.value_or(self.sizes().slice(each ? 1 : 0));
  }
  bool is_flat(const at::Tensor& self) const {
    return global_shape.has_value() && global_shape->size() != 1 && self.dim() == 1 &&
           offsets.has_value() && offsets->size() == 1;
  }
};
void check_region(const at::Tensor& self, const Region& region);

// Refuses more elements than there are indices: those of real numbers, two a complex element, must
// fit 64 bits without sign.
int64_t checked_numel(at::IntArrayRef shape);

// Gives the last spec the layout of `self`, or of one of its slices; makes it several where that
// has too many dimensions.
using FillSpecs = c10::SmallVector<FillSpec, 1>;
void add_layout(FillSpecs& specs, const at::Tensor& self, const Region& region, int64_t slice = 0);

}  // namespace fastinit
