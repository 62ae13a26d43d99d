// Moments of a tensor on the CPU, compiled once for each instruction set. Blocks that fit into the
// innermost cache are read from it twice, so that deviations are taken from the block's own mean:
// float sums then lose nothing that shows. Owns the loops; what is merged how, core/moments.h says.
#pragma once

#include "pack.h"
// pack.h first, as in engine.h.
#include "../core/moments.h"
#include "../kernels.h"

namespace fastinit {
inline namespace FASTINIT_ISA {

constexpr int kSums = 4;  // that grow side by side, so that none waits for its last addition
constexpr int64_t kBlock = 4096;
constexpr int32_t kMagnitude = 0x7fffffff;
constexpr int32_t kInfinity = 0x7f800000;  // nan lies above it

template <class Pack>
FASTINIT_HD Pack load_pack(const void* from) {
  Pack pack;
  memcpy(&pack, from, sizeof(pack));
  return pack;
}

FASTINIT_HD PackI32 larger(PackI32 a, PackI32 b) {
  const PackI32 greater = a > b;
  return (a & greater) | (b & ~greater);
}

FASTINIT_HD int32_t word_of(float value) {
  int32_t word;
  memcpy(&word, &value, sizeof(word));
  return word & kMagnitude;
}

FASTINIT_HD double value_of(int32_t word) {
  float value;
  memcpy(&value, &word, sizeof(value));
  return value;
}

FASTINIT_HD void raise(int32_t& word, int32_t other) { word = word > other ? word : other; }

// What a first pass finds: the largest magnitude, as a word (positive floats order as their words
// do), and the sum. Where kEach, peaks has a word for each value.
struct Look {
  int32_t most = 0;
  double sum = 0.0;
};

template <bool kEach>
FASTINIT_HD void look_at(const float* x, int64_t n, int32_t* peaks, Look& look) {
  PackI32 most[kSums] = {};
  PackF32 sum[kSums] = {};
  int64_t i = 0;
  for (; i + kSums * kLanes32 <= n; i += kSums * kLanes32) {
    for (int k = 0; k < kSums; ++k) {
      const int64_t j = i + k * kLanes32;
      const auto value = load_pack<PackF32>(x + j);
      const PackI32 word = reinterpret_cast<PackI32>(value) & kMagnitude;
      sum[k] += value;
      most[k] = larger(most[k], word);
      if constexpr (kEach) {
        const PackI32 peak = larger(load_pack<PackI32>(peaks + j), word);
        memcpy(peaks + j, &peak, sizeof(peak));
      }
    }
  }
  for (int k = 1; k < kSums; ++k) {
    most[0] = larger(most[0], most[k]);
    sum[0] += sum[k];
  }
  for (int lane = 0; lane < kLanes32; ++lane) {
    raise(look.most, most[0][lane]);
    look.sum += static_cast<double>(sum[0][lane]);
  }
  for (; i < n; ++i) {
    raise(look.most, word_of(x[i]));
    look.sum += static_cast<double>(x[i]);
    if constexpr (kEach) raise(peaks[i], word_of(x[i]));
  }
}

// A first pass over a block that begins with element `at` of the memory.
FASTINIT_HD Look look_at_block(const MomentsSpec& spec, const float* x, int64_t n, int64_t at,
                               int32_t* peaks) {
  Look look;
  for (int64_t i = 0; i < n;) {
    const int64_t unit = (at + i) / spec.inner % spec.units;
    if (spec.inner == 1) {
      const int64_t run = n - i < spec.units - unit ? n - i : spec.units - unit;
      look_at<true>(x + i, run, peaks + unit, look);
      i += run;
    } else {
      const int64_t left = spec.inner - (at + i) % spec.inner;
      const int64_t run = n - i < left ? n - i : left;
      Look part;
      look_at<false>(x + i, run, nullptr, part);
      raise(peaks[unit], part.most);
      raise(look.most, part.most);
      look.sum += part.sum;
      i += run;
    }
  }
  return look;
}

// Sums of x - shift and of its square.
FASTINIT_HD void sums(const float* x, int64_t n, float shift, double& sum, double& square) {
  PackF32 first[kSums] = {}, second[kSums] = {};
  int64_t i = 0;
  for (; i + kSums * kLanes32 <= n; i += kSums * kLanes32) {
    for (int k = 0; k < kSums; ++k) {
      const PackF32 d = load_pack<PackF32>(x + i + k * kLanes32) - shift;
      first[k] += d;
      second[k] += d * d;
    }
  }
  sum = square = 0.0;
  for (int k = 0; k < kSums; ++k) {
    for (int lane = 0; lane < kLanes32; ++lane) {
      sum += static_cast<double>(first[k][lane]);
      square += static_cast<double>(second[k][lane]);
    }
  }
  for (; i < n; ++i) {
    const double d = static_cast<double>(x[i]) - static_cast<double>(shift);
    sum += d;
    square += d * d;
  }
}

FASTINIT_HD int64_t beyond(const float* x, int64_t n, float low, float high) {
  PackI32 count = {};
  int64_t i = 0;
  for (; i + kLanes32 <= n; i += kLanes32) {
    const auto v = load_pack<PackF32>(x + i);
    count -= (v <= low) | (v >= high);
  }
  int64_t result = 0;
  for (int k = 0; k < kLanes32; ++k) result += count[k];
  for (; i < n; ++i) result += x[i] <= low || x[i] >= high;
  return result;
}

// One by one, in double: for blocks that hold values whose sums float cannot.
FASTINIT_HD Moments careful_moments(const float* x, int64_t n) {
  Moments result;
  Moments one;
  one.count = 1;
  for (int64_t i = 0; i < n; ++i) {
    const int32_t word = word_of(x[i]);
    one.nonfinite = word >= kInfinity;
    one.mean = one.nonfinite ? 0.0 : static_cast<double>(x[i]);
    one.abs_max = one.nonfinite ? 0.0 : value_of(word);
    merge_moments(result, one);
  }
  return result;
}

FASTINIT_HD Moments block_moments(const float* x, int64_t n, const Look& look) {
  // Squares of what is beyond these overflow, or vanish, in float.
  if (look.most >= word_of(1e15f) || (look.most != 0 && look.most < word_of(1e-15f))) {
    return careful_moments(x, n);
  }
  Moments result;
  result.count = n;
  result.abs_max = value_of(look.most);
  double sum, square;
  const auto shift = static_cast<float>(look.sum / static_cast<double>(n));
  sums(x, n, shift, sum, square);
  const double off = sum / static_cast<double>(n);
  result.mean = static_cast<double>(shift) + off;
  result.m2 = square - off * sum;
  if (result.m2 < 0.0) result.m2 = 0.0;
  return result;
}

// Elements [begin, end) of the memory, added to `moments` and `peaks` (words of magnitudes).
inline void measure_range(const MomentsSpec& spec, int64_t begin, int64_t end, Moments& moments,
                          int32_t* peaks) {
  float widened[kBlock];
  for (int64_t at = begin; at < end; at += kBlock) {
    const int64_t n = end - at < kBlock ? end - at : kBlock;
    const float* x = static_cast<const float*>(spec.data) + at;
    if (spec.dtype == DType::kBFloat16) {
      const uint16_t* narrow = static_cast<const uint16_t*>(spec.data) + at;
      for (int64_t i = 0; i < n; ++i) {
        const uint32_t word = static_cast<uint32_t>(narrow[i]) << 16;
        memcpy(widened + i, &word, sizeof(word));
      }
      x = widened;
    }
    Moments block = block_moments(x, n, look_at_block(spec, x, n, at, peaks));
    if (spec.bounded) block.saturated = beyond(x, n, spec.low, spec.high);
    merge_moments(moments, block);
  }
}

}  // namespace FASTINIT_ISA
}  // namespace fastinit
