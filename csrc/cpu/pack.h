// Packs of lanes for the CPU: compiler vector types as wide as the instruction set being compiled
// for, and the overloads of core/lanes.h for them. The only file with intrinsics; each stands where
// the compiler finds no good code by itself. Include before any core header but lanes.h, so that
// the core's templates see the overloads.
#pragma once

#include "../core/lanes.h"

#if defined(FASTINIT_AVX512) || defined(FASTINIT_AVX2)
#include <immintrin.h>
#endif

namespace fastinit {
inline namespace FASTINIT_ISA {

#if defined(FASTINIT_AVX512)
constexpr int kPackBytes = 64;
#elif defined(FASTINIT_AVX2)
constexpr int kPackBytes = 32;
#else
constexpr int kPackBytes = 16;
#endif

typedef float PackF32 __attribute__((vector_size(kPackBytes)));
typedef int32_t PackI32 __attribute__((vector_size(kPackBytes)));
typedef uint32_t PackU32 __attribute__((vector_size(kPackBytes)));
typedef double PackF64 __attribute__((vector_size(kPackBytes)));
typedef int64_t PackI64 __attribute__((vector_size(kPackBytes)));
typedef uint64_t PackU64 __attribute__((vector_size(kPackBytes)));

constexpr int kLanes32 = kPackBytes / 4;
constexpr int kLanes64 = kPackBytes / 8;

template <>
struct LaneOf<PackF32> {
  using Scalar = float;
  using Int = PackI32;
  using UInt = PackU32;
};
template <>
struct LaneOf<PackF64> {
  using Scalar = double;
  using Int = PackI64;
  using UInt = PackU64;
};

template <class S>
struct PackOf;
template <>
struct PackOf<float> {
  using Type = PackF32;
};
template <>
struct PackOf<double> {
  using Type = PackF64;
};

FASTINIT_HD PackU64 multiply_low_halves(PackU64 a, PackU64 b) {
#if defined(FASTINIT_AVX512)
  return (PackU64)_mm512_mul_epu32((__m512i)a, (__m512i)b);
#elif defined(FASTINIT_AVX2)
  return (PackU64)_mm256_mul_epu32((__m256i)a, (__m256i)b);
#elif defined(__SSE2__)
  return (PackU64)__builtin_ia32_pmuludq128((PackI32)a, (PackI32)b);
#else
  const PackU64 low = splat<PackU64>(uint64_t{0xffffffff});
  return (a & low) * (b & low);
#endif
}

#if defined(FASTINIT_AVX512)
FASTINIT_HD PackU64 xor3(PackU64 a, PackU64 b, PackU64 c) {
  return (PackU64)_mm512_ternarylogic_epi64((__m512i)a, (__m512i)b, (__m512i)c, 0x96);
}
#endif

FASTINIT_HD PackF32 sqrt(PackF32 x) {
#if defined(FASTINIT_AVX512)
  return (PackF32)_mm512_sqrt_ps((__m512)x);
#elif defined(FASTINIT_AVX2)
  return (PackF32)_mm256_sqrt_ps((__m256)x);
#else
  for (int i = 0; i < kLanes32; ++i) x[i] = __builtin_sqrtf(x[i]);
  return x;
#endif
}

FASTINIT_HD PackF64 sqrt(PackF64 x) {
#if defined(FASTINIT_AVX512)
  return (PackF64)_mm512_sqrt_pd((__m512d)x);
#elif defined(FASTINIT_AVX2)
  return (PackF64)_mm256_sqrt_pd((__m256d)x);
#else
  for (int i = 0; i < kLanes64; ++i) x[i] = __builtin_sqrt(x[i]);
  return x;
#endif
}

FASTINIT_HD PackF64 fma(PackF64 a, PackF64 b, PackF64 c) {
#if defined(FASTINIT_AVX512)
  return (PackF64)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c);
#elif defined(FASTINIT_AVX2)
  return (PackF64)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
#else
  for (int i = 0; i < kLanes64; ++i) a[i] = __builtin_fma(a[i], b[i], c[i]);
  return a;
#endif
}

FASTINIT_HD PackF64 add_exact_product(PackF64 a, PackF64 b, PackF64 c) {
#if defined(FASTINIT_AVX512) || defined(FASTINIT_AVX2)
  return fma(a, b, c);
#else
  return c + a * b;
#endif
}

#if !defined(FASTINIT_AVX512) && !defined(FASTINIT_AVX2) && !defined(__aarch64__)
// One half of a float fma where the hardware has none. The product is exact in double; the sum is
// rounded to odd (Boldo and Melquiond, "Emulation of FMA and correctly rounded sums", 2008), so
// that the final rounding to float is the only one that shows.
FASTINIT_HD PackF64 multiply_add_to_odd(PackF64 a, PackF64 b, PackF64 c) {
  const PackF64 product = a * b;
  const PackF64 sum = product + c;
  const PackF64 back = sum - product;
  const PackF64 error = (product - (sum - back)) + (c - back);
  const PackI64 bits = (PackI64)sum;
  const PackI64 toward_zero = (PackI64)((error < 0.0) ^ (sum < 0.0));  // all ones: step down
  const PackI64 step = toward_zero | 1;
  const PackI64 inexact = (PackI64)(error != 0.0) & ((bits & 1) - 1);
  return (PackF64)(bits + (step & inexact));
}
#endif

FASTINIT_HD PackF32 fma(PackF32 a, PackF32 b, PackF32 c) {
#if defined(FASTINIT_AVX512)
  return (PackF32)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(FASTINIT_AVX2)
  return (PackF32)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__aarch64__)
  for (int i = 0; i < kLanes32; ++i) a[i] = __builtin_fmaf(a[i], b[i], c[i]);
  return a;
#else
  typedef float HalfF32 __attribute__((vector_size(kPackBytes / 2)));
  struct Halves {
    HalfF32 half[2];
  };
  const Halves x = bit_cast<Halves>(a), y = bit_cast<Halves>(b), z = bit_cast<Halves>(c);
  Halves result;
  for (int i = 0; i < 2; ++i) {
    const PackF64 sum = multiply_add_to_odd(__builtin_convertvector(x.half[i], PackF64),
                                            __builtin_convertvector(y.half[i], PackF64),
                                            __builtin_convertvector(z.half[i], PackF64));
    result.half[i] = __builtin_convertvector(sum, HalfF32);
  }
  return bit_cast<PackF32>(result);
#endif
}

FASTINIT_HD PackF32 to_float(PackI32 x) { return __builtin_convertvector(x, PackF32); }

FASTINIT_HD PackF32 to_float(PackU32 x) {
#if defined(FASTINIT_AVX512)
  return (PackF32)_mm512_cvtepu32_ps((__m512i)x);
#else  // both halves and the product are exact: the addition rounds once
  return to_float((PackI32)(x >> 16)) * 65536.0f + to_float((PackI32)(x & 0xffff));
#endif
}

// Exact for lanes below 2^52: the bits of 2^52 + x, less 2^52.
FASTINIT_HD PackF64 to_float_below_2_52(PackU64 x) {
  return (PackF64)(x | 0x4330000000000000u) - 0x1p52;
}

FASTINIT_HD PackF64 to_float(PackU64 x) {
#if defined(FASTINIT_AVX512)
  return (PackF64)_mm512_cvtepu64_pd((__m512i)x);
#else  // both halves and the product are exact: the addition rounds once
  return to_float_below_2_52(x >> 32) * 0x1p32 + to_float_below_2_52(x & 0xffffffff);
#endif
}

FASTINIT_HD PackF64 to_float(PackI64 x) {
#if defined(FASTINIT_AVX512)
  return (PackF64)_mm512_cvtepi64_pd((__m512i)x);
#else  // the upper half with its sign bit turned over is 2^31 more
  const PackU64 upper = ((PackU64)x >> 32) ^ 0x80000000u;
  return (to_float_below_2_52(upper) - 0x1p31) * 0x1p32 +
         to_float_below_2_52((PackU64)x & 0xffffffff);
#endif
}

template <class Mask>
FASTINIT_HD bool any(Mask mask) {
#if defined(FASTINIT_AVX512)
  return _mm512_test_epi32_mask((__m512i)mask, (__m512i)mask) != 0;
#elif defined(FASTINIT_AVX2)
  return _mm256_movemask_epi8((__m256i)mask) != 0;
#else
  const PackI64 wide = (PackI64)mask;
  return (wide[0] | wide[1]) != 0;
#endif
}

// Words a_i, b_i in the low halves of 64-bit lanes -> 32-bit lanes a_0 b_0 a_1 b_1 ...
FASTINIT_HD PackU32 merge_low_halves(PackU64 a, PackU64 b) {
#if defined(FASTINIT_AVX512)  // one instruction, where the expression takes two
  return (PackU32)_mm512_mask_shuffle_epi32((__m512i)a, 0xaaaa, (__m512i)b, _MM_PERM_CCAA);
#endif
  return (PackU32)((a & 0xffffffff) | b << 32);
}

// Within each 16 bytes: the lower (upper) lanes of a and b in turn. On 64-bit lanes, then, the even
// (odd) lanes of a and b.
FASTINIT_HD void interleave(PackF32 a, PackF32 b, PackF32& lower, PackF32& upper) {
#if defined(FASTINIT_AVX512)
  lower = (PackF32)_mm512_unpacklo_ps((__m512)a, (__m512)b);
  upper = (PackF32)_mm512_unpackhi_ps((__m512)a, (__m512)b);
#elif defined(FASTINIT_AVX2)
  lower = (PackF32)_mm256_unpacklo_ps((__m256)a, (__m256)b);
  upper = (PackF32)_mm256_unpackhi_ps((__m256)a, (__m256)b);
#else
  lower = PackF32{a[0], b[0], a[1], b[1]};
  upper = PackF32{a[2], b[2], a[3], b[3]};
#endif
}

FASTINIT_HD void interleave(PackF64 a, PackF64 b, PackF64& lower, PackF64& upper) {
#if defined(FASTINIT_AVX512)
  lower = (PackF64)_mm512_unpacklo_pd((__m512d)a, (__m512d)b);
  upper = (PackF64)_mm512_unpackhi_pd((__m512d)a, (__m512d)b);
#elif defined(FASTINIT_AVX2)
  lower = (PackF64)_mm256_unpacklo_pd((__m256d)a, (__m256d)b);
  upper = (PackF64)_mm256_unpackhi_pd((__m256d)a, (__m256d)b);
#else
  lower = PackF64{a[0], b[0]};
  upper = PackF64{a[1], b[1]};
#endif
}

// Codes in 32-bit lanes, `lower` before `upper`, to consecutive memory of their storage type.
FASTINIT_HD void store_codes(uint32_t* out, PackU32 lower, PackU32 upper) {
  memcpy(out, &lower, kPackBytes);
  memcpy(out + kLanes32, &upper, kPackBytes);
}

FASTINIT_HD void store_codes(uint64_t* out, PackU64 lower, PackU64 upper) {
  memcpy(out, &lower, kPackBytes);
  memcpy(out + kLanes64, &upper, kPackBytes);
}

// Narrow codes of the even and odd elements, which are neighbours in memory and so share a lane.
FASTINIT_HD void store_pairs(uint16_t* out, PackU32 even, PackU32 odd) {
  const PackU32 pairs = even | odd << 16;
  memcpy(out, &pairs, kPackBytes);
}

FASTINIT_HD void store_pairs(uint8_t* out, PackU32 even, PackU32 odd) {
  typedef uint16_t Half __attribute__((vector_size(kPackBytes / 2)));
  const Half pairs = __builtin_convertvector(even | odd << 8, Half);
  memcpy(out, &pairs, sizeof(pairs));
}

// Offsets of the counters in the lanes, such that what is stored is in stream order: as they come
// for pairs; for interleave(), the first half in the even lanes and the second in the odd.
template <bool kInterleaved>
FASTINIT_HD PackU64 counter_lanes() {
  PackU64 lanes{};
  for (int i = 0; i < kLanes64; ++i) {
    lanes[i] = kInterleaved ? i / 2 + (i % 2) * (kLanes64 / 2) : i;
  }
  return lanes;
}

// Counters in stream order, into the lanes that counter_lanes<true>() puts them in.
FASTINIT_HD PackU64 interleave_halves(PackU64 x) {
#if defined(FASTINIT_AVX512)
  return (PackU64)_mm512_permutexvar_epi64((__m512i)counter_lanes<true>(), (__m512i)x);
#elif defined(FASTINIT_AVX2)
  return (PackU64)_mm256_permute4x64_epi64((__m256i)x, 0xd8);
#else
  return x;  // two lanes
#endif
}

}  // namespace FASTINIT_ISA
}  // namespace fastinit
