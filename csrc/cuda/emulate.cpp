// The CUDA kernels on the CPU, thread after thread: the proof, on any machine, that what a GPU will
// run fills every element with the right value. For tests; slow.
#include <cstdlib>

#include "../kernels.h"
#include "table.h"

namespace fastinit::cuda {
namespace {

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

}  // namespace

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
