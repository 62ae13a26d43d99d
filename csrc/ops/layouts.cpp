// From sizes and strides to what the engines iterate over.
#include "layouts.h"

#include <c10/util/Exception.h>

#include <algorithm>

namespace fastinit {

using at::IntArrayRef;
using at::Tensor;

void check_region(const Tensor& self, const Region& region) {
  if (!region.global_shape.has_value()) return;
  TORCH_CHECK_VALUE(region.offsets.has_value(), "a region needs offsets beside its global_shape");
  const IntArrayRef global = *region.global_shape, offsets = *region.offsets;
  if (region.is_flat(self)) {
    const int64_t numel = checked_numel(global);
    TORCH_CHECK_VALUE(0 <= offsets[0] && offsets[0] <= numel && self.size(0) <= numel - offsets[0],
                      "region from element ", offsets[0], " of global_shape ", global,
                      ", which has ", numel, ", does not contain a tensor of ", self.size(0),
                      " elements");
    return;
  }
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

int64_t checked_numel(IntArrayRef shape) {
  int64_t numel = 1;
  for (const int64_t size : shape) {
    TORCH_CHECK_VALUE(!__builtin_mul_overflow(numel, size, &numel), "a tensor of shape ", shape,
                      " has more than 2^63 - 1 elements; fill it in smaller tensors");
  }
  return numel;
}

namespace {

// One dimension of a tensor as the engines see it.
struct Dim {
  int64_t size, stride;
  uint64_t global_stride;
};
using Dims = c10::SmallVector<Dim, 2 * kMaxDims>;

// A tensor of these sizes and strides as a rectangle of a tensor of `global_shape`, real numbers
// throughout, its dimensions merged as far as both memory and stream allow.
Dims merged_dims(IntArrayRef sizes, IntArrayRef strides, IntArrayRef global_shape, bool complex) {
  Dims dims;
  const int64_t unit = complex ? 2 : 1;
  auto global_stride = static_cast<uint64_t>(unit);
  if (complex) dims.push_back({2, 1, 1});
  for (size_t k = sizes.size(); k-- > 0;) {
    const Dim dim{sizes[k], strides[k] * unit, global_stride};
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

// The dimensions from `first` on, which a Layout has room for.
void set_dims(Layout& layout, const Dims& dims, size_t first) {
  layout.numel = 1;
  layout.ndim = static_cast<int32_t>(dims.size() - first);
  for (int k = 0; k < layout.ndim; ++k) {
    const Dim& dim = dims[first + static_cast<size_t>(k)];
    layout.size[k] = dim.size;
    layout.stride[k] = dim.stride;
    layout.global_stride[k] = dim.global_stride;
    layout.numel *= dim.size;
  }
}

// Appends a spec for each slice that a Layout has room for.
void append_slices(FillSpecs& specs, FillSpec spec, const Dims& dims, size_t first,
                   int64_t item_size) {
  if (dims.size() - first <= kMaxDims) {
    set_dims(spec.layout, dims, first);
    specs.push_back(spec);
    return;
  }
  const Dim& dim = dims[first];
  for (int64_t i = 0; i < dim.size; ++i) {
    append_slices(specs, spec, dims, first + 1, item_size);
    spec.data = static_cast<char*>(spec.data) + dim.stride * item_size;
    spec.layout.start += dim.global_stride;
  }
}

}  // namespace

void add_layout(FillSpecs& specs, const Tensor& self, const Region& region, int64_t slice) {
  FillSpec& spec = specs.back();
  const size_t first = region.each ? 1 : 0;
  IntArrayRef shape = region.shape(self);
  const int64_t flat[] = {region.is_flat(self) ? checked_numel(shape) : 0};
  if (region.is_flat(self)) shape = flat;
  const Dims dims =
      merged_dims(self.sizes().slice(first), self.strides().slice(first), shape, spec.law.complex);
  if (region.offsets.has_value()) {
    uint64_t stride = spec.law.complex ? 2 : 1;
    for (size_t k = shape.size(); k-- > 0;) {
      spec.layout.start += stride * static_cast<uint64_t>((*region.offsets)[k]);
      stride *= static_cast<uint64_t>(shape[k]);
    }
  }
  spec.data = self.mutable_data_ptr();
  if (region.each) {
    const auto bytes = slice * self.stride(0) * static_cast<int64_t>(self.element_size());
    spec.data = static_cast<char*>(spec.data) + bytes;
  }
  if (dims.size() <= kMaxDims) return set_dims(spec.layout, dims, 0);
  const auto item_size = static_cast<int64_t>(self.element_size()) / (spec.law.complex ? 2 : 1);
  append_slices(specs, specs.pop_back_val(), dims, 0, item_size);
}

}  // namespace fastinit
