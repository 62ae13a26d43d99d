// From a law to values: `resolve` turns a Law (shape, fan mode, nonlinearity, bounds) into the few
// numbers a fill needs, in float64 with IEEE operations and one final rounding; `draw` turns two
// random words into two elements. Both run on the host and in CUDA kernels.
//
// Normal: Box and Muller, "A note on the generation of random normal deviates", 1958.
// Truncated normal: inversion of the restricted distribution function (Devroye, "Non-uniform random
// variate generation", 1986, section II.2), from the nearer tail.
#pragma once

#include "cast.h"
#include "math.h"

namespace fastinit {
inline namespace FASTINIT_ISA {

// Standard deviation of a standard normal truncated to +-2: sqrt(1 - 4 phi(2) / (2 Phi(2) - 1)).
constexpr double kTruncatedStd = 0.87962566103423978;

// Glorot and Bengio 2010, He et al. 2015, Klambauer et al. 2017 (selu: found empirically by torch).
FASTINIT_HD double gain_of(Nonlinearity nonlinearity, double parameter) {
  switch (nonlinearity) {
    case Nonlinearity::kTanh:
      return 5.0 / 3.0;
    case Nonlinearity::kRelu:
      return sqrt(2.0);
    case Nonlinearity::kLeakyRelu:
      return sqrt(2.0 / (1.0 + parameter * parameter));
    case Nonlinearity::kSelu:
      return 3.0 / 4.0;
    default:
      return 1.0;
  }
}

struct Fans {
  int64_t in = 1;
  int64_t out = 1;
};

// Elements that feed one output, and that one input feeds. A grouped convolution's first axis holds
// all groups, each of which sees its own part only.
FASTINIT_HD Fans fans_of(const FanSpec& spec) {
  Fans fans;
  for (int k = 0; k < spec.ndim; ++k) {
    const AxisRole role = spec.role[k];
    const int64_t size = k == 0 ? spec.size[k] / spec.groups : spec.size[k];
    if (role == AxisRole::kIn || role == AxisRole::kReceptive) fans.in *= size;
    if (role == AxisRole::kOut || role == AxisRole::kReceptive) fans.out *= size;
  }
  return fans;
}

// `factor` multiplies the gain.
FASTINIT_HD double std_of(const FanSpec& spec, double factor = 1.0) {
  const Fans fans = fans_of(spec);
  const double in = static_cast<double>(fans.in), out = static_cast<double>(fans.out);
  const double fan = spec.mode == FanMode::kFanIn    ? in
                     : spec.mode == FanMode::kFanOut ? out
                                                     : (in + out) / 2.0;
  return spec.gain * factor * gain_of(spec.nonlinearity, spec.parameter) / sqrt(fan);
}

// Standard deviation and bounds of a law: those it was given, or those that its fan demands.
// `factor` multiplies std, or the gain behind it.
struct Spread {
  double std, low, high;
};

FASTINIT_HD Spread spread_of(const Law& law, double factor = 1.0) {
  if (law.fan.mode == FanMode::kNone) return {law.std * factor, law.low, law.high};
  double std = std_of(law.fan, factor);
  if (law.distribution == Distribution::kTruncNormal) std /= kTruncatedStd;
  double bound = sqrt(3.0) * std;
  if (law.distribution != Distribution::kUniform)
    bound = 2.0 * (law.complex ? std / sqrt(2.0) : std);
  return {std, -bound, bound};
}

// What `draw` needs, for S = float or double.
template <class S>
struct ResolvedLaw {
  S scale;      // uniform: high - low; normal: std
  S shift;      // uniform: low; normal: mean
  S low, high;  // results are clamped to these
  // Truncated normal to [alpha, beta] in units of std:
  S mass;     // Phi(beta) - Phi(alpha)
  S central;  // Phi(alpha) - 1/2
  S lower;    // Phi(alpha)
  S upper;    // 1 - Phi(beta)
  bool near;  // neither tail is below kNearProbability
};

template <class S>
FASTINIT_HD void resolve_truncation(double alpha, double beta, ResolvedLaw<S>& law) {
  // The difference of what is small keeps its relative accuracy.
  const double mass = beta < -1.0   ? normal_cdf(beta) - normal_cdf(alpha)
                      : alpha > 1.0 ? normal_cdf(-alpha) - normal_cdf(-beta)
                                    : normal_cdf_central(beta) - normal_cdf_central(alpha);
  law.mass = static_cast<S>(mass);
  law.central = static_cast<S>(normal_cdf_central(alpha));
  law.lower = static_cast<S>(normal_cdf(alpha));
  law.upper = static_cast<S>(normal_cdf(-beta));
  constexpr S kNear = static_cast<S>(kNearProbability);
  law.near = law.lower >= kNear && law.upper >= kNear;
}

// The law as the storage type Out sees it; `factor` multiplies std, or the gain behind it.
template <class Out>
FASTINIT_HD ResolvedLaw<typename Out::Compute> resolve(const Law& spec, double factor) {
  using S = typename Out::Compute;
  ResolvedLaw<S> law{};
  const Spread spread = spread_of(spec, factor);
  const double mean = spec.fan.mode == FanMode::kNone ? spec.mean : 0.0;
  law.low = static_cast<S>(spread.low);
  law.high = static_cast<S>(spread.high);
  if (spec.distribution == Distribution::kUniform) {
    law.scale = law.high - law.low;
    law.shift = law.low;
    // Half-open in the storage type.
    const S first = rounded_to<Out>(law.low), end = rounded_to<Out>(law.high);
    law.high = end > first ? value_below<Out>(end) : first;
    return law;
  }
  double std = spec.complex ? spread.std / sqrt(2.0) : spread.std;
  // The law of a truncated normal depends on the square of std alone.
  if (spec.distribution == Distribution::kTruncNormal && std < 0.0) std = -std;
  law.scale = static_cast<S>(std);
  law.shift = static_cast<S>(mean);
  if (spec.distribution == Distribution::kTruncNormal) {
    resolve_truncation((spread.low - mean) / std, (spread.high - mean) / std, law);
  }
  return law;
}

// Random words to [0, 1) on the grid of 2^-24 or 2^-53.
template <class F>
FASTINIT_HD F unit_uniform(UInt<F> word) {
  constexpr bool kSingle = sizeof(Scalar<F>) == 4;
  constexpr UInt<Scalar<F>> kMask =
      static_cast<UInt<Scalar<F>>>(kSingle ? 0xffffff : 0x1fffffffffffff);
  return to_float(word & kMask) * static_cast<Scalar<F>>(kSingle ? 0x1p-24 : 0x1p-53);
}

// Random words to (0, 1]: (word + 1/2) 2^-32, the word first rounded to float32, or
// (word + 1/2) 2^-64 rounded once to float64.
template <class F>
FASTINIT_HD F unit_midpoint(UInt<F> word) {
  if constexpr (sizeof(Scalar<F>) == 4) {
    return fma(to_float(word), splat<F>(0x1p-32f), splat<F>(0x1p-33f));
  } else {
    const F lower = fma(to_float(word & 0xffffffffu), splat<F>(0x1p-32), splat<F>(0x1p-33));
    return (to_float(word >> 32) + lower) * 0x1p-32;
  }
}

// Phi(alpha) + v (Phi(beta) - Phi(alpha)) with v = (word + 1/2) / 2^W, as normal_quantile() takes
// it. Beyond the median it counts from the other end, where 1 - v is exact in the integers.
template <class F>
FASTINIT_HD void truncated_probability(const ResolvedLaw<Scalar<F>>& law, UInt<F> word, F& tail,
                                       F& central) {
  const F mass = splat<F>(law.mass);
  central = fma(unit_midpoint<F>(word), mass, splat<F>(law.central));
  const auto above = central > splat<F>(Scalar<F>{0});
  const F end = above ? splat<F>(law.upper) : splat<F>(law.lower);
  tail = fma(unit_midpoint<F>(above ? ~word : word), mass, end);
}

// Two elements, the even one first, from two random words.
template <Distribution distribution, class F>
FASTINIT_HD void draw(const ResolvedLaw<Scalar<F>>& law, UInt<F> word0, UInt<F> word1, F& even,
                      F& odd) {
  if constexpr (distribution == Distribution::kNormal) {
    const F radius = sqrt(minus_two_log(unit_midpoint<F>(word0)));
    sincos_turn<F>(word1, odd, even);
    even = radius * even;
    odd = radius * odd;
  } else if constexpr (distribution == Distribution::kUniform) {
    even = unit_uniform<F>(word0);
    odd = unit_uniform<F>(word1);
  } else {
    // Side by side, and with a way of their own where no far tail is near; but not in the double of
    // a CUDA thread, whose registers would not do.
    constexpr bool kAmple = sizeof(F) != sizeof(double);
    constexpr int kCount = kAmple ? 2 : 1;
    const UInt<F> words[2] = {word0, word1};
    F z[2];
    FASTINIT_UNROLL
    for (int i = 0; i < 2; i += kCount) {
      F tail[kCount], central[kCount], quantile[kCount];
      FASTINIT_UNROLL
      for (int j = 0; j < kCount; ++j) {
        truncated_probability<F>(law, words[i + j], tail[j], central[j]);
      }
      normal_quantile(tail, central, quantile, kAmple && law.near);
      FASTINIT_UNROLL
      for (int j = 0; j < kCount; ++j) z[i + j] = quantile[j];
    }
    even = z[0];
    odd = z[1];
  }
  even = even * law.scale + law.shift;
  odd = odd * law.scale + law.shift;
  if constexpr (distribution != Distribution::kNormal) {
    const F high = splat<F>(law.high);
    even = even < high ? even : high;
    odd = odd < high ? odd : high;
  }
  if constexpr (distribution == Distribution::kTruncNormal) {
    const F low = splat<F>(law.low);
    even = even > low ? even : low;
    odd = odd > low ? odd : low;
  }
}

}  // namespace FASTINIT_ISA
}  // namespace fastinit
