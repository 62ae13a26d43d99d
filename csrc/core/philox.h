// Philox4x32-10, the counter-based generator of Salmon, Moraes, Dror and Shaw, "Parallel random
// numbers: as easy as 1, 2, 3", SC'11. One block function from (counter, key) to 128 bits; knows
// nothing of tensors. The words travel in 64-bit lanes whose upper halves are never looked at, so
// that the widening products of a pack need no shuffles.
#pragma once

#include "lanes.h"
#include "spec.h"

namespace fastinit {
inline namespace FASTINIT_ISA {

// W: uint64_t or a pack of them. Only the low 32 bits of each word mean anything.
template <class W>
struct PhiloxBlock {
  W x0, x1, x2, x3;
};

// The keys of the ten rounds. Worked out once a fill and read from memory (a CUDA kernel's
// arguments), where an operand costs nothing; the words are as wide as the lanes they meet.
struct KeySchedule {
  uint64_t word[10][2];

  FASTINIT_HD constexpr explicit KeySchedule(uint64_t seed) : word{} {
    constexpr uint32_t kWeyl0 = 0x9E3779B9, kWeyl1 = 0xBB67AE85;  // golden ratio, sqrt(3) - 1
    uint32_t key0 = static_cast<uint32_t>(seed), key1 = static_cast<uint32_t>(seed >> 32);
    for (int round = 0; round < 10; ++round) {
      word[round][0] = key0;
      word[round][1] = key1;
      key0 += kWeyl0;
      key1 += kWeyl1;
    }
  }
};

constexpr uint64_t kPhiloxMultiplier0 = 0xD2511F53, kPhiloxMultiplier1 = 0xCD9E8D57;

// Counters to blocks, in place, several in step: each is one long chain of dependent instructions,
// and a processor overlaps only those that stand near one another. The rounds before kFirstRound
// have been made.
template <int kFirstRound = 0, int kCount, class W>
FASTINIT_HD constexpr void philox(PhiloxBlock<W> (&blocks)[kCount], const KeySchedule& keys) {
  FASTINIT_UNROLL
  for (int round = kFirstRound; round < 10; ++round) {
    FASTINIT_UNROLL
    for (PhiloxBlock<W>& c : blocks) {
      const W product0 = multiply_low_halves(c.x0, W{} + kPhiloxMultiplier0);
      const W product1 = multiply_low_halves(c.x2, W{} + kPhiloxMultiplier1);
      c.x0 = xor3(product1 >> 32, c.x1, W{} + keys.word[round][0]);
      c.x2 = xor3(product0 >> 32, c.x3, W{} + keys.word[round][1]);
      c.x1 = product1;
      c.x3 = product0;
    }
  }
}

// What goes into block `counter` of a stream.
template <class W>
FASTINIT_HD constexpr PhiloxBlock<W> counter_block(W counter) {
  return {counter, counter >> 32, W{}, W{}};
}

// One block.
template <class W>
FASTINIT_HD constexpr PhiloxBlock<W> philox(PhiloxBlock<W> block, const KeySchedule& keys) {
  PhiloxBlock<W> blocks[1] = {block};
  philox(blocks, keys);
  return blocks[0];
}

// What the first two rounds make of the upper half of a stream's counter: the same for 2^32 blocks
// in a row.
template <class W>
struct CounterHigh {
  W product, mixed;
};

template <class W>
FASTINIT_HD constexpr CounterHigh<W> counter_high(W counter, const KeySchedule& keys) {
  const W product =
      multiply_low_halves((counter >> 32) ^ keys.word[0][0], W{} + kPhiloxMultiplier0);
  return {product, (product >> 32) ^ keys.word[1][1]};
}

// Block `counter` of a stream after two rounds, of which little is left to do where the upper two
// words of the counter are 0.
template <class W>
FASTINIT_HD constexpr PhiloxBlock<W> after_two_rounds(W counter, const CounterHigh<W>& high,
                                                      const KeySchedule& keys) {
  const W product0 = multiply_low_halves(counter, W{} + kPhiloxMultiplier0);
  const W product1 =
      multiply_low_halves((product0 >> 32) ^ keys.word[0][1], W{} + kPhiloxMultiplier1);
  return {(product1 >> 32) ^ keys.word[1][0], product1, product0 ^ high.mixed, high.product};
}

// Blocks of a stream, several in step, whose counters share their upper half.
template <int kCount, class W>
FASTINIT_HD constexpr void philox(const W (&counters)[kCount], const CounterHigh<W>& high,
                                  const KeySchedule& keys, PhiloxBlock<W> (&blocks)[kCount]) {
  FASTINIT_UNROLL
  for (int i = 0; i < kCount; ++i) blocks[i] = after_two_rounds(counters[i], high, keys);
  philox<2>(blocks, keys);
}

// One block of a stream.
template <class W>
FASTINIT_HD constexpr PhiloxBlock<W> philox(W counter, const KeySchedule& keys) {
  PhiloxBlock<W> blocks[1] = {after_two_rounds(counter, counter_high(counter, keys), keys)};
  philox<2>(blocks, keys);
  return blocks[0];
}

// A block of random words read as a key.
FASTINIT_HD constexpr StreamKey key_from(PhiloxBlock<uint64_t> block) {
  const uint64_t low = 0xffffffffu;
  return {(block.x0 & low) | block.x1 << 32, (block.x2 & low) | block.x3 << 32};
}

// The key of child `index`: equal to torch.func._random.split / fold_in.
FASTINIT_HD constexpr StreamKey child_key(StreamKey key, uint64_t index) {
  return key_from(philox(key.offset + index, KeySchedule(key.seed)));
}

// The key that a CUDA generator's state gives: seed, and an offset of which four units, one counter
// step, are reserved. Stock kernels read the blocks of the same seed whose upper counter words are
// a thread's number, which never comes near this constant ("fastinit" in ASCII): no block is used
// twice.
FASTINIT_HD constexpr StreamKey generator_key(uint64_t seed, uint64_t offset) {
  constexpr uint64_t kSubsequence = 0x66617374696e6974;
  PhiloxBlock<uint64_t> counter = counter_block(offset / 4);
  counter.x2 = kSubsequence & 0xffffffffu;
  counter.x3 = kSubsequence >> 32;
  return key_from(philox(counter, KeySchedule(seed)));
}

namespace known_answers {  // Random123 1.14, tests/kat_vectors, philox4x32 10
constexpr bool holds(PhiloxBlock<uint64_t> counter, uint64_t seed, uint32_t r0, uint32_t r1,
                     uint32_t r2, uint32_t r3) {
  const auto r = philox(counter, KeySchedule(seed));
  return static_cast<uint32_t>(r.x0) == r0 && static_cast<uint32_t>(r.x1) == r1 &&
         static_cast<uint32_t>(r.x2) == r2 && static_cast<uint32_t>(r.x3) == r3;
}
static_assert(holds({0, 0, 0, 0}, 0, 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8),
              "Philox: all-zero vector");
static_assert(holds({0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, 0xffffffffffffffff,
                    0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd),
              "Philox: all-ones vector");
static_assert(holds({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, 0x299f31d0a4093822,
                    0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1),
              "Philox: digits of pi");
constexpr bool short_way_holds(uint64_t counter, uint64_t seed) {
  const auto r = philox(counter, KeySchedule(seed));
  return holds(counter_block(counter), seed, static_cast<uint32_t>(r.x0),
               static_cast<uint32_t>(r.x1), static_cast<uint32_t>(r.x2),
               static_cast<uint32_t>(r.x3));
}
static_assert(short_way_holds(0x85a308d3243f6a88, 0x299f31d0a4093822) &&
                  short_way_holds(0xffffffffffffffff, 0x0706050403020100),
              "Philox: the short way through the first two rounds");
}  // namespace known_answers

}  // namespace FASTINIT_ISA
}  // namespace fastinit
