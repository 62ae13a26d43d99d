// Chooses, once, the copy of the CPU engine for the machine at hand.
#include <atomic>
#include <cstring>

#include "../kernels.h"
#include "tiles.h"

namespace fastinit::cpu {

extern const Functions kBaseline;
#if defined(__x86_64__)
extern const Functions kAvx2, kAvx512;
#endif

namespace {

struct InstructionSet {
  const char* name;
  Functions functions;
};

struct Available {
  int count = 0;
  InstructionSet sets[kMaxInstructionSets];

  Available() {
    sets[count++] = {"baseline", kBaseline};
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
      sets[count++] = {"avx2", kAvx2};
    }
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl")) {
      sets[count++] = {"avx512", kAvx512};
    }
#endif
  }
};

const Available& available() {
  static const Available result;
  return result;
}

std::atomic<const InstructionSet*> forced{nullptr};

const InstructionSet& chosen() {
  const InstructionSet* set = forced.load(std::memory_order_relaxed);
  return set != nullptr ? *set : available().sets[available().count - 1];
}

// Rounding to nearest and gradual underflow, whatever torch.set_flush_denormal or another library
// has made of this thread.
struct DefaultFloatingPoint {
#if defined(__x86_64__)
  const unsigned int saved = __builtin_ia32_stmxcsr();
  DefaultFloatingPoint() { __builtin_ia32_ldmxcsr(0x1f80); }
  ~DefaultFloatingPoint() { __builtin_ia32_ldmxcsr(saved); }
#elif defined(__aarch64__)
  const uint64_t saved = __builtin_aarch64_get_fpcr64();
  DefaultFloatingPoint() { __builtin_aarch64_set_fpcr64(0); }
  ~DefaultFloatingPoint() { __builtin_aarch64_set_fpcr64(saved); }
#endif
};

}  // namespace

WorkSize work_size(const FillSpec& spec) {
  if (!Tiling::needed(spec.layout)) return {spec.layout.numel, 1};
  const Tiling tiling(spec.layout);
  return {tiling.count(), tiling.tile_rows * tiling.tile_columns};
}

void fill(const FillSpec& spec, int64_t begin_item, int64_t end_item) {
  const DefaultFloatingPoint environment;
  chosen().functions.fill(spec, begin_item, end_item);
}

int64_t orthogonal_memory(const MatrixSpec& spec, int64_t threads) {
  return chosen().functions.orthogonal_memory(spec, threads);
}

void orthogonal(const MatrixSpec& spec, void* memory, const Parallel& parallel) {
  const DefaultFloatingPoint environment;
  Parallel guarded = parallel;
  guarded.context = const_cast<Parallel*>(&parallel);
  guarded.run = [](void* inner, int64_t items, Parallel::Item item, const void* body) {
    static_cast<const Parallel*>(inner)->each(items, [&](int64_t i, int64_t thread) {
      const DefaultFloatingPoint of_this_thread;
      item(body, i, thread);
    });
  };
  chosen().functions.orthogonal(spec, memory, guarded);
}

void measure(const MomentsSpec& spec, int64_t begin, int64_t end, Moments& moments,
             int32_t* peaks) {
  const DefaultFloatingPoint environment;
  chosen().functions.measure(spec, begin, end, moments, peaks);
}

int instruction_sets(const char* names[kMaxInstructionSets]) {
  const Available& all = available();
  for (int i = 0; i < all.count; ++i) names[i] = all.sets[i].name;
  return all.count;
}

bool force_instruction_set(const char* name) {
  if (*name == '\0') {
    forced = nullptr;
    return true;
  }
  const Available& all = available();
  for (int i = 0; i < all.count; ++i) {
    if (strcmp(all.sets[i].name, name) == 0) {
      forced = &all.sets[i];
      return true;
    }
  }
  return false;
}

const char* instruction_set() { return chosen().name; }

}  // namespace fastinit::cpu
