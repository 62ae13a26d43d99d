// The fill body: where an element lies, and the values of one block. CUDA threads run it with
// scalar lanes; the CPU engine runs the same draws on packs.
#pragma once

#include "distributions.h"
#include "sparse.h"
#include "stream.h"

namespace fastinit {
inline namespace FASTINIT_ISA {

// Where a local element lies in memory and in the stream.
struct Position {
  int64_t memory;
  uint64_t stream;
};

// Of the local element with row-major number `linear`.
FASTINIT_HD Position position_of(const Layout& layout, int64_t linear) {
  Position position{0, layout.start};
  for (int k = layout.ndim - 1; k >= 0; --k) {
    const int64_t coordinate = k == 0 ? linear : linear % layout.size[k];
    position.memory += coordinate * layout.stride[k];
    position.stream += static_cast<uint64_t>(coordinate) * layout.global_stride[k];
    linear /= layout.size[k];
  }
  return position;
}

// The values of block `counter` of the stream, kBlockElements<S> of them.
template <Distribution distribution, class S>
FASTINIT_HD void block_values(const ResolvedLaw<S>& law, const KeySchedule& keys, uint64_t counter,
                              S* values) {
  const BlockWords<S> words = block_words<S>(counter, keys);
  FASTINIT_UNROLL
  for (int i = 0; i < kBlockElements<S>; i += 2) {
    draw<distribution, S>(law, words.word[i], words.word[i + 1], values[i], values[i + 1]);
  }
}

}  // namespace FASTINIT_ISA
}  // namespace fastinit
