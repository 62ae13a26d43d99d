// Moments of values that stream by, and how two sets of them become one. Plain numbers; knows
// neither tensors nor threads. Source: Chan, Golub and LeVeque, Updating formulae and a pairwise
// algorithm for computing sample variances (1979).
#pragma once

#include <cstdint>

#include "macros.h"
#include "spec.h"

namespace fastinit {

// Of the finite values: mean, sum of squared deviations (m2) and largest magnitude.
struct Moments {
  int64_t count = 0;      // of all values
  int64_t nonfinite = 0;  // of them nan or infinite
  int64_t saturated = 0;  // of them at or beyond the bounds
  double mean = 0.0;
  double m2 = 0.0;
  double abs_max = 0.0;
};

inline namespace FASTINIT_ISA {

FASTINIT_HD void merge_moments(Moments& into, const Moments& other) {
  const auto have = static_cast<double>(into.count - into.nonfinite);
  const auto add = static_cast<double>(other.count - other.nonfinite);
  if (add > 0) {
    const double delta = other.mean - into.mean;
    into.mean += delta * (add / (have + add));
    into.m2 += other.m2 + delta * delta * (have * add / (have + add));
    into.abs_max = into.abs_max > other.abs_max ? into.abs_max : other.abs_max;
  }
  into.count += other.count;
  into.nonfinite += other.nonfinite;
  into.saturated += other.saturated;
}

}  // namespace FASTINIT_ISA

// Dense values whose memory holds `inner` elements of a unit, then those of the next one.
struct MomentsSpec {
  const void* data = nullptr;
  DType dtype = DType::kFloat32;  // or kBFloat16
  int64_t units = 1;
  int64_t inner = 1;
  float low = 0.0f;  // bounds of saturation
  float high = 0.0f;
  bool bounded = false;
};

}  // namespace fastinit
