// What a thread of the CUDA reduction does, as host-device functions of the thread's number, as in
// body.h: measure.cu runs them on a GPU, emulate_measure.cpp with every thread in turn. One pass
// over the memory by many blocks, then one block for each row that merges what they found. All sums
// are in double about a value of their own, so that none cancels. Owns no launch and no memory.
#pragma once

#include "../core/cast.h"
#include "../core/moments.h"

namespace fastinit::cuda {

constexpr int32_t kMagnitudeBits = 0x7fffffff;
constexpr int32_t kInfinityBits = 0x7f800000;

// The elements, dealt out in strips: every so manieth element of one unit, so that a thread keeps
// its largest magnitude in a register. Neighbouring strips are neighbours in memory.
struct Strips {
  static constexpr int64_t kElements = 32;            // of a strip, as a rule
  static constexpr int64_t kMost = int64_t{1} << 17;  // unless there are more units

  MomentsSpec spec;
  int64_t outer;    // times that the memory goes through all units
  int64_t lanes;    // strips side by side in the elements of a unit
  int64_t strands;  // strips that take turns in `outer`

  FASTINIT_HD explicit Strips(const MomentsSpec& given)
      : spec(given), outer(given.numel / (given.units * given.inner)) {
    const int64_t most = spec.units < kMost ? kMost / spec.units : 1;
    const int64_t fair = spec.numel / spec.units / kElements;
    const int64_t wanted = fair < 1 ? 1 : fair < most ? fair : most;  // of a unit
    const int64_t least = spec.inner < 32 ? spec.inner : 32;
    strands = (wanted + least - 1) / least < outer ? (wanted + least - 1) / least : outer;
    lanes = wanted / strands < least ? least : wanted / strands;
    if (lanes > spec.inner) lanes = spec.inner;
  }

  FASTINIT_HD int64_t count() const { return spec.units * lanes * strands; }
};

// What one strip after the other adds up to.
template <DType dtype>
struct StripSums {
  using Code = typename Storage<dtype>::Code;

  Moments moments;
  double shift = 0.0, sum = 0.0, square = 0.0;
  int32_t peak = 0;  // of the strip, as a word

  FASTINIT_HD void add(Code code, const MomentsSpec& spec) {
    float value = Storage<dtype>::decode(code);
    if constexpr (dtype == DType::kFloat16) {
      if ((code & 0x7c00) == 0x7c00) {  // decode() is for finite ones
        value = bit_cast<float>((code & 0x8000u) << 16 | kInfinityBits | (code & 0x3ffu) << 13);
      }
    }
    const int32_t word = bit_cast<int32_t>(value) & kMagnitudeBits;
    peak = word > peak ? word : peak;
    ++moments.count;
    if (spec.bounded && (value <= spec.low || value >= spec.high)) ++moments.saturated;
    if (word >= kInfinityBits) {
      ++moments.nonfinite;
      return;
    }
    const auto exact = static_cast<double>(value);
    if (moments.count - moments.nonfinite == 1) shift = exact;
    const double off = exact - shift;
    sum += off;
    square += off * off;
    const double magnitude = exact < 0.0 ? -exact : exact;
    moments.abs_max = magnitude > moments.abs_max ? magnitude : moments.abs_max;
  }

  // Elements begin, begin + step and so on; several are on their way at a time.
  FASTINIT_HD void add_each(const MomentsSpec& spec, int64_t begin, int64_t end, int64_t step) {
    constexpr int kAhead = 4;
    const Code* const data = static_cast<const Code*>(spec.data);
    int64_t at = begin;
    FASTINIT_NO_UNROLL
    for (; at + (kAhead - 1) * step < end; at += kAhead * step) {
      Code code[kAhead];
      FASTINIT_UNROLL
      for (int i = 0; i < kAhead; ++i) code[i] = data[at + i * step];
      FASTINIT_UNROLL
      for (int i = 0; i < kAhead; ++i) add(code[i], spec);
    }
    FASTINIT_NO_UNROLL
    for (; at < end; at += step) add(data[at], spec);
  }

  FASTINIT_HD Moments total() const {
    Moments result = moments;
    const auto good = static_cast<double>(moments.count - moments.nonfinite);
    if (good == 0.0) return result;
    const double mean = sum / good;
    result.mean = shift + mean;
    result.m2 = square - mean * sum;
    if (result.m2 < 0.0) result.m2 = 0.0;
    return result;
  }
};

// The strips of one thread: what they hold, with `peaks`, words of each unit, raised.
template <DType dtype>
FASTINIT_HD Moments measure_strips(const Strips& strips, int32_t* peaks, int64_t thread,
                                   int64_t threads) {
  const MomentsSpec& spec = strips.spec;
  const int64_t count = strips.count();
  StripSums<dtype> sums;
  FASTINIT_NO_UNROLL
  for (int64_t strip = thread; strip < count; strip += threads) {
    const int64_t lane = strip % strips.lanes;
    const int64_t unit = strip / strips.lanes % spec.units;
    const int64_t strand = strip / (strips.lanes * spec.units);
    sums.peak = 0;
    if (spec.inner == 1) {
      sums.add_each(spec, strand * spec.units + unit, spec.numel, strips.strands * spec.units);
    } else {
      FASTINIT_NO_UNROLL
      for (int64_t k = strand; k < strips.outer; k += strips.strands) {
        const int64_t begin = (k * spec.units + unit) * spec.inner;
        sums.add_each(spec, begin + lane, begin + spec.inner, strips.lanes);
      }
    }
    if (sums.peak > 0) FASTINIT_RAISE(peaks[unit], sums.peak);
  }
  return sums.total();
}

// What a thread has for the tree of its block: moments, and units that have been zero throughout.
struct Share {
  Moments moments;
  int64_t dead = 0;
};

// A step of the tree, after which the first `half` shares hold all that twice as many did.
FASTINIT_HD void fold(Share* shares, int64_t thread, int64_t half) {
  if (thread >= half) return;
  merge_moments(shares[thread].moments, shares[thread + half].moments);
  shares[thread].dead += shares[thread + half].dead;
}

// A thread's part of merging what the blocks found into a row whose peaks are `row_peaks`.
FASTINIT_HD Share merge_parts(const Moments* parts, int64_t count, const int32_t* peaks,
                              float* row_peaks, int64_t units, bool empty, int64_t thread,
                              int64_t threads) {
  Share share;
  FASTINIT_NO_UNROLL
  for (int64_t i = thread; i < count; i += threads) merge_moments(share.moments, parts[i]);
  FASTINIT_NO_UNROLL
  for (int64_t unit = thread; unit < units; unit += threads) {
    const float peak = raised_peak(row_peaks[unit], peaks[unit], empty);
    row_peaks[unit] = peak;
    share.dead += peak == 0.0f;
  }
  return share;
}

}  // namespace fastinit::cuda
