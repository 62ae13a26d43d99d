// The vocabulary in which the core is written: a lane type F is float or double (CUDA threads and
// host scalars) or a pack of them (cpu/pack.h overloads every function here). Beyond these names
// the core uses only the operators + - * / & | ^ ~ << >> < > ?: , which mean the same on both.
// Every function is exact or correctly rounded (IEEE 754, round to nearest even); nothing else may
// be added here, for that is what keeps the bits equal on all machines.
#pragma once

#include <cstdint>
#include <cstring>

#include "macros.h"

namespace fastinit {
inline namespace FASTINIT_ISA {

// Companions of a lane type: the scalar it is made of and the integers of the same width and count.
template <class F>
struct LaneOf;
template <>
struct LaneOf<float> {
  using Scalar = float;
  using Int = int32_t;
  using UInt = uint32_t;
};
template <>
struct LaneOf<double> {
  using Scalar = double;
  using Int = int64_t;
  using UInt = uint64_t;
};
template <class F>
using Scalar = typename LaneOf<F>::Scalar;
template <class F>
using Int = typename LaneOf<F>::Int;
template <class F>
using UInt = typename LaneOf<F>::UInt;

// The same bits read as another type of equal size.
template <class To, class From>
FASTINIT_HD To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From), "bit_cast needs types of equal size");
  To to;
  memcpy(&to, &from, sizeof(to));
  return to;
}

// A scalar in every lane.
template <class V, class S>
FASTINIT_HD V splat(S value) {
  return value - V{};  // x - 0 is x for every x, which compilers know
}
template <>
FASTINIT_HD float splat<float>(float value) {
  return value;
}
template <>
FASTINIT_HD double splat<double>(double value) {
  return value;
}

// a * b + c with one rounding.
FASTINIT_HD float fma(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
FASTINIT_HD double fma(double a, double b, double c) { return __builtin_fma(a, b, c); }

// a * b + c where a * b is exact: the bits of an fma, without one where that is a call.
FASTINIT_HD double add_exact_product(double a, double b, double c) { return c + a * b; }

// Square root, correctly rounded.
FASTINIT_HD float sqrt(float x) { return __builtin_sqrtf(x); }
FASTINIT_HD double sqrt(double x) { return __builtin_sqrt(x); }

// Integers to floating point of the same width, rounded to nearest even.
FASTINIT_HD float to_float(int32_t x) { return static_cast<float>(x); }
FASTINIT_HD float to_float(uint32_t x) { return static_cast<float>(x); }
FASTINIT_HD double to_float(int64_t x) { return static_cast<double>(x); }
FASTINIT_HD double to_float(uint64_t x) { return static_cast<double>(x); }

// The product of the low halves of two 64-bit lanes, all 64 bits of it.
FASTINIT_HD constexpr uint64_t multiply_low_halves(uint64_t a, uint64_t b) {
  if (!__builtin_is_constant_evaluated()) {
    uint64_t product;
    FASTINIT_MULTIPLY_WIDE(product, static_cast<uint32_t>(a), static_cast<uint32_t>(b));
    return product;
  }
  return (a & 0xffffffffu) * (b & 0xffffffffu);
}

// a ^ b ^ c. Compilers find the three-operand instruction on scalars, but not on all packs.
template <class U>
FASTINIT_HD constexpr U xor3(U a, U b, U c) {
  return a ^ b ^ c;
}

// Whether a mask (the result of a comparison) holds in any lane at all; lets a pack skip a rare
// branch. Results never depend on it.
FASTINIT_HD bool any(bool mask) { return mask; }

}  // namespace FASTINIT_ISA
}  // namespace fastinit
