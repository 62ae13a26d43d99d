// What the stand-in's devices are: memory with its owners, streams whose operations wait, events.
// Knows no kernel.
#pragma once

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

namespace standin {

constexpr int kDevices = 2, kMultiprocessors = 3, kResidentBlocks = 2;
constexpr size_t kMemory = size_t{3} << 30;
constexpr int kPoison = 0xA5;  // of fresh memory

using Operation = std::function<void()>;

struct Graph {
  std::vector<Operation> operations;
};

struct Stream {
  std::deque<Operation> waiting;
  uint64_t issued = 0, done = 0;
  Graph* capture = nullptr;

  void run_until(uint64_t number) {
    while (done < number && !waiting.empty()) {
      const Operation next = std::move(waiting.front());
      waiting.pop_front();
      next();
      ++done;
    }
  }
  void issue(Operation operation) {
    if (capture != nullptr) {
      capture->operations.push_back(std::move(operation));
      return;
    }
    waiting.push_back(std::move(operation));
    ++issued;
  }
};

struct Event {
  Stream* stream = nullptr;
  uint64_t number = 0;
  Graph* capture = nullptr;

  bool done() const { return stream == nullptr || stream->done >= number; }
  void wait() const {
    if (stream != nullptr) stream->run_until(number);
  }
};

struct Allocation {
  size_t bytes;
  cudaMemoryType type;
  int device;
};

struct State {
  std::recursive_mutex mutex;
  std::map<const char*, Allocation> allocations;  // by address
  std::map<const void*, std::string> names;       // of kernels, by the host's function
  Stream default_stream[kDevices];
  std::vector<std::unique_ptr<Stream>> streams;

  Stream* stream(cudaStream_t handle);
  void run_all() {
    for (Stream& each : default_stream) each.run_until(each.issued);
    for (const auto& each : streams) each->run_until(each->issued);
  }
  bool capturing() const {
    return std::any_of(streams.begin(), streams.end(),
                       [](const auto& each) { return each->capture != nullptr; });
  }
  const Allocation* holding(const void* pointer) const {
    const auto* address = static_cast<const char*>(pointer);
    auto after = allocations.upper_bound(address);
    if (after == allocations.begin()) return nullptr;
    const auto& [begin, allocation] = *--after;
    return address < begin + allocation.bytes ? &allocation : nullptr;
  }
};

// Never destroyed: torch frees after the end of main.
inline State& state() {
  static auto* const only = new State;
  return *only;
}
inline thread_local int current_device = 0;
inline thread_local cudaError_t last_error = cudaSuccess;
inline bool next_launch_fails = false;

inline Stream* State::stream(cudaStream_t handle) {
  if (reinterpret_cast<uintptr_t>(handle) <= 2) return &default_stream[current_device];
  return reinterpret_cast<Stream*>(handle);
}

inline cudaError_t fails(cudaError_t error) { return last_error = error; }

// Puts a kernel into its stream, with a copy of its arguments.
cudaError_t launch(const void* function, dim3 grid, dim3 block, void** arguments,
                   cudaStream_t handle);

}  // namespace standin
