// The words that differ between compilers. Owns FASTINIT_HD, which makes a function callable
// from the host and from CUDA device code, FASTINIT_UNROLL, which unrolls the loop behind it, and
// FASTINIT_ISA, the inline namespace that keeps the copies of the core compiled for different
// instruction sets apart, so that the linker can never replace a baseline copy by one that needs
// AVX-512.
#pragma once

#if defined(__CUDACC__)
#define FASTINIT_HD __host__ __device__ __forceinline__
#define FASTINIT_UNROLL _Pragma("unroll")
#else
#define FASTINIT_HD inline __attribute__((always_inline))
#define FASTINIT_UNROLL _Pragma("GCC unroll 16")
#endif

#if !defined(FASTINIT_ISA)
#define FASTINIT_ISA scalar
#endif
