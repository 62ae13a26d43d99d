// The CUDA kernels behind activation monitors: a pass over a tensor by many blocks, and one block
// for each row that takes it up. The bodies are measure.h's. Knows neither tensors nor steps.
#include <cuda_runtime.h>

#include "../kernels.h"
#include "measure.h"

namespace fastinit::cuda {
namespace {

constexpr int kThreads = 128;     // of a block that reads
constexpr int kRowThreads = 512;  // of one that takes up a row
constexpr int64_t kMostBlocks = 1024;
constexpr int kRows = 2;

// Where the blocks leave what they find.
struct Found {
  int32_t* peaks;
  Moments* parts;
  int64_t count;  // of the parts
};

template <int kCount>
__device__ void fold_all(Share* shares) {
  FASTINIT_NO_UNROLL
  for (int half = kCount / 2; half > 0; half /= 2) {
    __syncthreads();
    fold(shares, threadIdx.x, half);
  }
}

template <DType dtype>
__global__ void __launch_bounds__(kThreads)
    pass_kernel(const __grid_constant__ Strips strips, const Found found) {
  __shared__ uint64_t memory[kThreads * sizeof(Share) / sizeof(uint64_t)];
  auto* const shares = reinterpret_cast<Share*>(memory);
  shares[threadIdx.x] = {measure_strips<dtype>(
      strips, found.peaks, static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x,
      static_cast<int64_t>(gridDim.x) * kThreads)};
  fold_all<kThreads>(shares);
  if (threadIdx.x == 0) found.parts[blockIdx.x] = shares[0].moments;
}

__global__ void __launch_bounds__(kRowThreads)
    rows_kernel(const Found found, double* rows, float* peaks, int64_t units) {
  __shared__ uint64_t memory[kRowThreads * sizeof(Share) / sizeof(uint64_t)];
  auto* const shares = reinterpret_cast<Share*>(memory);
  double* const row = rows + static_cast<int64_t>(blockIdx.x) * kRowColumns;
  shares[threadIdx.x] = merge_parts(found.parts, found.count, found.peaks,
                                    peaks + static_cast<int64_t>(blockIdx.x) * units, units,
                                    row[0] == 0.0, threadIdx.x, kRowThreads);
  fold_all<kRowThreads>(shares);
  if (threadIdx.x == 0) add_to_row(row, shares[0].moments, shares[0].dead, units);
}

int64_t blocks_for(const Strips& strips) {
  const int64_t blocks = (strips.count() + kThreads - 1) / kThreads;
  return blocks < kMostBlocks ? blocks : kMostBlocks;
}

}  // namespace

int64_t measure_memory(const MomentsSpec& spec) {
  return blocks_for(Strips(spec)) * static_cast<int64_t>(sizeof(Moments)) +
         spec.units * static_cast<int64_t>(sizeof(int32_t));
}

int measure(const MomentsSpec& spec, double* rows, float* peaks, void* memory, void* handle) {
  auto* const stream = static_cast<cudaStream_t>(handle);
  const Strips strips(spec);
  const int64_t blocks = blocks_for(strips);
  auto* const parts = static_cast<Moments*>(memory);
  const Found found{reinterpret_cast<int32_t*>(parts + blocks), parts, blocks};
  const auto error = cudaMemsetAsync(found.peaks, 0, spec.units * sizeof(int32_t), stream);
  if (error != cudaSuccess) return static_cast<int>(error);
  const auto grid = static_cast<unsigned>(blocks);
  if (spec.dtype == DType::kFloat32) {
    pass_kernel<DType::kFloat32><<<grid, kThreads, 0, stream>>>(strips, found);
  } else if (spec.dtype == DType::kBFloat16) {
    pass_kernel<DType::kBFloat16><<<grid, kThreads, 0, stream>>>(strips, found);
  } else {
    pass_kernel<DType::kFloat16><<<grid, kThreads, 0, stream>>>(strips, found);
  }
  if (const auto failed = cudaGetLastError(); failed != cudaSuccess) {
    return static_cast<int>(failed);
  }
  rows_kernel<<<kRows, kRowThreads, 0, stream>>>(found, rows, peaks, spec.units);
  return static_cast<int>(cudaGetLastError());
}

}  // namespace fastinit::cuda
