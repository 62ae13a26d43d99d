// The CUDA kernels on the CPU, thread after thread: the proof, on any machine, that what a GPU will
// run fills every element with the right value. For tests; slow.
#include <cstdlib>

#include "../kernels.h"
#include "orthogonal.h"
#include "table.h"

namespace fastinit::cuda {
namespace {

constexpr int kPoison = 0xA5;

template <Distribution distribution, DType dtype>
void emulate_dense(const FillSpec& spec, int64_t blocks, int64_t threads) {
  for (int64_t block = 0; block < blocks; ++block) {
    const auto prepared = prepare<dtype>(spec);
    for (int64_t thread = 0; thread < threads; ++thread) {
      run_dense<distribution, dtype>(spec, prepared, 0, units_of<dtype>(spec),
                                     block * threads + thread, blocks * threads);
    }
  }
}

template <DType dtype>
struct Threads {
  int64_t count;

  void run(const FillSpec& spec, int64_t begin, int64_t end) const {
    const auto prepared = prepare<dtype>(spec);
    for (int64_t thread = 0; thread < count; ++thread) {
      run_units<dtype>(spec, prepared, begin, end, thread, count);
    }
  }
};

void emulate_table(const FillSpec* specs, int64_t count, int64_t blocks, int64_t threads) {
  const TableBuffer buffer{count};
  void* memory = malloc(static_cast<size_t>(buffer.bytes()));
  buffer.write(specs, memory);
  const auto& head = *static_cast<const TableBuffer::Head*>(memory);
  for (int64_t i = 0; i < head.segments; ++i) {
    const Segment& segment = head.segment[i];
    const Table table = buffer.table(head, i, memory, (segment.units + blocks - 1) / blocks);
    with_dtype(segment.dtype, [&]<DType dtype> {
      const Threads<dtype> block{threads};
      for (int64_t share = 0; share < table.shares(); ++share) run_share(table, share, block);
    });
  }
  free(memory);
}

// One thread block after the other, and one thread after the other between two barriers. Memory
// that a block shares holds nothing of use at first.
template <class Body>
struct ThreadBlock {
  typename Body::Shared& shared;
  typename Body::Registers registers[kBlockThreads] = {};
  bool backwards;

  template <class Step>
  void each(const Step& step) {
    for (int i = 0; i < kBlockThreads; ++i) {
      const int thread = backwards ? kBlockThreads - 1 - i : i;
      step(thread, registers[thread]);
    }
  }
};

struct EmulatedLaunch {
  bool backwards;

  template <class Body>
  void operator()(const Body& body) const {
    using Shared = typename Body::Shared;
    alignas(64) static thread_local char memory[sizeof(Shared)];
    const int64_t blocks = body.blocks();
    for (int64_t i = 0; i < blocks; ++i) {
      memset(memory, kPoison, sizeof(memory));
      ThreadBlock<Body> block{reinterpret_cast<Shared&>(memory), {}, backwards};
      body.run(block, backwards ? blocks - 1 - i : i);
    }
  }
};

}  // namespace

void emulate_orthogonal(const MatrixSpec* specs, const void* table, int64_t count, void* memory,
                        bool backwards) {
  with_job(specs, table, count, memory,
           [&](const auto& job) { run_matrices(job, EmulatedLaunch{backwards}); });
}

void emulate(const FillSpec* specs, int64_t count, int64_t blocks, int64_t threads) {
  if (count == 1 && is_dense(*specs)) {
    with_kind(*specs, [&]<Distribution distribution, DType dtype> {
      emulate_dense<distribution, dtype>(*specs, blocks, threads);
    });
  } else {
    emulate_table(specs, count, blocks, threads);
  }
  for (const FillSpec* spec = specs; spec != specs + count; ++spec) {
    if (spec->sparse.zeros == 0) continue;
    with_dtype(spec->dtype, [&]<DType dtype> {
      const StreamKey mask_key = child_key(resolved_key(*spec), 0);
      for (int64_t i = 0; i < blocks * threads; ++i) {
        run_mask<Code<dtype>>(*spec, mask_key, i, blocks * threads);
      }
    });
  }
}

}  // namespace fastinit::cuda
