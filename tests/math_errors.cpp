// Measures the errors that csrc/core/math.h states, on scalar lanes: random arguments of a fixed
// seed and structured ones, against __float128 for double and long double for float.
//
//   g++ -O3 -std=c++20 -ffp-contract=off -DWITH_QUADMATH tests/math_errors.cpp -lquadmath
//
//   ./a.out [effort [seed]]      # effort multiplies the number of random arguments
//
// Without WITH_QUADMATH the reference is long double everywhere, of which 64 bits suffice. Prints
// one line for each function and precision, `name precision measure=maximum ...`, in seconds;
// test_math.py holds them to the comments. An ulp is that of the exact result: 2^-23 or 2^-52 times
// its binade, and the smallest subnormal below the normal numbers; a relative error there is one of
// the smallest normal number.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <random>
#include <type_traits>
#include <utility>
#include <vector>

#include "../csrc/core/distributions.h"
#ifdef WITH_QUADMATH
#include <quadmath.h>
#endif

namespace {

using std::int64_t, std::uint64_t, std::uint32_t;

static_assert(std::numeric_limits<long double>::digits >= 64, "long double is no reference here");

// The reference: libm's functions in a type R wider than what is measured.
namespace ref {
#define WRAP(R, suffix)                                        \
  inline R log(R x) { return log##suffix(x); }                 \
  inline R exp(R x) { return exp##suffix(x); }                 \
  inline R sin(R x) { return sin##suffix(x); }                 \
  inline R cos(R x) { return cos##suffix(x); }                 \
  inline R erf(R x) { return erf##suffix(x); }                 \
  inline R erfc(R x) { return erfc##suffix(x); }               \
  inline R sqrt(R x) { return sqrt##suffix(x); }               \
  inline R fabs(R x) { return fabs##suffix(x); }               \
  inline R expm1(R x) { return expm1##suffix(x); }             \
  inline R fma(R x, R y, R z) { return fma##suffix(x, y, z); } \
  inline R frexp(R x, int* e) { return frexp##suffix(x, e); }  \
  inline R ldexp(R x, int e) { return ldexp##suffix(x, e); }
WRAP(long double, l)
#ifdef WITH_QUADMATH
WRAP(__float128, q)
#endif
#undef WRAP
}  // namespace ref

#ifdef WITH_QUADMATH
using Wide = __float128;
constexpr const char* kReference = "__float128";
#else
using Wide = long double;
constexpr const char* kReference = "long double";
#endif

// What a function of S is measured against.
template <class S>
using Reference = std::conditional_t<sizeof(S) == 4, long double, Wide>;

template <class S>
constexpr const char* kName = sizeof(S) == 4 ? "float" : "double";

template <class R>
R pi() {
  static const R value = [] {  // a quarter of it by Newton's iteration on sin - cos
    R x = 0.78539816339744831;
    for (int i = 0; i < 4; ++i) x -= (ref::sin(x) - ref::cos(x)) / (ref::sin(x) + ref::cos(x));
    return 4 * x;
  }();
  return value;
}

template <class R>
R density(R x) {  // of the standard normal; x^2 in two parts, for the exponent is large
  const R square = x * x;
  const R low = ref::fma(x, x, -square);
  return ref::exp(-square / 2) * (1 - low / 2) / ref::sqrt(2 * pi<R>());
}

// Phi(-t) and Phi(x) - 1/2. The argument over sqrt(2) is rounded; the derivative mends that.
template <class R>
R tail(R t) {
  static const R factor = ref::sqrt(R(0.5));
  static const R factor_low = ref::fma(-factor, factor, R(0.5)) / (2 * factor);
  const R y = t * factor;
  const R low = ref::fma(t, factor, -y) + t * factor_low;
  return ref::erfc(y) / 2 - low / factor * density(t);
}
template <class R>
R central(R x) {
  static const R factor = ref::sqrt(R(0.5));
  return ref::erf(x * factor) / 2;
}

// t with Phi(-t) = p, by Newton's iteration on the logarithm; t with Phi(t) - 1/2 = c.
template <class R>
R tail_inverse(R p, R start) {
  const R target = ref::log(p);
  R t = start;
  for (int i = 0; i < 30; ++i) {
    const R value = tail(t);
    const R step = (ref::log(value) - target) * value / density(t);
    t += step;
    if (ref::fabs(step) <= R(1e-12) * t) break;  // the next one is its square
  }
  return t;
}
template <class R>
R central_inverse(R c, R start) {
  R t = start;
  for (int i = 0; i < 30; ++i) {
    const R step = (c - central(t)) / density(t);
    t += step;
    if (ref::fabs(step) <= R(1e-12) * ref::fabs(t)) break;
  }
  return t;
}

// The largest error found, in the measures the comments use.
template <class S>
struct Worst {
  using R = Reference<S>;
  double absolute = 0, relative = 0, ulp = 0;

  void see(S computed, R exact) {
    const R error = ref::fabs(R(computed) - exact);
    if (!(error < R(1e300))) {  // infinite, or not a number
      absolute = relative = ulp = HUGE_VAL;
      return;
    }
    absolute = std::max(absolute, double(error));
    if (error == 0) return;
    if (exact == 0) {  // which has to be met exactly
      relative = ulp = HUGE_VAL;
      return;
    }
    using Limits = std::numeric_limits<S>;
    const R size = std::max(ref::fabs(exact), R(Limits::min()));
    relative = std::max(relative, double(error / size));
    int exponent;  // |exact| in [2^(exponent - 1), 2^exponent)
    ref::frexp(exact, &exponent);
    exponent = std::max(exponent, Limits::min_exponent) - Limits::digits;
    ulp = std::max(ulp, double(ref::ldexp(error, -exponent)));
  }
};

std::mt19937_64 random_bits(20240607);

double uniform() { return static_cast<double>(random_bits() >> 11) * 0x1p-53; }

// Of the numbers between two positive ones, each as likely as the next: all binades alike.
template <class S>
S any_between(S low, S high) {
  using U = fastinit::UInt<S>;
  const U first = fastinit::bit_cast<U>(low);
  const U count = fastinit::bit_cast<U>(high) - first + 1;
  return fastinit::bit_cast<S>(static_cast<U>(first + random_bits() % count));
}

// The `reach` numbers on each side of `middle` and itself, as far as they are within [low, high].
template <class S>
void add_neighbours(std::vector<S>& values, S middle, int reach, S low, S high) {
  S down = middle, up = middle;
  for (int i = 0; i <= reach; ++i) {
    for (const S x : {down, up}) {
      if (low <= x && x <= high) values.push_back(x);
    }
    down = std::nextafter(down, -std::numeric_limits<S>::infinity());
    up = std::nextafter(up, std::numeric_limits<S>::infinity());
  }
}

// Arguments in [low, high] with 0 <= low: half of them uniform, half uniform in their bits, and the
// neighbours of the ends, of all powers of two, and of the places where branches meet.
template <class S>
std::vector<S> arguments(S low, S high, int random, std::vector<double> special = {}) {
  const S least = std::max(low, std::numeric_limits<S>::min());
  std::vector<S> values{low, high};
  for (int i = 0; i < random / 2; ++i) {
    values.push_back(std::clamp(S(low + uniform() * (high - low)), low, high));
    values.push_back(any_between(least, high));
  }
  for (S power = least; power <= high; power *= 2) add_neighbours(values, power, 2, low, high);
  for (const double x : special) add_neighbours(values, S(x), 40, low, high);
  add_neighbours(values, low, 40, low, high);
  add_neighbours(values, high, 40, low, high);
  return values;
}

int effort = 1;  // as the command line has it

template <class S>
int count() {
  return effort * (sizeof(S) == 4 ? 300000 : 60000);
}

template <class S>
void measure_minus_two_log() {
  using R = Reference<S>;
  Worst<S> far, near;
  for (const S u : arguments<S>(std::numeric_limits<S>::min(), 1, 2 * count<S>(),
                                {0.70710678118654752, 0.35355339059327376, 0x1p-33})) {
    (u < S(0x1p-33) ? far : near).see(fastinit::minus_two_log(u), -2 * ref::log(R(u)));
  }
  std::printf("minus_two_log %s ulp=%.4g ulp_below_2^-33=%.4g absolute_from_2^-33=%.4g\n", kName<S>,
              std::max(near.ulp, far.ulp), far.ulp, near.absolute);
}

// sin and cos of 2 pi (x + 1/2) / 2^W. The nearest quarter turn is taken off in integers, where the
// difference is exact.
template <class S>
std::pair<Reference<S>, Reference<S>> exact_turn(fastinit::UInt<S> x) {
  using R = Reference<S>;
  using U = fastinit::UInt<S>;
  constexpr int kBits = 8 * sizeof(S);
  const U quadrant = static_cast<U>(x + (U{1} << (kBits - 3))) >> (kBits - 2);
  const auto rest = static_cast<fastinit::Int<S>>(x - (quadrant << (kBits - 2)));
  const R angle = ref::ldexp((R(rest) + R(0.5)) * 2 * pi<R>(), -kBits);
  const R sine = ref::sin(angle), cosine = ref::cos(angle);
  switch (quadrant) {
    case 0:
      return {sine, cosine};
    case 1:
      return {cosine, -sine};
    case 2:
      return {-sine, -cosine};
    default:
      return {-cosine, sine};
  }
}

// Random angles, and those around the multiples of a sixteenth of a turn at all distances.
template <class S>
std::vector<fastinit::UInt<S>> angles() {
  using U = fastinit::UInt<S>;
  constexpr int kBits = 8 * sizeof(S);
  std::vector<U> values;
  for (int i = 0; i < count<S>(); ++i) values.push_back(static_cast<U>(random_bits()));
  for (U sixteenth = 0; sixteenth < 16; ++sixteenth) {
    for (int bits = 0; bits <= kBits; ++bits) {
      for (int i = 0; i < 40; ++i) {
        const U distance = bits == 0 ? U{0} : static_cast<U>(random_bits() >> (64 - bits));
        values.push_back(static_cast<U>((sixteenth << (kBits - 4)) + distance));
        values.push_back(static_cast<U>((sixteenth << (kBits - 4)) - 1 - distance));
      }
    }
  }
  return values;
}

template <class S>
void measure_sincos_turn() {
  Worst<S> worst;
  for (const auto x : angles<S>()) {
    S sine, cosine;
    fastinit::sincos_turn<S>(x, sine, cosine);
    const auto [exact_sine, exact_cosine] = exact_turn<S>(x);
    worst.see(sine, exact_sine);
    worst.see(cosine, exact_cosine);
  }
  std::printf("sincos_turn %s ulp=%.4g absolute=%.4g\n", kName<S>, worst.ulp, worst.absolute);
}

// A factor of a product, computed and exact.
template <class S>
struct Factor {
  S computed;
  Reference<S> exact;

  Reference<S> error() const {  // outwards, whatever the sign
    return exact < 0 ? exact - Reference<S>(computed) : Reference<S>(computed) - exact;
  }
};

// The few whose errors are largest, upwards and downwards.
template <class S>
void keep_extremes(std::vector<Factor<S>>& factors, std::size_t count) {
  if (factors.size() <= 2 * count) return;
  const auto by_error = [](const Factor<S>& a, const Factor<S>& b) {
    return a.error() < b.error();
  };
  std::sort(factors.begin(), factors.end(), by_error);
  factors.erase(factors.begin() + count, factors.end() - count);
}

// Random products, and the worst large radii times the worst angles near the axes.
template <class S>
void measure_box_muller() {
  using R = Reference<S>;
  const S least = sizeof(S) == 4 ? S(0x1p-33) : S(0x1p-65);
  std::vector<Factor<S>> radii, turns, large, axial;
  for (const S u : arguments<S>(least, 1, count<S>())) {
    const S radius = fastinit::sqrt(fastinit::minus_two_log(u));
    radii.push_back({radius, ref::sqrt(-2 * ref::log(R(u)))});
    if (u < least * 0x1p10) large.push_back(radii.back());
  }
  for (const auto x : angles<S>()) {
    S sine, cosine;
    fastinit::sincos_turn<S>(x, sine, cosine);
    const auto [exact_sine, exact_cosine] = exact_turn<S>(x);
    turns.push_back({sine, exact_sine});
    turns.push_back({cosine, exact_cosine});
    for (std::size_t i = turns.size() - 2; i < turns.size(); ++i) {
      if (ref::fabs(turns[i].exact) > R(0.7)) axial.push_back(turns[i]);
    }
  }
  Worst<S> worst;
  const auto see = [&worst](const Factor<S>& a, const Factor<S>& b) {
    worst.see(a.computed * b.computed, a.exact * b.exact);
  };
  std::shuffle(turns.begin(), turns.end(), random_bits);
  for (std::size_t i = 0; i < turns.size(); ++i) see(radii[i % radii.size()], turns[i]);
  keep_extremes(large, 300);
  keep_extremes(axial, 300);
  for (const auto& radius : large) {
    for (const auto& turn : axial) see(radius, turn);
  }
  std::printf("box_muller %s absolute=%.4g\n", kName<S>, worst.absolute);
}

void measure_scaled_normal_tail() {
  Worst<double> worst;
  for (const double t : arguments<double>(0, 40, count<double>(), {4, 37.5})) {
    worst.see(fastinit::scaled_normal_tail(t),
              tail(Wide(t)) / (density(Wide(t)) * ref::sqrt(2 * pi<Wide>())));
  }
  std::printf("scaled_normal_tail double ulp=%.4g relative=%.4g\n", worst.ulp, worst.relative);
}

constexpr double kFar = 1.7e-3;  // about where the quantile changes its polynomial, at L = 10

// Given L correctly rounded.
template <class S>
void measure_normal_quantile_far() {
  using R = Reference<S>;
  Worst<S> worst;
  for (const S p : arguments<S>(std::numeric_limits<S>::min(), S(kFar), count<S>())) {
    const S length = S(-2 * ref::log(4 * R(p) * (1 - R(p))));
    if (length < S(10)) continue;
    const S z = fastinit::normal_quantile_far(p, length);
    worst.see(z, -tail_inverse<R>(p, -R(z)));
  }
  std::printf("normal_quantile_far %s ulp=%.4g relative=%.4g\n", kName<S>, worst.ulp,
              worst.relative);
}

// At L, p (1 - p) = exp(-L / 2) / 4, so that c = sqrt(1 - exp(-L / 2)) / 2.
template <class S>
void measure_normal_quantile_near() {
  using R = Reference<S>;
  Worst<S> worst;
  for (const S length : arguments<S>(0, 10, count<S>(), {5})) {
    const S ratio = fastinit::normal_quantile_near(length);
    const R c = ref::sqrt(-ref::expm1(-R(length) / 2)) / 2;
    R exact;
    if (c == 0) {
      exact = ref::sqrt(2 * pi<R>());
    } else if (c < R(0.25)) {
      exact = central_inverse<R>(c, c * R(ratio)) / c;
    } else {
      const R p = ref::exp(-R(length) / 2) / 4 / (R(0.5) + c);
      exact = tail_inverse<R>(p, c * R(ratio)) / c;
    }
    worst.see(ratio, exact);
  }
  std::printf("normal_quantile_near %s ulp=%.4g relative=%.4g\n", kName<S>, worst.ulp,
              worst.relative);
}

// The probability is the one of the two numbers that is given more precisely; the other one is its
// rounded complement.
template <class S>
void measure_normal_quantile() {
  using R = Reference<S>;
  Worst<S> worst;
  const auto see = [&](S tail_of_it, S c, R magnitude) {
    const S p[2] = {tail_of_it, tail_of_it}, signed_c[2] = {c, -c};
    S z[2];
    fastinit::normal_quantile(p, signed_c, z);
    worst.see(z[0], magnitude);
    worst.see(z[1], -magnitude);
  };
  const auto start = [](S p, S c) {
    const S ps[1] = {p}, cs[1] = {c};
    S z[1];
    fastinit::normal_quantile(ps, cs, z);
    return R(z[0]);
  };
  for (const S p : arguments<S>(std::numeric_limits<S>::min(), S(0.25), count<S>(),
                                {kFar, 0.0016873, 0.0017, 0.1, 0.05, 0.01})) {
    const S c = S(0.5) - p;
    see(p, c, tail_inverse<R>(p, start(p, c)));
  }
  for (const S c : arguments<S>(0, S(0.25), count<S>())) {
    const S p = S(0.5) - c;
    see(p, c, c == 0 ? R(0) : central_inverse<R>(c, start(p, c)));
  }
  std::printf("normal_quantile %s ulp=%.4g relative=%.4g\n", kName<S>, worst.ulp, worst.relative);
}

void measure_distribution_functions() {
  Worst<double> upper, central_part, cdf, upper_gradual, cdf_gradual;
  const std::vector<double> special{0.5, 1, 37.5, 37.51, 38, 38.4, 38.5, 38.6};
  for (const double t : arguments<double>(0, 41, count<double>(), special)) {
    const Wide exact_tail = tail(Wide(t)), exact_central = central(Wide(t));
    (t <= 37.5 ? upper : upper_gradual).see(fastinit::normal_tail(t), exact_tail);
    (t <= 37.5 ? cdf : cdf_gradual).see(fastinit::normal_cdf(-t), exact_tail);
    cdf.see(fastinit::normal_cdf(t), Wide(0.5) + exact_central);
    central_part.see(fastinit::normal_cdf_central(t), exact_central);
    central_part.see(fastinit::normal_cdf_central(-t), -exact_central);
  }
  for (int i = 0; i < count<double>() / 4; ++i) {  // where results are subnormal
    const double t = 37.5 + 2.5 * uniform();
    upper_gradual.see(fastinit::normal_tail(t), tail(Wide(t)));
    cdf_gradual.see(fastinit::normal_cdf(-t), tail(Wide(t)));
  }
  std::printf("normal_tail double ulp=%.4g relative=%.4g units_beyond_37.5=%.4g\n", upper.ulp,
              upper.relative, upper_gradual.ulp);
  std::printf("normal_cdf_central double ulp=%.4g relative=%.4g\n", central_part.ulp,
              central_part.relative);
  std::printf("normal_cdf double ulp=%.4g relative=%.4g units_beyond_37.5=%.4g\n", cdf.ulp,
              cdf.relative, cdf_gradual.ulp);
}

void measure_truncated_std() {
  Worst<double> worst;
  const Wide mass = 2 * central(Wide(2));
  worst.see(fastinit::kTruncatedStd, ref::sqrt(1 - 4 * density(Wide(2)) / mass));
  std::printf("kTruncatedStd double ulp=%.4g\n", worst.ulp);
}

template <class S>
void measure_both() {
  measure_minus_two_log<S>();
  measure_sincos_turn<S>();
  measure_box_muller<S>();
  measure_normal_quantile_far<S>();
  measure_normal_quantile_near<S>();
  measure_normal_quantile<S>();
}

}  // namespace

int main(int count, char** words) {
  if (count > 1) effort = std::atoi(words[1]);
  if (count > 2) random_bits.seed(std::strtoull(words[2], nullptr, 0));
  std::printf("reference %s\n", kReference);
  measure_both<float>();
  measure_both<double>();
  measure_scaled_normal_tail();
  measure_distribution_functions();
  measure_truncated_std();
}
