// Kernels of the stand-in: found by their names, their blocks run by the host's threads, the
// threads of a block by fibers in turn.
#include <ucontext.h>

#include <cstdio>
#include <regex>

#include "state.h"
#include "thread.h"

std::vector<Kernel>& all_kernels() {
  static std::vector<Kernel> kernels;
  return kernels;
}

namespace standin {
namespace {

// The threads of a block: one runs until it waits for the others or ends, then the next.
class Block {
 public:
  explicit Block(uint32_t threads) : fibers_(threads) {
    for (Fiber& fiber : fibers_) fiber.stack.resize(kStack);
  }

  void run(const Kernel& kernel, char* parameters, uint32_t block, uint32_t blocks) {
    shared_.assign(kernel.shared_bytes, static_cast<char>(kPoison));
    const auto threads = static_cast<uint32_t>(fibers_.size());
    running_ = this;
    for (uint32_t i = 0; i < threads; ++i) {
      Fiber& fiber = fibers_[i];
      fiber.thread = {parameters, shared_.data(), i, threads, block, blocks};
      fiber.run = kernel.run;
      fiber.done = false;
      getcontext(&fiber.context);
      fiber.context.uc_stack.ss_sp = fiber.stack.data();
      fiber.context.uc_stack.ss_size = fiber.stack.size();
      fiber.context.uc_link = &scheduler_;
      makecontext(&fiber.context, &Block::enter, 0);
    }
    // The last thread first: who reads what thread 0 has not written yet gets the poison.
    for (bool any = true; any;) {
      any = false;
      for (current_ = threads; current_-- > 0;) {
        if (fibers_[current_].done) continue;
        swapcontext(&scheduler_, &fibers_[current_].context);
        any = any || !fibers_[current_].done;
      }
    }
  }

  static void wait() {
    swapcontext(&running_->fibers_[running_->current_].context, &running_->scheduler_);
  }

 private:
  static constexpr size_t kStack = 64 << 10;
  struct Fiber {
    Thread thread;
    void (*run)(Thread&);
    bool done;
    ucontext_t context;
    std::vector<char> stack;
  };

  static void enter() {
    Fiber& fiber = running_->fibers_[running_->current_];
    fiber.run(fiber.thread);
    fiber.done = true;
  }

  static thread_local Block* running_;
  std::vector<Fiber> fibers_;
  std::vector<char> shared_;
  ucontext_t scheduler_;
  uint32_t current_ = 0;
};
thread_local Block* Block::running_ = nullptr;

// Without the part that nvcc makes up for an unnamed namespace.
std::string plain(const std::string& name) {
  static const std::regex unnamed("\\d+_GLOBAL__N__[0-9a-f]+_\\d+_\\w+?_cu_[0-9a-f]{8}");
  return std::regex_replace(name, unnamed, "");
}

const Kernel* find_kernel(const std::string& name) {
  static const auto* const table = [] {
    auto* kernels = new std::map<std::string, const Kernel*>;
    for (const Kernel& kernel : all_kernels()) (*kernels)[plain(kernel.name)] = &kernel;
    return kernels;
  }();
  const auto found = table->find(plain(name));
  return found == table->end() ? nullptr : found->second;
}

// torch's fill of contiguous memory: (int count, value, pointer).
bool issue_torch_fill(const std::string& name, void** arguments, Stream& stream) {
  static const std::regex fill("vectorized_elementwise_kernel.*FillFunctorI(N3c10\\d+\\w+E|\\w)E");
  std::smatch match;
  if (!std::regex_search(name, match, fill)) return false;
  static const std::map<std::string, size_t> sizes{{"f", 4}, {"d", 8}, {"l", 8}, {"i", 4},
                                                   {"h", 1}, {"b", 1}, {"a", 1}, {"s", 2}};
  const auto size = sizes.find(match[1]);
  if (size == sizes.end()) return false;
  const size_t bytes = size->second;
  const int count = *static_cast<int*>(arguments[0]);
  const std::string value(static_cast<char*>(arguments[1]), bytes);
  char* const data = *static_cast<char**>(arguments[2]);
  stream.issue([=] {
    for (int i = 0; i < count; ++i) std::memcpy(data + i * bytes, value.data(), bytes);
  });
  return true;
}

}  // namespace

cudaError_t launch(const void* function, dim3 grid, dim3 block, void** arguments,
                   cudaStream_t handle) {
  Stream& stream = *state().stream(handle);
  const std::string& name = state().names[function];
  const Kernel* kernel = find_kernel(name);
  if (kernel == nullptr) {
    if (issue_torch_fill(name, arguments, stream)) return cudaSuccess;
    if (name.find("spin_kernel") != std::string::npos) return cudaSuccess;
    std::fprintf(stderr, "no translation of kernel %s\n", name.c_str());
    return fails(cudaErrorNotSupported);
  }
  if (grid.x == 0 || block.x == 0 || block.x > 1024) return fails(cudaErrorInvalidConfiguration);
  std::vector<uint64_t> parameters((kernel->offsets.back() + kernel->sizes.back() + 7) / 8);
  for (size_t i = 0; i < kernel->sizes.size(); ++i) {
    std::memcpy(reinterpret_cast<char*>(parameters.data()) + kernel->offsets[i], arguments[i],
                kernel->sizes[i]);
  }
  if (std::exchange(next_launch_fails, false)) return fails(cudaErrorLaunchFailure);
  stream.issue([=, count = grid.x, threads = block.x]() mutable {
#pragma omp parallel
    {
      Block fibers(threads);
#pragma omp for schedule(dynamic)
      for (uint32_t i = 0; i < count; ++i) {
        fibers.run(*kernel, reinterpret_cast<char*>(parameters.data()), i, count);
      }
    }
  });
  return cudaSuccess;
}

}  // namespace standin

void Thread::wait() { standin::Block::wait(); }
