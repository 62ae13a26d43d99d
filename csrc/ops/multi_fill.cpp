// The fill of many tensors at once.
#include <c10/util/Exception.h>

#include <algorithm>
#include <vector>

#include "arguments.h"
#include "backends.h"
#include "layouts.h"
#include "ops.h"

namespace fastinit {

using at::IntArrayRef;
using at::Tensor;

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

// Two tensors that share memory would get values that depend on which thread comes last. Tensors
// with gaps are not looked at: their extents may well interleave.
void check_disjoint(c10::ArrayRef<const Tensor*> tensors) {
  struct Extent {
    const char *begin, *end;
    size_t index;
  };
  std::vector<Extent> extents;
  for (size_t i = 0; i < tensors.size(); ++i) {
    if (!tensors[i]->is_non_overlapping_and_dense()) continue;
    const auto* begin = static_cast<const char*>(tensors[i]->const_data_ptr());
    if (tensors[i]->numel() > 0) extents.push_back({begin, begin + tensors[i]->nbytes(), i});
  }
  const auto before = [](const Extent& a, const Extent& b) { return a.begin < b.begin; };
  if (!std::is_sorted(extents.begin(), extents.end(), before)) {
    std::sort(extents.begin(), extents.end(), before);
  }
  for (size_t i = 1; i < extents.size(); ++i) {
    TORCH_CHECK(extents[i - 1].end <= extents[i].begin, "multi_fill_: tensors ",
                std::min(extents[i - 1].index, extents[i].index), " and ",
                std::max(extents[i - 1].index, extents[i].index),
                " share memory; name each only once");
  }
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
    FillSpec& spec = specs.emplace_back();
    spec.law.distribution = distribution_from(distribution[i]);
    spec.law.mean = mean[i];
    spec.law.std = std[i];
    spec.law.low = low[i];
    spec.law.high = high[i];
    spec.key = key_from_words(&key[2 * i]);
    const Region region = regions.of(self[i]);
    if (!check_fill(spec, "multi_fill_", self[i], std::nullopt, region, keep) ||
        self[i].numel() == 0) {
      specs.pop_back();
      continue;
    }
    TORCH_CHECK_VALUE(targets.empty() || targets[0]->device() == self[i].device(),
                      "multi_fill_ got tensors on ", targets[0]->device(), " and on ",
                      self[i].device(), " in one list; call it once for each device");
    targets.push_back(&self[i]);
    add_layout(specs, self[i], region);
  }
  check_disjoint(targets);
  if (targets.empty()) return;
  for (const Tensor* target : targets) target->unsafeGetTensorImpl()->bump_version();
  run(specs, targets);
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

}  // namespace fastinit
