// The CPU engine for AVX2 and FMA. The target holds for this file only, which includes nothing that
// the linker could share with others.
#if defined(__x86_64__)
#if defined(__clang__)  // which has a pragma of its own
#include <immintrin.h>  // whose functions have targets of their own
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx2,fma")
#endif
#define FASTINIT_AVX2
#define FASTINIT_ISA avx2
#include "engine.h"
#include "moments.h"
#include "orthogonal.h"

namespace fastinit::cpu {
extern const Functions kAvx2{&avx2::fill_items, &avx2::measure_range, &avx2::orthogonal_memory,
                             &avx2::orthogonal_matrix};
}  // namespace fastinit::cpu
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
