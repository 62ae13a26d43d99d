// The operator behind activation monitors: one pass over a tensor, into rows of numbers.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "../kernels.h"
#include "backends.h"
#include "ops.h"

#if defined(FASTINIT_WITH_CUDA)
#include <ATen/ops/empty.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#endif

namespace fastinit {

using at::Tensor;

namespace {

constexpr int64_t kGrain = 65536;  // elements; below it a thread costs more than it saves
constexpr int64_t kUnit = 4096;    // threads begin at multiples of this many
constexpr int kRows = 2;

bool is_fused(const Tensor& values) {
  const at::ScalarType type = values.scalar_type();
  return type == at::kFloat || type == at::kBFloat16 ||
         (type == at::kHalf && reads_on_device(values));
}

void check(const Tensor& rows, const Tensor& peaks, const Tensor& values, int64_t inner) {
  TORCH_CHECK_VALUE(values.is_non_overlapping_and_dense() && is_fused(values),
                    "values must be a dense tensor of float32, bfloat16 or, on CUDA, float16, got ",
                    values.scalar_type(), " ", values.sizes(), " on ", values.device());
  TORCH_CHECK_VALUE(rows.device() == values.device() && rows.scalar_type() == at::kDouble &&
                        rows.is_contiguous() &&
                        rows.sizes() == at::IntArrayRef({kRows, kRowColumns}),
                    "rows must be a contiguous float64 tensor of shape (2, 7) on ", values.device(),
                    ", got ", rows.scalar_type(), " ", rows.sizes(), " on ", rows.device());
  TORCH_CHECK_VALUE(
      peaks.device() == values.device() && peaks.scalar_type() == at::kFloat &&
          peaks.is_contiguous() && peaks.dim() == 2 && peaks.size(0) == kRows && peaks.size(1) > 0,
      "peaks must be a contiguous float32 tensor of shape (2, units) on ", values.device(),
      ", got ", peaks.scalar_type(), " ", peaks.sizes(), " on ", peaks.device());
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
Found measure_all(const MomentsSpec& spec) {
  const int64_t numel = spec.numel;
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

void measure_cpu(const MomentsSpec& spec, double* rows, float* peaks) {
  const Found found = measure_all(spec);
  for (int i = 0; i < kRows; ++i) {
    double* const row = rows + i * kRowColumns;
    float* const peak = peaks + i * spec.units;
    const bool empty = row[0] == 0.0;
    int64_t dead = 0;
    for (int64_t u = 0; u < spec.units; ++u) {
      peak[u] = raised_peak(peak[u], found.peaks[u], empty);
      dead += peak[u] == 0.0f;
    }
    add_to_row(row, found.moments, dead, spec.units);
  }
}

#if defined(FASTINIT_WITH_CUDA)

void measure_cuda(const MomentsSpec& spec, double* rows, float* peaks, at::Device device) {
  const c10::cuda::CUDAGuard guard(device);
  const Tensor memory =
      at::empty({cuda::measure_memory(spec)}, at::TensorOptions(at::kByte).device(device));
  const auto stream = c10::cuda::getCurrentCUDAStream();
  C10_CUDA_CHECK(static_cast<cudaError_t>(
      cuda::measure(spec, rows, peaks, memory.mutable_data_ptr(), stream.stream())));
}

#endif

}  // namespace

void measure_(const Tensor& rows, const Tensor& peaks, const Tensor& values, int64_t inner,
              double low, double high) {
  check(rows, peaks, values, inner);
  const int64_t units = peaks.size(1);
  if (values.numel() == 0) return;
  MomentsSpec spec;
  spec.data = values.const_data_ptr();
  spec.dtype = values.scalar_type() == at::kFloat      ? DType::kFloat32
               : values.scalar_type() == at::kBFloat16 ? DType::kBFloat16
                                                       : DType::kFloat16;
  spec.numel = values.numel();
  spec.units = units;
  spec.inner = inner;
  spec.low = static_cast<float>(low);
  spec.high = static_cast<float>(high);
  spec.bounded = std::isfinite(low) || std::isfinite(high);
  auto* const row = rows.mutable_data_ptr<double>();
  auto* const peak = peaks.mutable_data_ptr<float>();
#if defined(FASTINIT_WITH_CUDA)
  if (values.is_cuda()) return measure_cuda(spec, row, peak, values.device());
#endif
  const Grid grid = emulated_grid();
  if (grid.blocks == 0) return measure_cpu(spec, row, peak);
  cuda::emulate_measure(spec, row, peak, grid.blocks, grid.threads);
}

}  // namespace fastinit
