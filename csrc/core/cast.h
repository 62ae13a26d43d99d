// Rounding of computed values to the storage types. The narrow formats are rounded to nearest even
// from float32, exactly as Tensor.to(dtype) does: float16 and float8_e5m2 overflow to infinity,
// float8_e4m3fn, which has none, to NaN. Written once for lanes; a storage code sits in the low
// bits of an unsigned lane. NaN inputs do not occur.
#pragma once

#include "lanes.h"
#include "spec.h"

namespace fastinit {
inline namespace FASTINIT_ISA {

// A binary floating-point format by its mantissa bits, exponent bias, the float32 bits from which
// on a magnitude overflows, and the code an overflow gets.
template <int kMantissa, int kBias, uint32_t kOverflowFrom, uint32_t kOverflowCode, int kSignShift>
struct NarrowFormat {
  // The lanes' codes, U = UInt<F>.
  template <class F>
  static FASTINIT_HD UInt<F> encode(F value) {
    using U = UInt<F>;
    constexpr int kDropped = 23 - kMantissa;
    const U bits = bit_cast<U>(value);
    const U sign = bits & 0x80000000u;
    const U magnitude = bits ^ sign;
    const U odd = (magnitude >> kDropped) & 1u;
    const U rounded = (magnitude + ((1u << (kDropped - 1)) - 1u) + odd) >> kDropped;
    const U normal = rounded - (static_cast<uint32_t>(127 - kBias) << kMantissa);
    // A number whose unit in the last place is the format's smallest subnormal: adding it rounds
    // a subnormal result to the right place.
    constexpr uint32_t kMagic = static_cast<uint32_t>(127 + 1 - kBias + kDropped) << 23;
    const F shifted = bit_cast<F>(magnitude) + bit_cast<F>(U{} + kMagic);
    const U subnormal = bit_cast<U>(shifted) - kMagic;
    constexpr uint32_t kSmallestNormal = static_cast<uint32_t>(127 + 1 - kBias) << 23;
    U code = magnitude < kSmallestNormal ? subnormal : normal;
    code = magnitude >= kOverflowFrom ? U{} + kOverflowCode : code;
    return code | (sign >> kSignShift);
  }

  // The value of a finite code; scalar, for bounds.
  static FASTINIT_HD float decode(uint32_t code) {
    const uint32_t sign = (code << kSignShift) & 0x80000000u;
    const uint32_t magnitude = code & ((0x80000000u >> kSignShift) - 1u);
    constexpr uint32_t kMagic = static_cast<uint32_t>(127 + 1 - kBias + 23 - kMantissa) << 23;
    const uint32_t exponent = magnitude >> kMantissa;
    const uint32_t normal =
        (magnitude << (23 - kMantissa)) + (static_cast<uint32_t>(127 - kBias) << 23);
    const float subnormal = bit_cast<float>(magnitude | kMagic) - bit_cast<float>(kMagic);
    const uint32_t bits = exponent == 0 ? bit_cast<uint32_t>(subnormal) : normal;
    return bit_cast<float>(bits | sign);
  }
};

template <DType dtype>
struct Storage;

template <>
struct Storage<DType::kFloat32> {
  using Code = uint32_t;
  using Compute = float;
  template <class F>
  static FASTINIT_HD UInt<F> encode(F value) {
    return bit_cast<UInt<F>>(value);
  }
  static FASTINIT_HD float decode(uint32_t code) { return bit_cast<float>(code); }
};

template <>
struct Storage<DType::kFloat64> {
  using Code = uint64_t;
  using Compute = double;
  template <class F>
  static FASTINIT_HD UInt<F> encode(F value) {
    return bit_cast<UInt<F>>(value);
  }
  static FASTINIT_HD double decode(uint64_t code) { return bit_cast<double>(code); }
};

template <>
struct Storage<DType::kBFloat16> {
  using Code = uint16_t;
  using Compute = float;
  template <class F>
  static FASTINIT_HD UInt<F> encode(F value) {  // the upper half of a float32
    const UInt<F> bits = bit_cast<UInt<F>>(value);
    return (bits + (((bits >> 16) & 1u) + 0x7fffu)) >> 16;
  }
  static FASTINIT_HD float decode(uint32_t code) { return bit_cast<float>(code << 16); }
};

template <>
struct Storage<DType::kFloat16>
    : NarrowFormat<10, 15, 0x477ff000u /* 65520 */, 0x7c00u /* infinity */, 16> {
  using Code = uint16_t;
  using Compute = float;
};

template <>
struct Storage<DType::kFloat8E5M2>
    : NarrowFormat<2, 15, 0x47700000u /* 61440 */, 0x7cu /* infinity */, 24> {
  using Code = uint8_t;
  using Compute = float;
};

template <>
struct Storage<DType::kFloat8E4M3>
    : NarrowFormat<3, 7, 0x43f00000u /* 480 */, 0x7fu /* NaN */, 24> {
  using Code = uint8_t;
  using Compute = float;
};

// `value` as the storage type holds it.
template <class S>
FASTINIT_HD typename S::Compute rounded_to(typename S::Compute value) {
  return S::decode(S::encode(value));
}

// The largest value of the storage type below one that it holds.
template <class S>
FASTINIT_HD typename S::Compute value_below(typename S::Compute held) {
  using Code = typename S::Code;
  constexpr Code kSign = static_cast<Code>(Code{1} << (8 * sizeof(Code) - 1));
  const Code code = static_cast<Code>(S::encode(held));
  const Code magnitude = static_cast<Code>(code & ~kSign);
  if (magnitude == 0) return S::decode(static_cast<Code>(kSign | 1));
  return S::decode(static_cast<Code>((code & kSign) != 0 ? code + 1 : code - 1));
}

}  // namespace FASTINIT_ISA
}  // namespace fastinit
