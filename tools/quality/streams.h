// The streams that the batteries read: random words of keys as a user makes them, and values mapped
// back to the uniforms they came from. Each is a pure function of a seed and the number of a chunk,
// through csrc/core alone; knows no battery.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "../../csrc/core/fill.h"

namespace quality {

using namespace fastinit;

constexpr int kChunk = 1 << 16;  // words
constexpr int kTensor = 64;      // words of a short tensor: a bias, a row of a small weight
using Chunk = uint32_t[kChunk];

struct Inputs {
  uint64_t seed = 0;
  std::vector<uint64_t> names;  // BLAKE2b digests, as Key.fold_in takes them
};

// `count` words of a key from number `first` on, both multiples of 4.
inline void words_of(StreamKey key, uint64_t first, int count, uint32_t* words) {
  const KeySchedule keys(key.seed);
  for (int i = 0; i < count; i += 4) {
    const BlockWords<float> block =
        block_words<float>(key.offset + (first + static_cast<uint64_t>(i)) / 4, keys);
    memcpy(words + i, block.word, sizeof(block.word));
  }
}

inline uint64_t first_word(uint64_t chunk) { return chunk * kChunk; }

inline void one_key(const Inputs& in, uint64_t chunk, Chunk& words) {
  words_of({in.seed, 0}, first_word(chunk), kChunk, words);
}

// A short tensor of each of many keys: key_of(0), key_of(1), ...
template <class KeyOf>
void many_keys(uint64_t chunk, Chunk& words, const KeyOf& key_of) {
  for (int i = 0; i < kChunk; i += kTensor) {
    words_of(key_of((first_word(chunk) + static_cast<uint64_t>(i)) / kTensor), 0, kTensor,
             words + i);
  }
}

inline void consecutive_seeds(const Inputs& in, uint64_t chunk, Chunk& words) {
  many_keys(chunk, words, [&](uint64_t n) { return StreamKey{in.seed + n, 0}; });
}

inline void folded_integers(const Inputs& in, uint64_t chunk, Chunk& words) {
  many_keys(chunk, words, [&](uint64_t n) { return child_key({in.seed, 0}, n); });
}

// The names over and over, each time the next words of each.
inline void folded_names(const Inputs& in, uint64_t chunk, Chunk& words) {
  for (int i = 0; i < kChunk; i += kTensor) {
    const uint64_t n = (first_word(chunk) + static_cast<uint64_t>(i)) / kTensor;
    const StreamKey key = child_key({in.seed, 0}, in.names[n % in.names.size()]);
    words_of(key, n / in.names.size() * kTensor, kTensor, words + i);
  }
}

// The leaves, from left to right, of a tree of keys in which each is split in two, 32 deep.
inline void split_tree(const Inputs& in, uint64_t chunk, Chunk& words) {
  many_keys(chunk, words, [&](uint64_t leaf) {
    StreamKey key{in.seed, 0};
    for (int level = 31; level >= 0; --level) key = child_key(key, leaf >> level & 1);
    return key;
  });
}

// The first elements of each row of a matrix of 2^20 columns.
inline void rows(const Inputs& in, uint64_t chunk, Chunk& words) {
  for (int i = 0; i < kChunk; i += kTensor) {
    const uint64_t row = (first_word(chunk) + static_cast<uint64_t>(i)) / kTensor;
    words_of({in.seed, 0}, row << 20, kTensor, words + i);
  }
}

// Matrices of 2^16 columns and 2^20 rows, one after another, each column after column.
inline void columns(const Inputs& in, uint64_t chunk, Chunk& words) {
  const KeySchedule keys(in.seed);
  for (int i = 0; i < kChunk; ++i) {
    const uint64_t n = first_word(chunk) + static_cast<uint64_t>(i);
    const uint64_t matrix = n >> 36, row = n & 0xfffff, column = n >> 20 & 0xffff;
    const uint64_t index = matrix << 36 | row << 16 | column;
    words[i] = block_words<float>(index / 4, keys).word[index % 4];
  }
}

// The integer that a uniform of [0, 1) is, in units of 2^-24, 4 of them in 3 words.
template <bool kReversed>
void uniforms(const Inputs& in, uint64_t chunk, Chunk& words) {
  constexpr int kWhole = kChunk / 3 * 3;
  const KeySchedule keys(in.seed);
  Law law;
  const auto resolved = resolve<Storage<DType::kFloat32>>(law, 1.0);
  uint64_t counter = chunk * (kWhole / 3 + 1);
  for (int i = 0; i < kChunk; i += 3, ++counter) {
    float values[4];
    block_values<Distribution::kUniform, float>(resolved, keys, counter, values);
    uint32_t bits[4];
    for (int k = 0; k < 4; ++k) {
      bits[k] = static_cast<uint32_t>(values[k] * 0x1p24f);
      if (!kReversed) continue;
      uint32_t reversed = 0;
      for (int b = 0; b < 24; ++b) reversed |= (bits[k] >> b & 1u) << (23 - b);
      bits[k] = reversed;
    }
    const uint32_t packed[3] = {bits[0] << 8 | bits[1] >> 16, bits[1] << 16 | bits[2] >> 8,
                                bits[2] << 24 | bits[3]};
    for (int k = 0; k < 3 && i + k < kChunk; ++k) words[i + k] = packed[k];
  }
}

inline double normal_probability(double z) { return 0.5 * std::erfc(z * -0.70710678118654752440); }

// The first `kBits` bits of the probability below a value, under the normal law cut to
// [claimed.low, claimed.high]. Of float32, 8: its own rounding shows in more.
template <Distribution distribution, DType dtype, int kBits>
void probabilities(const Inputs& in, uint64_t chunk, Chunk& words, const Law& law, double low,
                   double high) {
  using Out = Storage<dtype>;
  using S = typename Out::Compute;
  constexpr int kInWord = 32 / kBits, kInBlock = kBlockElements<S>;
  const auto resolved = resolve<Out>(law, 1.0);
  const KeySchedule keys(in.seed);
  const double below = normal_probability(low), mass = normal_probability(high) - below;
  uint64_t counter = first_word(chunk) * kInWord / kInBlock;
  S values[kInBlock];
  int left = 0;
  for (uint32_t& word : words) {
    word = 0;
    for (int k = 0; k < kInWord; ++k) {
      if (left == 0) {
        block_values<distribution, S>(resolved, keys, counter++, values);
        left = kInBlock;
      }
      const double z = static_cast<double>(values[kInBlock - left--]);
      const double u = (normal_probability(z) - below) / mass;
      const double scaled = u * static_cast<double>(1ull << kBits);
      const uint32_t last = static_cast<uint32_t>((1ull << kBits) - 1);
      const uint32_t bits = scaled >= static_cast<double>(last) ? last
                            : scaled > 0.0                      ? static_cast<uint32_t>(scaled)
                                                                : 0;
      word = static_cast<uint32_t>(static_cast<uint64_t>(word) << kBits) | bits;
    }
  }
}

inline Law normal_law(Distribution distribution, double bound) {
  Law law;
  law.distribution = distribution;
  law.low = -bound;
  law.high = bound;
  return law;
}

template <DType dtype, int kBits>
void normals(const Inputs& in, uint64_t chunk, Chunk& words) {
  constexpr auto kNormal = Distribution::kNormal;
  probabilities<kNormal, dtype, kBits>(in, chunk, words, normal_law(kNormal, 0.0), -40.0, 40.0);
}

template <DType dtype, int kBits>
void truncated_normals(const Inputs& in, uint64_t chunk, Chunk& words) {
  constexpr auto kTrunc = Distribution::kTruncNormal;
  probabilities<kTrunc, dtype, kBits>(in, chunk, words, normal_law(kTrunc, 2.0), -2.0, 2.0);
}

// Spoiled streams, which a battery has to reject.

inline void four_rounds(const Inputs& in, uint64_t chunk, Chunk& words) {
  const KeySchedule keys(in.seed);
  for (int i = 0; i < kChunk; i += 4) {
    PhiloxBlock<uint64_t> block[1] = {
        counter_block((first_word(chunk) + static_cast<uint64_t>(i)) / 4)};
    philox<6>(block, keys);
    words[i] = static_cast<uint32_t>(block[0].x0);
    words[i + 1] = static_cast<uint32_t>(block[0].x1);
    words[i + 2] = static_cast<uint32_t>(block[0].x2);
    words[i + 3] = static_cast<uint32_t>(block[0].x3);
  }
}

// Every second tensor has the key of the one before.
inline void shared_key(const Inputs& in, uint64_t chunk, Chunk& words) {
  many_keys(chunk, words, [&](uint64_t n) { return StreamKey{in.seed + n / 2, 0}; });
}

// A normal law whose tails beyond 2.5 standard deviations are missing.
inline void cut_tail(const Inputs& in, uint64_t chunk, Chunk& words) {
  constexpr auto kTrunc = Distribution::kTruncNormal;
  probabilities<kTrunc, DType::kFloat32, 8>(in, chunk, words, normal_law(kTrunc, 2.5), -40.0, 40.0);
}

struct Stream {
  const char* name;
  void (*fill)(const Inputs& in, uint64_t chunk, Chunk& words);
};

// tools/quality/batteries.py says of each what it is.
constexpr Stream kStreams[] = {
    {"key", one_key},
    {"seeds", consecutive_seeds},
    {"integers", folded_integers},
    {"names", folded_names},
    {"tree", split_tree},
    {"rows", rows},
    {"columns", columns},
    {"uniform32", uniforms<false>},
    {"uniform32-reversed", uniforms<true>},
    {"normal32", normals<DType::kFloat32, 8>},
    {"normal64", normals<DType::kFloat64, 32>},
    {"trunc32", truncated_normals<DType::kFloat32, 8>},
    {"trunc64", truncated_normals<DType::kFloat64, 32>},
    {"four-rounds", four_rounds},
    {"shared-key", shared_key},
    {"cut-tail", cut_tail},
};

// The words of a stream, one after another.
class Reader {
 public:
  // Of `name`; a null stream if there is none. `file` holds the digests of names.
  Reader(const char* name, uint64_t seed, const std::vector<uint64_t>& names)
      : inputs_{seed, names} {
    for (const Stream& stream : kStreams) {
      if (strcmp(stream.name, name) == 0) stream_ = &stream;
    }
  }

  bool found() const { return stream_ != nullptr; }

  void skip(uint64_t chunks) { chunk_ += chunks; }

  const Chunk& next_chunk() {
    stream_->fill(inputs_, chunk_++, words_);
    return words_;
  }

  uint32_t next() {
    if (used_ == kChunk) {
      next_chunk();
      used_ = 0;
    }
    return words_[used_++];
  }

 private:
  const Stream* stream_ = nullptr;
  Inputs inputs_;
  uint64_t chunk_ = 0;
  int used_ = kChunk;
  Chunk words_;
};

}  // namespace quality
