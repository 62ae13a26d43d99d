// From the dtype and the distribution of a fill, known when it runs, to those of its code: the only
// switches over them. run.operator()<...>() is called with what they name.
#pragma once

#include "macros.h"
#include "spec.h"

namespace fastinit {
inline namespace FASTINIT_ISA {

FASTINIT_ANY_CALLEE
template <class Run>
FASTINIT_HD auto with_dtype(DType dtype, const Run& run) {
  switch (dtype) {
    case DType::kFloat16:
      return run.template operator()<DType::kFloat16>();
    case DType::kBFloat16:
      return run.template operator()<DType::kBFloat16>();
    case DType::kFloat32:
      return run.template operator()<DType::kFloat32>();
    case DType::kFloat64:
      return run.template operator()<DType::kFloat64>();
    case DType::kFloat8E4M3:
      return run.template operator()<DType::kFloat8E4M3>();
    default:
      return run.template operator()<DType::kFloat8E5M2>();
  }
}

FASTINIT_ANY_CALLEE
template <class Run>
FASTINIT_HD auto with_distribution(Distribution distribution, const Run& run) {
  switch (distribution) {
    case Distribution::kUniform:
      return run.template operator()<Distribution::kUniform>();
    case Distribution::kNormal:
      return run.template operator()<Distribution::kNormal>();
    default:
      return run.template operator()<Distribution::kTruncNormal>();
  }
}

// Of both, in this order.
template <class Run>
auto with_kind(const FillSpec& spec, const Run& run) {
  return with_distribution(spec.law.distribution, [&]<Distribution distribution> {
    return with_dtype(spec.dtype,
                      [&]<DType dtype> { return run.template operator()<distribution, dtype>(); });
  });
}

}  // namespace FASTINIT_ISA
}  // namespace fastinit
