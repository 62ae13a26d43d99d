// Moments of values that stream by, and how two sets of them become one. Plain numbers; knows
// neither tensors nor threads. Source: Chan, Golub and LeVeque, Updating formulae and a pairwise
// algorithm for computing sample variances (1979).
#pragma once

#include <cstdint>

#include "lanes.h"
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

// A row of numbers: count, mean, m2, abs_max, dead, saturated, nonfinite. A count of zero says that
// it is empty.
constexpr int kRowColumns = 7;

// The largest magnitude that a unit has shown, in a row's peak: with one more, given as a word, in
// which nan lies above infinity.
FASTINIT_HD float raised_peak(float peak, int32_t word, bool empty) {
  constexpr int32_t kInfinityWord = 0x7f800000;
  const float magnitude = bit_cast<float>(word < kInfinityWord ? word : kInfinityWord);
  return empty || magnitude > peak ? magnitude : peak;
}

// Adds to a row what was found; `dead` of so many units have been zero throughout.
FASTINIT_HD void add_to_row(double* row, const Moments& found, int64_t dead, int64_t units) {
  Moments moments;
  moments.count = static_cast<int64_t>(row[0]);
  moments.mean = row[1];
  moments.m2 = row[2];
  moments.abs_max = row[3];
  moments.saturated = static_cast<int64_t>(row[5]);
  moments.nonfinite = static_cast<int64_t>(row[6]);
  merge_moments(moments, found);
  row[0] = static_cast<double>(moments.count);
  row[1] = moments.mean;
  row[2] = moments.m2;
  row[3] = moments.abs_max;
  row[4] = static_cast<double>(dead) / static_cast<double>(units);
  row[5] = static_cast<double>(moments.saturated);
  row[6] = static_cast<double>(moments.nonfinite);
}

}  // namespace FASTINIT_ISA

// Dense values whose memory holds `inner` elements of a unit, then those of the next one.
struct MomentsSpec {
  const void* data = nullptr;
  DType dtype = DType::kFloat32;  // or kBFloat16, on CUDA devices also kFloat16
  int64_t numel = 0;
  int64_t units = 1;
  int64_t inner = 1;
  float low = 0.0f;  // bounds of saturation
  float high = 0.0f;
  bool bounded = false;
};

}  // namespace fastinit
