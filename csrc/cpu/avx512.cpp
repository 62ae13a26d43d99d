// The CPU engine for AVX-512 F, DQ, BW and VL. The target holds for this file only, which includes
// nothing that the linker could share with others.
#if defined(__x86_64__)
#if defined(__clang__)  // which has a pragma of its own
#include <immintrin.h>  // whose functions have targets of their own
#pragma clang attribute push( \
    __attribute__((target("avx2,fma,avx512f,avx512dq,avx512bw,avx512vl"))), apply_to = function)
#else
#pragma GCC target("avx2,fma,avx512f,avx512dq,avx512bw,avx512vl")
#pragma GCC diagnostic ignored "-Wuninitialized"  // both in GCC 12's own immintrin.h
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#define FASTINIT_AVX512
#define FASTINIT_ISA avx512
#include "engine.h"
#include "moments.h"
#include "orthogonal.h"

namespace fastinit::cpu {
extern const Functions kAvx512{&avx512::fill_items, &avx512::measure_range,
                               &avx512::orthogonal_memory, &avx512::orthogonal_matrix};
}  // namespace fastinit::cpu
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
