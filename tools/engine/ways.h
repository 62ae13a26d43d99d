// Every way to make a fill or a matrix: by each instruction set, on one thread and on several, and
// as the CUDA kernels would, emulated; into memory of several layouts between pages that nobody may
// touch. All ways have to agree bit for bit and to leave alone what lies between the elements.
// Shared by engine.cpp, which is given what to make, and fuzz.cpp, which makes it up.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "../../csrc/core/philox.h"
#include "../../csrc/kernels.h"

namespace engine {

using namespace fastinit;
using Bytes = std::vector<unsigned char>;

inline constexpr unsigned char kPoison = 0xa5;

[[noreturn]] inline void fail(const std::string& what) {
  fprintf(stderr, "engine: %s\n", what.c_str());
  exit(1);
}

// Memory between two pages without access, right behind the first or right before the second.
class Guarded {
 public:
  Guarded(size_t bytes, bool at_end) {
    const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    const size_t inner = (bytes + page - 1) / page * page;
    size_ = inner + 2 * page;
    whole_ = static_cast<unsigned char*>(
        mmap(nullptr, size_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (whole_ == MAP_FAILED || mprotect(whole_ + page, inner, PROT_READ | PROT_WRITE) != 0) {
      fail("no memory");
    }
    data = whole_ + page + (at_end ? inner - bytes : 0);
    memset(whole_ + page, kPoison, inner);
  }
  ~Guarded() { munmap(whole_, size_); }
  Guarded(const Guarded&) = delete;

  unsigned char* data;

 private:
  unsigned char* whole_;
  size_t size_;
};

inline size_t item_size(DType dtype) {
  switch (dtype) {
    case DType::kFloat64:
      return 8;
    case DType::kFloat32:
      return 4;
    case DType::kFloat16:
    case DType::kBFloat16:
      return 2;
    default:
      return 1;
  }
}

inline void on_threads(int64_t items, int64_t threads, const auto& run) {
  std::atomic<int64_t> next{0};
  const int64_t share = items / (3 * threads) + 1;  // cuts anywhere, not at a pack's edge
  const auto work = [&] {
    for (int64_t begin; (begin = next.fetch_add(share)) < items;) {
      run(begin, begin + share < items ? begin + share : items);
    }
  };
  std::vector<std::thread> others;
  for (int64_t i = 1; i < threads; ++i) others.emplace_back(work);
  work();
  for (std::thread& other : others) other.join();
}

struct Way {
  const char* instruction_set;  // null: the emulated kernels
  int64_t threads;

  void run(const FillSpec& spec) const {
    if (instruction_set == nullptr) return cuda::emulate(&spec, 1, 3, threads);
    cpu::force_instruction_set(instruction_set);
    on_threads(cpu::work_size(spec).items, threads,
               [&](int64_t begin, int64_t end) { cpu::fill(spec, begin, end); });
  }

  std::string name() const {
    return (instruction_set ? instruction_set : "emulated kernels") + std::string(", ") +
           std::to_string(threads) + " threads";
  }
};

inline std::vector<Way> all_ways() {
  const char* names[cpu::kMaxInstructionSets];
  const int count = cpu::instruction_sets(names);
  std::vector<Way> ways;
  for (int i = 0; i < count; ++i) {
    ways.push_back({names[i], 1});
    ways.push_back({names[i], 3});
  }
  ways.push_back({nullptr, 32});
  return ways;
}

// Memory in which elements lie one after the other, with gaps behind rows, with gaps between
// elements, or with the first dimension the innermost. The number of elements it spans.
inline constexpr int kLayouts = 4;
inline int64_t set_strides(Layout& layout, int kind) {
  int64_t span = kind == 2 ? 2 : 1;
  for (int i = 0; i < layout.ndim; ++i) {
    const int k = kind == 3 ? i : layout.ndim - 1 - i;
    layout.stride[k] = span;
    span = span * layout.size[k] + (kind == 1 ? 3 : 0);
  }
  return span;
}

// The elements in row-major order, taken out of memory, which is poisoned again.
inline Bytes gather(const Layout& layout, unsigned char* memory, size_t item) {
  Bytes all(static_cast<size_t>(layout.numel) * item);
  for (int64_t i = 0; i < layout.numel; ++i) {
    int64_t rest = i, at = 0;
    for (int k = layout.ndim - 1; k >= 0; --k) {
      at += rest % layout.size[k] * layout.stride[k];
      rest /= layout.size[k];
    }
    memcpy(all.data() + static_cast<size_t>(i) * item, memory + static_cast<size_t>(at) * item,
           item);
    memset(memory + static_cast<size_t>(at) * item, kPoison, item);
  }
  return all;
}

// `what` names the fill where it fails.
inline Bytes fill_all_ways(FillSpec spec, const std::string& what) {
  static const std::vector<Way> ways = all_ways();
  const size_t item = item_size(spec.dtype);
  Bytes first;
  for (int kind = 0; kind < kLayouts; ++kind) {
    const size_t bytes = static_cast<size_t>(set_strides(spec.layout, kind)) * item;
    for (const Way& way : ways) {
      Guarded memory(bytes, (kind + way.threads) % 2 == 0);
      spec.data = memory.data;
      way.run(spec);
      const Bytes found = gather(spec.layout, memory.data, item);
      const std::string where = what + ", layout " + std::to_string(kind) + ", " + way.name();
      for (size_t i = 0; i < bytes; ++i) {
        if (memory.data[i] != kPoison) fail(where + ": wrote between the elements");
      }
      if (first.empty()) first = found;
      if (first != found) fail(where + ": differs from the first");
    }
  }
  return first;
}

// The rows or columns of a matrix that are wanted, and where they go.
struct Wanted {
  std::vector<int64_t> index, offset;

  Wanted(int64_t begin, int64_t count, int64_t stride) {
    for (int64_t i = 0; i < count; ++i) {
      index.push_back(begin + i);
      offset.push_back(i * stride);
    }
  }

  Side side() const { return {static_cast<int64_t>(index.size()), index.data(), offset.data()}; }
};

// The wanted part of an orthogonal matrix; memory is that part alone, in rows or in columns.
inline Bytes matrix_all_ways(MatrixSpec spec, const std::string& what) {
  const size_t bytes = static_cast<size_t>(spec.wanted_rows.count * spec.wanted_columns.count) *
                       (spec.complex ? 2 : 1) * item_size(spec.dtype);
  const auto run = [](void* threads, int64_t items, cpu::Parallel::Item item, const void* body) {
    std::atomic<int64_t> next{0};
    const auto work = [&](int64_t thread) {
      for (int64_t i; (i = next.fetch_add(1)) < items;) item(body, i, thread);
    };
    std::vector<std::thread> others;
    for (int64_t i = 1; i < *static_cast<int64_t*>(threads); ++i) others.emplace_back(work, i);
    work(0);
    for (std::thread& other : others) other.join();
  };
  Bytes first;
  for (const Way& way : all_ways()) {
    if (way.instruction_set == nullptr) continue;
    cpu::force_instruction_set(way.instruction_set);
    int64_t threads = way.threads;
    const cpu::Parallel parallel{threads, &threads, run};
    const auto needed = static_cast<size_t>(cpu::orthogonal_memory(spec, threads));
    Guarded out(bytes, threads > 1), work((needed + 63) / 64 * 64, true);
    spec.data = out.data;
    cpu::orthogonal(spec, work.data, parallel);
    const Bytes found(out.data, out.data + bytes);
    if (first.empty()) first = found;
    if (first != found) fail(what + ", " + way.name() + ": differs from the first");
  }
  return first;
}

}  // namespace engine
