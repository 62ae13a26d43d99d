// The mapping from an element's index to its random words: block offset + index / E of Philox,
// lane index % E, with E = 4 words for float32 arithmetic and E = 2 pairs of words for float64.
// Scalar lanes; cpu/engine.h arranges the same words in packs.
#pragma once

#include "philox.h"

namespace fastinit {
inline namespace FASTINIT_ISA {

// Elements of one block for arithmetic in S.
template <class S>
constexpr int kBlockElements = sizeof(S) == 4 ? 4 : 2;

// The words of block `counter`, one an element.
template <class S>
struct BlockWords {
  UInt<S> word[kBlockElements<S>];
};

template <class S>
FASTINIT_HD BlockWords<S> block_words(uint64_t counter, const KeySchedule& keys) {
  const auto block = philox(counter, keys);
  if constexpr (sizeof(S) == 4) {
    return {{static_cast<uint32_t>(block.x0), static_cast<uint32_t>(block.x1),
             static_cast<uint32_t>(block.x2), static_cast<uint32_t>(block.x3)}};
  } else {
    const uint64_t low = 0xffffffffu;
    return {{block.x0 << 32 | (block.x1 & low), block.x2 << 32 | (block.x3 & low)}};
  }
}

}  // namespace FASTINIT_ISA
}  // namespace fastinit
