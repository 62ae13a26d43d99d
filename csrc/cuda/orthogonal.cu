// The kernels of orthogonal matrices: one __global__ wrapper around the bodies of orthogonal.h, and
// its launches.
#include <cuda_runtime.h>

#include "../kernels.h"
#include "orthogonal.h"

namespace fastinit::cuda {
namespace {

template <class Body>
struct ThreadBlock {
  typename Body::Shared& shared;
  typename Body::Registers registers{};

  template <class Step>
  __device__ __forceinline__ void each(const Step& step) {
    step(static_cast<int>(threadIdx.x), registers);
    __syncthreads();
  }
};

template <class Body>
__global__ void __launch_bounds__(kBlockThreads, Body::kResident)
    matrix_kernel(const __grid_constant__ Body body) {
  __shared__ uint4 memory[(sizeof(typename Body::Shared) + 15) / 16];
  ThreadBlock<Body> block{reinterpret_cast<typename Body::Shared&>(memory)};
  body.run(block, blockIdx.x);
}

}  // namespace

int orthogonal(const MatrixSpec* specs, const void* table, int64_t count, void* memory,
               void* stream) {
  int error = 0;
  const auto launch = [&](const auto& body) {
    if (error != 0) return;
    const auto blocks = static_cast<unsigned>(body.blocks());
    matrix_kernel<<<blocks, kBlockThreads, 0, static_cast<cudaStream_t>(stream)>>>(body);
    error = static_cast<int>(cudaGetLastError());
  };
  with_job(specs, table, count, memory, [&](const auto& job) { run_matrices(job, launch); });
  return error;
}

}  // namespace fastinit::cuda
