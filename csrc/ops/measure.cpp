// The operator behind activation monitors: one pass over a tensor, into rows of numbers.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "../kernels.h"
#include "backends.h"
#include "ops.h"

namespace fastinit {

using at::Tensor;

namespace {

constexpr int64_t kGrain = 65536;  // elements; below it a thread costs more than it saves
constexpr int64_t kUnit = 4096;    // threads begin at multiples of this many
constexpr int kRows = 2;
constexpr int kColumns = 7;  // count, mean, m2, abs_max, dead, saturated, nonfinite

void check(const Tensor& rows, const Tensor& peaks, const Tensor& values, int64_t inner) {
  TORCH_CHECK_VALUE(rows.is_cpu() && rows.scalar_type() == at::kDouble && rows.is_contiguous() &&
                        rows.sizes() == at::IntArrayRef({kRows, kColumns}),
                    "rows must be a contiguous float64 tensor of shape (2, 7) on the CPU, got ",
                    rows.scalar_type(), " ", rows.sizes(), " on ", rows.device());
  TORCH_CHECK_VALUE(
      peaks.is_cpu() && peaks.scalar_type() == at::kFloat && peaks.is_contiguous() &&
          peaks.dim() == 2 && peaks.size(0) == kRows && peaks.size(1) > 0,
      "peaks must be a contiguous float32 tensor of shape (2, units) on the CPU, got ",
      peaks.scalar_type(), " ", peaks.sizes(), " on ", peaks.device());
  TORCH_CHECK_VALUE(
      values.is_cpu() && values.is_non_overlapping_and_dense() &&
          (values.scalar_type() == at::kFloat || values.scalar_type() == at::kBFloat16),
      "values must be a dense float32 or bfloat16 tensor on the CPU, got ", values.scalar_type(),
      " ", values.sizes(), " on ", values.device());
  TORCH_CHECK_VALUE(inner > 0 && values.numel() % (inner * peaks.size(1)) == 0, "inner is ", inner,
                    ", but ", values.numel(), " values do not divide into ", peaks.size(1),
                    " units of as many elements");
}

// What one thread found.
struct Found {
  Moments moments;
  std::vector<int32_t> peaks;
};

// All elements, by as many threads as are worth it; merged in the order of the memory.
Found measure_all(const MomentsSpec& spec, int64_t numel) {
  const int64_t threads = std::clamp<int64_t>(numel / kGrain, 1, available_threads());
  std::vector<Found> found(threads);
  const int64_t share = ((numel + threads - 1) / threads + kUnit - 1) / kUnit * kUnit;
  const auto work = [&](int64_t from, int64_t to) {
    for (int64_t i = from; i < to; ++i) {
      found[i].peaks.resize(spec.units);
      cpu::measure(spec, std::min(i * share, numel), std::min((i + 1) * share, numel),
                   found[i].moments, found[i].peaks.data());
    }
  };
  if (threads == 1) {
    work(0, 1);
  } else {
    at::parallel_for(0, threads, 1, work);
  }
  for (int64_t i = 1; i < threads; ++i) {
    merge_moments(found[0].moments, found[i].moments);
    for (int64_t u = 0; u < spec.units; ++u) {
      found[0].peaks[u] = std::max(found[0].peaks[u], found[i].peaks[u]);
    }
  }
  return std::move(found[0]);
}

void add(double* row, float* peak, const Found& found, int64_t units) {
  const bool empty = row[0] == 0;
  int64_t dead = 0;
  for (int64_t u = 0; u < units; ++u) {
    float magnitude;
    memcpy(&magnitude, &found.peaks[u], sizeof(magnitude));
    if (std::isnan(magnitude)) magnitude = INFINITY;
    peak[u] = empty ? magnitude : std::max(peak[u], magnitude);
    dead += peak[u] == 0;
  }
  Moments moments;
  moments.count = static_cast<int64_t>(row[0]);
  moments.mean = row[1];
  moments.m2 = row[2];
  moments.abs_max = row[3];
  moments.saturated = static_cast<int64_t>(row[5]);
  moments.nonfinite = static_cast<int64_t>(row[6]);
  merge_moments(moments, found.moments);
  row[0] = static_cast<double>(moments.count);
  row[1] = moments.mean;
  row[2] = moments.m2;
  row[3] = moments.abs_max;
  row[4] = static_cast<double>(dead) / static_cast<double>(units);
  row[5] = static_cast<double>(moments.saturated);
  row[6] = static_cast<double>(moments.nonfinite);
}

}  // namespace

void measure_(const Tensor& rows, const Tensor& peaks, const Tensor& values, int64_t inner,
              double low, double high) {
  check(rows, peaks, values, inner);
  const int64_t units = peaks.size(1);
  if (values.numel() == 0) return;
  MomentsSpec spec;
  spec.data = values.const_data_ptr();
  spec.dtype = values.scalar_type() == at::kFloat ? DType::kFloat32 : DType::kBFloat16;
  spec.units = units;
  spec.inner = inner;
  spec.low = static_cast<float>(low);
  spec.high = static_cast<float>(high);
  spec.bounded = std::isfinite(low) || std::isfinite(high);
  const Found found = measure_all(spec, values.numel());
  auto* row = rows.mutable_data_ptr<double>();
  auto* peak = peaks.mutable_data_ptr<float>();
  for (int i = 0; i < kRows; ++i) add(row + i * kColumns, peak + i * units, found, units);
}

}  // namespace fastinit
