// Polynomials in lanes. Apart from lanes.h, because a pack's overloads must be declared in between.
#pragma once

#include "lanes.h"

namespace fastinit {
inline namespace FASTINIT_ISA {

// c0 + c1 x + c2 x^2 + ... by Horner's rule with fused multiply-adds, highest power first in time.
template <class F>
FASTINIT_HD F polynomial(F, Scalar<F> c0) {
  return splat<F>(c0);
}
template <class F, class... Rest>
FASTINIT_HD F polynomial(F x, Scalar<F> c0, Rest... rest) {
  return fma(polynomial(x, rest...), x, splat<F>(c0));
}

}  // namespace FASTINIT_ISA
}  // namespace fastinit
