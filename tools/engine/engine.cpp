// The CPU engine and the emulated CUDA kernels without torch: every fill that standard input names,
// by each instruction set, on one thread and on several, into memory of several layouts between
// pages that nobody may touch. All have to agree and to leave alone what lies between the elements;
// the bytes of each fill go to standard output, for the caller to compare with the recorded
// digests. __main__.py says how a fill is written, and compiles this for other processors, with
// other compilers and with sanitizers.
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

namespace {

using namespace fastinit;

constexpr unsigned char kPoison = 0xa5;

[[noreturn]] void fail(const std::string& what) {
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

size_t item_size(DType dtype) {
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

// Reading of standard input.

template <class T = int64_t>
T integer() {
  char word[64];
  if (scanf("%63s", word) != 1) fail("a number is missing");
  return static_cast<T>(strtoull(word, nullptr, 10));
}

double real() {
  double value;
  if (scanf("%la", &value) != 1) fail("a real number is missing");
  return value;
}

FillSpec read_fill() {
  FillSpec spec;
  Law& law = spec.law;
  law.distribution = static_cast<Distribution>(integer());
  spec.dtype = static_cast<DType>(integer());
  law.complex = integer() != 0;
  law.mean = real();
  law.std = real();
  law.low = real();
  law.high = real();
  law.fan.mode = static_cast<FanMode>(integer());
  law.fan.nonlinearity = static_cast<Nonlinearity>(integer());
  law.fan.parameter = real();
  law.fan.gain = real();
  law.fan.ndim = integer<int32_t>();
  for (int k = 0; k < law.fan.ndim; ++k) {
    law.fan.size[k] = integer();
    law.fan.role[k] = static_cast<AxisRole>(integer());
  }
  Layout& layout = spec.layout;
  layout.start = integer<uint64_t>();
  layout.ndim = integer<int32_t>();
  layout.numel = 1;
  for (int k = 0; k < layout.ndim; ++k) {
    layout.size[k] = integer();
    layout.global_stride[k] = integer<uint64_t>();
    layout.numel *= layout.size[k];
  }
  spec.key = {integer<uint64_t>(), integer<uint64_t>()};
  spec.sparse.zeros = integer();
  spec.sparse.rows = integer();
  spec.sparse.cols = integer();
  spec.sparse.key = child_key(spec.key, 0);
  return spec;
}

// Ways to fill.

void on_threads(int64_t items, int64_t threads, const auto& run) {
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

std::vector<Way> all_ways() {
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
constexpr int kLayouts = 4;
int64_t set_strides(Layout& layout, int kind) {
  int64_t span = kind == 2 ? 2 : 1;
  for (int i = 0; i < layout.ndim; ++i) {
    const int k = kind == 3 ? i : layout.ndim - 1 - i;
    layout.stride[k] = span;
    span = span * layout.size[k] + (kind == 1 ? 3 : 0);
  }
  return span;
}

// The elements in row-major order, taken out of memory, which is poisoned again.
std::vector<unsigned char> gather(const Layout& layout, unsigned char* memory, size_t item) {
  std::vector<unsigned char> all(static_cast<size_t>(layout.numel) * item);
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

std::vector<unsigned char> fill_all_ways(FillSpec spec, int number) {
  static const std::vector<Way> ways = all_ways();
  const size_t item = item_size(spec.dtype);
  std::vector<unsigned char> first;
  for (int kind = 0; kind < kLayouts; ++kind) {
    const size_t bytes = static_cast<size_t>(set_strides(spec.layout, kind)) * item;
    for (const Way& way : ways) {
      Guarded memory(bytes, (kind + way.threads) % 2 == 0);
      spec.data = memory.data;
      way.run(spec);
      const std::vector<unsigned char> found = gather(spec.layout, memory.data, item);
      const std::string where =
          "fill " + std::to_string(number) + ", layout " + std::to_string(kind) + ", " + way.name();
      for (size_t i = 0; i < bytes; ++i) {
        if (memory.data[i] != kPoison) fail(where + ": wrote between the elements");
      }
      if (first.empty()) first = found;
      if (first != found) fail(where + ": differs from the first");
    }
  }
  return first;
}

// An orthogonal matrix: the same for its wanted part.
std::vector<unsigned char> orthogonal_all_ways(int number) {
  MatrixSpec spec;
  spec.dtype = static_cast<DType>(integer());
  spec.complex = integer() != 0;
  spec.gain = real();
  spec.rows = integer();
  spec.columns = integer();
  std::vector<int64_t> index[2], offset[2];
  for (int side = 0; side < 2; ++side) {
    const int64_t begin = integer(), count = integer(), stride = integer();
    for (int64_t i = 0; i < count; ++i) {
      index[side].push_back(begin + i);
      offset[side].push_back(i * stride);
    }
  }
  spec.wanted_rows = {static_cast<int64_t>(index[0].size()), index[0].data(), offset[0].data()};
  spec.wanted_columns = {static_cast<int64_t>(index[1].size()), index[1].data(), offset[1].data()};
  spec.key = {integer<uint64_t>(), integer<uint64_t>()};
  const size_t bytes =
      index[0].size() * index[1].size() * (spec.complex ? 2 : 1) * item_size(spec.dtype);
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
  std::vector<unsigned char> first;
  for (const Way& way : all_ways()) {
    if (way.instruction_set == nullptr) continue;
    cpu::force_instruction_set(way.instruction_set);
    int64_t threads = way.threads;
    const cpu::Parallel parallel{threads, &threads, run};
    const auto needed = static_cast<size_t>(cpu::orthogonal_memory(spec, threads));
    Guarded out(bytes, threads > 1), work((needed + 63) / 64 * 64, true);
    spec.data = out.data;
    cpu::orthogonal(spec, work.data, parallel);
    const std::vector<unsigned char> found(out.data, out.data + bytes);
    if (first.empty()) first = found;
    if (first != found) fail("matrix " + std::to_string(number) + ", " + way.name() + ": differs");
  }
  return first;
}

}  // namespace

int main() {
  char kind[16];
  int number = 0;
  for (; scanf("%15s", kind) == 1; ++number) {
    const bool fill = strcmp(kind, "fill") == 0;
    const std::vector<unsigned char> bytes =
        fill ? fill_all_ways(read_fill(), number) : orthogonal_all_ways(number);
    const uint64_t size = bytes.size();
    printf("%llu\n", static_cast<unsigned long long>(size));
    fwrite(bytes.data(), 1, bytes.size(), stdout);
  }
  fprintf(stderr, "engine: %d fills agree in all ways\n", number);
  return 0;
}
