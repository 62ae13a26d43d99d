// The words that differ between compilers. Owns FASTINIT_HD, which makes a function callable
// from the host and from CUDA device code, FASTINIT_UNROLL and FASTINIT_NO_UNROLL, which rule the
// loop behind them, FASTINIT_ANY_CALLEE before a template that calls what its caller may call,
// FASTINIT_MULTIPLY_WIDE, FASTINIT_RAISE, and FASTINIT_ISA, the inline namespace that keeps the
// copies of the core compiled for different instruction sets apart, so that the linker can never
// replace a baseline copy by one that needs AVX-512.
#pragma once

#if defined(__FAST_MATH__)
#error "fastinit's bits need IEEE arithmetic: take -ffast-math and -Ofast out of CXXFLAGS"
#endif

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "fastinit packs narrow types for little-endian processors; this one is big-endian"
#endif

#if defined(__CUDACC__)
#define FASTINIT_HD __host__ __device__ __forceinline__
#define FASTINIT_UNROLL _Pragma("unroll")
#define FASTINIT_NO_UNROLL _Pragma("unroll 1")
#define FASTINIT_ANY_CALLEE _Pragma("nv_exec_check_disable")
#else
#define FASTINIT_HD inline __attribute__((always_inline))
#define FASTINIT_UNROLL _Pragma("GCC unroll 16")
#define FASTINIT_NO_UNROLL _Pragma("GCC unroll 1")
#define FASTINIT_ANY_CALLEE
#endif

// product = a * b, all 64 bits of two 32-bit numbers: one instruction, which nvcc does not find.
#if defined(__CUDA_ARCH__)
#define FASTINIT_MULTIPLY_WIDE(product, a, b) \
  asm("mul.wide.u32 %0, %1, %2;" : "=l"(product) : "r"(a), "r"(b))
#else
#define FASTINIT_MULTIPLY_WIDE(product, a, b) product = static_cast<uint64_t>(a) * (b)
#endif

// word = max(word, value), for a word that other CUDA threads raise as well.
#if defined(__CUDA_ARCH__)
#define FASTINIT_RAISE(word, value) atomicMax(&(word), value)
#else
#define FASTINIT_RAISE(word, value) word = (word) < (value) ? (value) : (word)
#endif

#if !defined(FASTINIT_ISA)
#define FASTINIT_ISA scalar
#endif
