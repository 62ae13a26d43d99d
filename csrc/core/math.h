// The project's own elementary functions: logarithm, sine and cosine, normal distribution function
// and its inverse. A libm differs from machine to machine; these consist of IEEE operations only,
// so that their bits do not. No tables: they would cost memory traffic in a GPU thread. All
// coefficients come from tools/fit_math.py, which states the fitted identities.
//
// The errors given are bounds on what tests/math_errors.cpp measures against __float128 and long
// double on random and structured arguments, unless they say "all" or "any"; tests/test_math.py
// holds it to them. An ulp is that of the exact result; a relative error is for normal results.
#pragma once

#include "polynomial.h"

namespace fastinit {
inline namespace FASTINIT_ISA {

template <class F>
constexpr bool kIsSingle = sizeof(Scalar<F>) == 4;

// -2 ln(u) for positive normal u <= 1; exactly +0 at u = 1.
// u = m 2^e with m in [sqrt(1/2), sqrt(2)), split off by integer arithmetic on the bits alone. With
// g = 2 - 2m, which is exact, the result is g + g^2 Q(g) - 2e ln 2, where cancellation costs at
// most one bit, as |g + g^2 Q| <= ln 2. 15 operations in float, 28 in double, no comparison.
// Error: float 1.14 ulp (0.56 for u < 2^-33), at most 2.1e-6 for u >= 2^-33; double 1.3 ulp. One
// degree more would bring float to 0.7 ulp, but in sqrt(result) that is below the rounding.
template <class F>
FASTINIT_HD F minus_two_log(F u) {
  const Int<F> bits = bit_cast<Int<F>>(u);
  if constexpr (kIsSingle<F>) {
    const Int<F> exponent = (bits - 0x3f3504f3) & -0x00800000;  // e 2^23
    const F e = to_float(exponent);
    const F g = fma(bit_cast<F>(bits - exponent), splat<F>(-2.0f), splat<F>(2.0f));
    const F q = polynomial(g, 0.249999955f, 0.0833348781f, 0.0312522054f, 0.0124762664f,
                           0.00517833f, 0.00233107107f, 0.00111761421f, 0.000340961677f);
    // 2 ln 2 happens to lie within 0.03 ulp of a float.
    return fma(e, splat<F>(-1.38629436f * 0x1p-23f), fma(g * g, q, g));
  } else {
    const Int<F> exponent = (bits - 0x3fe6a09e667f3bcd) & -0x0010000000000000;  // e 2^52
    const F e = to_float(exponent);
    const F g = fma(bit_cast<F>(bits - exponent), splat<F>(-2.0), splat<F>(2.0));
    const F q = polynomial(g, 0.25000000000000022, 0.083333333333332635, 0.031249999999966083,
                           0.012500000000048594, 0.0052083333348692208, 0.0022321428563177826,
                           0.00097656246817070527, 0.00043402777551287172, 0.00019531285696730935,
                           8.8778602725939467e-05, 4.0687787673754338e-05, 1.8777844658197244e-05,
                           8.7279942599801244e-06, 4.0809573843786991e-06, 1.8903839214030163e-06,
                           8.6322469524204894e-07, 4.3305075677090482e-07, 2.4921293908583203e-07,
                           1.1471364475977549e-07, 2.5003849214851527e-08);
    const F low = fma(e, splat<F>(-4.6380936276925991e-17 * 0x1p-52), g);
    return fma(e, splat<F>(-1.3862943611198906 * 0x1p-52), fma(g * g, q, low));
  }
}

// Sine and cosine of 2 pi (x + 1/2) / 2^W, W the width of x.
// The quadrant and the remainder in it are exact, being integers: modulo 2^W, 4x + 2 read as signed
// is the remainder 4d + 2 of the nearest quarter turn, and p = (4d + 2) / 2^(W-1) in [-1, 1] is
// rounded once. Then sin(pi p / 4) = p (HIGH + S(p^2)), where S holds the low part of pi / 4, and
// cos(pi p / 4) = 1 + p^2 C(p^2). 19 instructions in CUDA float, 22 in AVX-512.
// Error: float 6.9e-8 and 1.4 ulp, all angles; double 1.3e-16 and 1.4 ulp.
// Box-Muller in float, sqrt(minus_two_log(u)) times either: 9.7e-7 found, and not above 9.9e-7 for
// any u >= 2^-33 and any x (the errors of all radii and all angles added up). Double: 3.1e-15.
template <class F>
FASTINIT_HD void sincos_turn(UInt<F> x, F& sine, F& cosine) {
  using U = UInt<F>;
  constexpr UInt<Scalar<F>> kSign = UInt<Scalar<F>>{1} << (8 * sizeof(Scalar<F>) - 1);
  const F remainder = to_float(bit_cast<Int<F>>((x << 2) + 2));
  F s, c;
  if constexpr (kIsSingle<F>) {
    const F p = remainder * 0x1p-31f;
    const F q = p * p;
    const F s_low =
        polynomial(q, -2.44002543e-08f, -0.0807454288f, 0.00248999055f, -3.59435508e-05f);
    s = fma(p, splat<F>(0.785398185f), p * s_low);
    c = polynomial(q, 1.0f, -0.308425128f, 0.0158542898f, -0.000325882866f, 3.50265054e-06f);
  } else {
    const F p = remainder * 0x1p-63;
    const F q = p * p;
    const F s_low =
        polynomial(q, 2.801355493684504e-17, -0.080745512188280535, 0.0024903945701887959,
                   -3.6576204158693494e-05, 3.1336162209247604e-07, -1.7571496558099605e-09,
                   6.8772161821468052e-12);
    s = fma(p, splat<F>(0.78539816339744828), p * s_low);
    c = polynomial(q, 1.0, -0.30842513753404244, 0.015854344243815172, -0.00032599188692535697,
                   3.5908604423357944e-06, -2.4611358913284592e-08, 1.1500156656658693e-10,
                   -3.8484269397379526e-13);
  }
  // The two top bits of `turn` are the quadrant k: swap if k is odd; sin < 0 if k is 2 or 3,
  // cos < 0 if k is 1 or 2.
  const U turn = x + (kSign >> 2);
  const auto swap = (turn & (kSign >> 1)) != 0;
  const U sine_bits = bit_cast<U>(swap ? c : s), cosine_bits = bit_cast<U>(swap ? s : c);
  sine = bit_cast<F>(sine_bits ^ (turn & kSign));
  cosine = bit_cast<F>(cosine_bits ^ ((turn + (kSign >> 1)) & kSign));
}

// exp(t^2 / 2) Phi(-t) for t in [0, 40], Phi the standard normal distribution function: a smooth
// curve from 1/2 down to about 0.4 / t. Double only. Error: 4.2e-16 relative.
template <class F>
FASTINIT_HD F scaled_normal_tail(F t) {
  const F y = (t - 4.0) / (t + 4.0);
  const F m = polynomial(y, 0.66087448911378255, -0.43749892042343663, 0.26275814540295606,
                         -0.11481445062192849, 0.029531770784325704, 0.00095190651568048755,
                         -0.0039872544360019142, 0.0009920046016366551, 0.00032052851010807269,
                         -0.0001855400117956014, -3.0556134489889247e-05, 3.0513035591131768e-05,
                         5.018303107705394e-06, -5.0907341735902435e-06, -1.2861159341831817e-06,
                         8.1629369848489643e-07, 3.5727535418419072e-07, -1.0465680610411596e-07,
                         -8.5493794363147805e-08, 5.2098507100583289e-09, 1.3845494349732619e-08,
                         9.9760309486534615e-10, -8.489881678889568e-10);
  return m / (t + 3.0);
}

// Phi^-1 of p <= 1.7e-3, given L = -2 ln(4 p (1 - p)) >= 10. From s = sqrt(L),
// z = s T(1 / (s + 2)), which is good to 1.1e-7. In double a Newton step on 2 ln(Phi(z) / p) with
// the second-order correction follows.
// Error, L being correctly rounded: float 3e-7 relative; double 2e-16 relative.
template <class F>
FASTINIT_HD F normal_quantile_far(F p, F length) {
  const F s = sqrt(length);
  const F x = splat<F>(1.0f) / (s + splat<F>(2.0f));
  const F z = s * polynomial(x, -1.00002801f, 0.012782813f, 3.54921126f, -26.2277622f, 302.943024f,
                             -2487.15991f, 12729.0977f, -37906.9258f, 48058.5508f);
  if constexpr (kIsSingle<F>) {
    return z;
  } else {
    const F scaled = scaled_normal_tail(-z);
    const F excess = fma(-z, z, minus_two_log(p)) - minus_two_log(scaled);
    const F ratio = scaled * 2.5066282746310007;  // Phi / phi at z
    const F step = excess * ratio * 0.5;
    return z - fma(step * step * -0.5, splat<F>(1.0) / ratio + z, step);
  }
}

// Positive `magnitude` with the sign of `signed_value`.
template <class F>
FASTINIT_HD F with_sign_of(F signed_value, F magnitude) {
  using U = UInt<F>;
  constexpr UInt<Scalar<F>> kSign = UInt<Scalar<F>>{1} << (8 * sizeof(Scalar<F>) - 1);
  return bit_cast<F>(bit_cast<U>(magnitude) | (bit_cast<U>(signed_value) & kSign));
}

// Phi^-1 divided by c = p - 1/2, given L = -2 ln(4 p (1 - p)) <= 10.
// Error: float 1.8e-7 relative; double 2.6e-16 relative.
template <class F>
FASTINIT_HD F normal_quantile_near(F length) {
  if constexpr (kIsSingle<F>) {
    return polynomial(length, 2.50662804f, 0.328121126f, 0.00815439131f, -0.000812368584f,
                      -2.95812952e-05f, 6.07532456e-06f, -2.01670531e-07f, -4.97932051e-09f,
                      3.14337639e-10f);
  } else {
    return polynomial(length - 5.0, 4.2466269340293401, 0.34880202439905411, -0.0029538096900813423,
                      -0.00044289912822859811, 3.8581560476722673e-05, -4.4159522136184174e-07,
                      -1.5099467939160846e-07, 1.057843313161256e-08, 1.4823585830966147e-10,
                      -6.0000132127566125e-11, 2.5061443882054277e-12, 1.6519666150159076e-13,
                      -2.1482737129866614e-14, 3.1378267831451013e-16, 9.2828103173999879e-17,
                      -6.5205721731316515e-18, -1.4032098020867068e-19, 3.9294294212042018e-20,
                      -1.0329879223506597e-21, -1.1511791803028747e-22, 6.3556138823209956e-24);
  }
}

// L = -2 ln(4 p (1 - p)).
template <class F>
FASTINIT_HD F normal_quantile_length(F p) {
  return minus_two_log(p * fma(p, splat<F>(Scalar<F>(-4)), splat<F>(Scalar<F>(4))));
}

// Below it, a probability's length may be above 10.
constexpr double kNearProbability = 1.8e-3;

// Phi^-1 of probabilities given twice, so that nothing is lost in the tails nor near the median: as
// the nearer tail p <= 1/2, the upper one if z > 0, and as the signed distance c from 1/2. p below
// the smallest normal number counts as that (z = -+12.9 or -+37.5). Several in step, as in
// philox(). With L = -2 ln(4 p (1 - p)), z / c is a smooth function of L; one polynomial reaches to
// p = 1.7e-3, and the rest is rare. `near`: it does not occur, as no p is below kNearProbability.
// Error: float 3e-7 relative; double 4e-16 relative; in both down to the smallest normal p.
template <int kCount, class F>
FASTINIT_HD void normal_quantile(const F (&p)[kCount], const F (&c)[kCount], F (&z)[kCount],
                                 bool near = false) {
  if (near) {
    FASTINIT_UNROLL
    for (int i = 0; i < kCount; ++i) {
      z[i] = c[i] * normal_quantile_near(normal_quantile_length(p[i]));
    }
    return;
  }
  const F smallest = splat<F>(kIsSingle<F> ? Scalar<F>(0x1p-126) : Scalar<F>(0x1p-1022));
  using Mask = decltype(smallest > smallest);
  F tail[kCount], length[kCount];
  Mask far[kCount], some{};
  FASTINIT_UNROLL
  for (int i = 0; i < kCount; ++i) {
    tail[i] = p[i] < smallest ? smallest : p[i];
    length[i] = normal_quantile_length(tail[i]);
    z[i] = c[i] * normal_quantile_near(length[i]);
    far[i] = length[i] > splat<F>(Scalar<F>(10));
    some = some | far[i];
  }
  if (any(some)) {
    FASTINIT_UNROLL
    for (int i = 0; i < kCount; ++i) {
      z[i] = far[i] ? with_sign_of(c[i], -normal_quantile_far(tail[i], length[i])) : z[i];
    }
  }
}

// Phi(-t) for t >= 0. Error: 5.6e-16 relative up to t = 37.5, then 3 units of 2^-1074.
FASTINIT_HD double normal_tail(double t) {
  t = t > 40.0 ? 40.0 : t;  // Phi(-40) < 2^-1075
  const double square = t * t;
  const double square_low = fma(t, t, -square);
  // exp(-t^2 / 2) = exp(r) 2^n; adding 1.5 * 2^52 rounds to an integer.
  const double shifted = fma(square, -0.72134752044448169, 0x1.8p52);
  const double n = shifted - 0x1.8p52;
  double r = fma(n, -0.69314718055994529, -0.5 * square);
  r = fma(n, -2.3190468138462996e-17, fma(square_low, -0.5, r));
  const double e = polynomial(
      r, 0.5, 0.16666666666666685, 0.041666666666666692, 0.0083333333333159513,
      0.0013888888888869285, 0.00019841269898669128, 2.4801587357203634e-05, 2.7557232862511479e-06,
      2.7557245104000528e-07, 2.5112658827045625e-08, 2.0923789932071228e-09);
  const double scaled = scaled_normal_tail(t);
  const double value = fma(fma(r * r, e, r), scaled, scaled);
  // 2^n in two factors: the first product is exact, the second may underflow gradually.
  const int64_t whole = static_cast<int64_t>(n), half = whole / 2;
  return value * bit_cast<double>((1023 + half) << 52) *
         bit_cast<double>((1023 + whole - half) << 52);
}

// Phi(x) - 1/2 = erf(x / sqrt(2)) / 2, with full relative accuracy near 0: 3.1e-16 relative.
FASTINIT_HD double normal_cdf_central(double x) {
  const double t = x < 0.0 ? -x : x;
  if (t > 1.0) {
    const double central = 0.5 - normal_tail(t);
    return x < 0.0 ? -central : central;
  }
  return x * polynomial(x * x, 0.3989422804014327, -0.066490380066908009, 0.0099735570101139974,
                        -0.0011873282165884532, 0.00011543469641932224, -9.4446995336826631e-06,
                        6.6610841844521566e-07, -4.1527220074597453e-08, 2.7136348676847118e-09,
                        -5.4374086631745072e-10, 2.7491582922165686e-10, -9.8010942981814009e-11,
                        1.5609813205818873e-11);
}

// Phi(x), with full relative accuracy in the lower tail: 5.6e-16 relative down to x = -37.5, beyond
// which it underflows gradually (3 units of 2^-1074).
FASTINIT_HD double normal_cdf(double x) {
  return x < -0.5 ? normal_tail(-x) : 0.5 + normal_cdf_central(x);
}

}  // namespace FASTINIT_ISA
}  // namespace fastinit
