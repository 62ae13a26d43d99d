// The CUDA backend: __global__ wrappers around the bodies of body.h and table.h, grids, launches
// and their error checks. Knows neither tensors nor the distributions' arithmetic.
#include <cuda_runtime.h>

#include "../kernels.h"
#include "table.h"

namespace fastinit::cuda {
namespace {

constexpr int kThreads = 128;  // of a block

template <Distribution distribution, DType dtype>
__global__ void __launch_bounds__(kThreads) dense_kernel(const __grid_constant__ FillSpec spec) {
  __shared__ uint64_t memory[sizeof(Prepared<Compute<dtype>>) / sizeof(uint64_t)];
  auto& prepared = reinterpret_cast<Prepared<Compute<dtype>>&>(memory);
  if (threadIdx.x == 0) prepared = prepare<dtype>(spec);
  __syncthreads();
  run_dense<distribution, dtype>(spec, prepared, 0, DenseUnits<dtype>(spec).count,
                                 static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x,
                                 static_cast<int64_t>(gridDim.x) * kThreads);
}

// A table of one entry that needs no memory of its own.
struct Single {
  FillSpec spec;
  int64_t first_unit[2];
};

template <DType dtype>
struct BlockThreads {
  Prepared<Compute<dtype>>& prepared;

  __device__ void run(const FillSpec& spec, int64_t begin, int64_t end) const {
    if (threadIdx.x == 0) prepared = prepare<dtype>(spec);
    __syncthreads();
    run_units<dtype>(spec, prepared, begin, end, threadIdx.x, kThreads);
    __syncthreads();
  }
};

// Blocks a multiprocessor: what leaves the registers that the kernel needs. Left alone, ptxas
// spills on sm_100 to come down to 80.
template <DType dtype>
constexpr int kTableBlocks = dtype == DType::kFloat64 ? 4 : 5;

template <DType dtype>
__global__ void __launch_bounds__(kThreads, kTableBlocks<dtype>)
    table_kernel(Table table, const __grid_constant__ Single single) {
  __shared__ uint64_t memory[sizeof(Prepared<Compute<dtype>>) / sizeof(uint64_t)];
  const BlockThreads<dtype> threads{reinterpret_cast<Prepared<Compute<dtype>>&>(memory)};
  if (table.specs == nullptr) {
    table.specs = &single.spec;
    table.first_unit = single.first_unit;
  }
  run_share(table, blockIdx.x, threads);
}

template <class Word>
__global__ void __launch_bounds__(kThreads) mask_kernel(const __grid_constant__ FillSpec spec) {
  __shared__ uint64_t key[2];
  if (threadIdx.x == 0) {
    const StreamKey mask_key = child_key(resolved_key(spec), 0);
    key[0] = mask_key.seed;
    key[1] = mask_key.offset;
  }
  __syncthreads();
  run_mask<Word>(spec, {key[0], key[1]}, static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x,
                 static_cast<int64_t>(gridDim.x) * kThreads);
}

// Part of a table by value: a graph captures the arguments of a launch.
struct Piece {
  static constexpr int64_t kWords = 496;  // of the 4 KiB that arguments may take
  uint64_t word[kWords];
};

__global__ void copy_kernel(const __grid_constant__ Piece piece, uint64_t* to, int64_t words) {
  for (int64_t i = threadIdx.x; i < words; i += kThreads) to[i] = piece.word[i];
}

int launched() { return static_cast<int>(cudaGetLastError()); }

// Where a launch goes.
struct Device {
  cudaStream_t stream;
  int multiprocessors = 1;

  explicit Device(void* handle) : stream(static_cast<cudaStream_t>(handle)) {
    int current = 0;
    if (cudaGetDevice(&current) == cudaSuccess) {
      cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, current);
    }
  }
};

// Blocks that a multiprocessor runs at a time.
template <class Kernel>
int64_t resident_blocks(Kernel kernel) {
  int blocks = 0;
  const auto error = cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, kThreads, 0);
  return error == cudaSuccess && blocks > 0 ? blocks : 1;  // the launch will tell what is wrong
}

// As many blocks as the device runs at a time, or fewer where there is no work for more.
unsigned grid(int64_t work, int64_t resident, const Device& device) {
  const int64_t needed = (work + kThreads - 1) / kThreads;
  const int64_t most = resident * device.multiprocessors;
  return static_cast<unsigned>(needed < most ? needed : most);
}

template <Distribution distribution, DType dtype>
int launch_dense(const FillSpec& spec, const Device& device) {
  static const int64_t resident = resident_blocks(dense_kernel<distribution, dtype>);
  const unsigned blocks = grid(units_of<dtype>(spec), resident, device);
  dense_kernel<distribution, dtype><<<blocks, kThreads, 0, device.stream>>>(spec);
  return launched();
}

template <class Word>
int launch_mask(const FillSpec& spec, const Device& device) {
  static const int64_t resident = resident_blocks(mask_kernel<Word>);
  const unsigned blocks = grid(spec.layout.numel, resident, device);
  mask_kernel<Word><<<blocks, kThreads, 0, device.stream>>>(spec);
  return launched();
}

// Units a thread block: enough to be worth preparing entries for, and few enough that the blocks
// which end last make little difference.
int64_t share_of(int64_t units, const Device& device) {
  constexpr int64_t kMost = 16 * kThreads, kMostBlocks = 0x7fffffff;
  const int64_t blocks = 8 * static_cast<int64_t>(device.multiprocessors);
  const int64_t even = (units / blocks / kThreads + 1) * kThreads;
  const int64_t fair = even < kMost ? even : kMost;
  const int64_t least = units / kMostBlocks + 1;  // a grid has no more blocks
  return fair > least ? fair : least;
}

template <DType dtype>
int launch_table(Table table, const Single& single, int64_t units, const Device& device) {
  table.share = share_of(units, device);
  const auto blocks = static_cast<unsigned>((units + table.share - 1) / table.share);
  table_kernel<dtype><<<blocks, kThreads, 0, device.stream>>>(table, single);
  return launched();
}

}  // namespace

int fill(const FillSpec& spec, void* stream) {
  const Device device(stream);
  int error = 0;
  if (is_dense(spec)) {
    error = with_kind(spec, [&]<Distribution distribution, DType dtype> {
      return launch_dense<distribution, dtype>(spec, device);
    });
  } else {
    const int64_t units = units_of(spec);
    error = with_dtype(spec.dtype, [&]<DType dtype> {
      return launch_table<dtype>({nullptr, nullptr, 1, 0}, {spec, {0, units}}, units, device);
    });
  }
  if (error != 0 || spec.sparse.zeros == 0) return error;
  return with_dtype(spec.dtype,
                    [&]<DType dtype> { return launch_mask<Code<dtype>>(spec, device); });
}

int64_t table_bytes(int64_t count) { return TableBuffer{count}.bytes(); }

void write_table(const FillSpec* specs, int64_t count, void* host) {
  TableBuffer{count}.write(specs, host);
}

int copy_table(const void* host, int64_t bytes, void* table, void* stream) {
  const Device device(stream);
  const int64_t words = bytes / static_cast<int64_t>(sizeof(uint64_t));
  for (int64_t at = 0; at < words; at += Piece::kWords) {
    const int64_t part = words - at < Piece::kWords ? words - at : Piece::kWords;
    Piece piece;
    memcpy(&piece, static_cast<const uint64_t*>(host) + at, part * sizeof(uint64_t));
    copy_kernel<<<1, kThreads, 0, device.stream>>>(piece, static_cast<uint64_t*>(table) + at, part);
    if (const int error = launched(); error != 0) return error;
  }
  return 0;
}

int fill_table(const void* host, int64_t count, const void* table, void* stream) {
  const Device device(stream);
  const auto& head = *static_cast<const TableBuffer::Head*>(host);
  for (int64_t i = 0; i < head.segments; ++i) {
    const Segment& segment = head.segment[i];
    const Table part = TableBuffer{count}.table(head, i, table, 0);
    const int error = with_dtype(segment.dtype, [&]<DType dtype> {
      return launch_table<dtype>(part, Single{}, segment.units, device);
    });
    if (error != 0) return error;
  }
  return 0;
}

}  // namespace fastinit::cuda
