// CPU threads, CUDA streams and the generators of both.
#include "backends.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Parallel.h>
#include <ATen/Utils.h>
#include <ATen/ops/empty.h>
#include <c10/util/Exception.h>
#include <c10/util/FunctionRef.h>
#include <c10/util/SmallVector.h>

#include <algorithm>
#include <atomic>
#include <mutex>

#include "../kernels.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif
#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#define FASTINIT_FORKS
#endif

#if defined(FASTINIT_WITH_CUDA)
#include <ATen/cuda/CUDAGeneratorImpl.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGraphsC10Utils.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#endif

namespace fastinit {

using at::IntArrayRef;
using at::Tensor;

StreamKey key_from_generator(const std::optional<at::Generator>& generator) {
  auto* cpu = at::get_generator_or_default<at::CPUGeneratorImpl>(
      generator, at::detail::getDefaultCPUGenerator());
  const std::lock_guard<std::mutex> lock(cpu->mutex_);
  StreamKey key;
  key.seed = cpu->random64();
  key.offset = cpu->random64();
  return key;
}

StreamKey key_from_words(const int64_t* words) {
  return {static_cast<uint64_t>(words[0]), static_cast<uint64_t>(words[1])};
}

namespace {

constexpr int64_t kUnitItems = 4096;       // threads begin at multiples of this many elements
constexpr int64_t kGrainElements = 32768;  // below it a thread costs more than it saves
constexpr int64_t kPartsPerThread = 16;    // of a fill, unless they would be too small or too large
constexpr int64_t kMostPartElements = int64_t{1} << 20;
constexpr size_t kHugePage = size_t{2} << 20;
constexpr int64_t kMatrixBytes = int64_t{64} << 20;
constexpr int64_t kTableAlignment = 256;

// Tests have the CUDA kernels emulated on CPU tensors: by so many blocks of so many threads.
std::atomic<int64_t> emulated_blocks{0}, emulated_threads{0}, emulated_bytes{0};

std::atomic<bool> is_forked{false};
#if defined(FASTINIT_FORKS)
[[maybe_unused]] const int watches_forks =
    pthread_atfork(nullptr, nullptr, [] { is_forked = true; });
#endif

// Fills specs on the CPU, in parallel. The threads share the elements of all of them, however they
// are spread over the specs: one huge and thousands of small ones take the same time. A thread
// takes the next part when it has done one, so that a slow core holds nobody up.
void fill_cpu(c10::ArrayRef<FillSpec> specs) {
  c10::SmallVector<cpu::WorkSize, 1> work;
  c10::SmallVector<int64_t, 2> first{0};  // element of a spec, counted through all of them
  for (const FillSpec& spec : specs) {
    const cpu::WorkSize size = cpu::work_size(spec);
    work.push_back(size);
    first.push_back(first.back() + size.items * size.elements_per_item);
  }
  const auto fill_range = [&](int64_t begin, int64_t end) {
    size_t i = std::upper_bound(first.begin(), first.end(), begin) - first.begin() - 1;
    for (; i < specs.size() && first[i] < end; ++i) {
      const auto [items, elements_per_item] = work[i];
      const int64_t unit = elements_per_item == 1 ? kUnitItems : 1;
      const int64_t unit_elements = unit * elements_per_item;
      // A unit belongs to the range that its first element lies in.
      const auto item_from = [&, items = items](int64_t element) {
        const int64_t inside = std::max<int64_t>(0, element - first[i]);
        return std::min((inside + unit_elements - 1) / unit_elements * unit, items);
      };
      const int64_t from = item_from(begin), to = item_from(end);
      if (from < to) cpu::fill(specs[i], from, to);
    }
  };
  const int64_t total = first.back();
  if (total <= kGrainElements) return fill_range(0, total);
  const int64_t threads =
      std::min<int64_t>(available_threads(), (total + kGrainElements - 1) / kGrainElements);
  if (threads == 1) return fill_range(0, total);
  const int64_t part = std::clamp(total / (kPartsPerThread * threads) / kUnitItems * kUnitItems,
                                  kGrainElements, kMostPartElements);
  std::atomic<int64_t> next{0};
  at::parallel_for(0, threads, 1, [&](int64_t, int64_t) {
    for (int64_t begin; (begin = next.fetch_add(part)) < total;) {
      fill_range(begin, std::min(begin + part, total));
    }
  });
}

#if defined(FASTINIT_WITH_CUDA)

// Reserves one step of the generator's counter. While a graph is captured, its state lies on the
// device, where each replay finds another one.
void take_key_from_cuda(FillSpec& spec, const std::optional<at::Generator>& generator,
                        at::Device device) {
  const c10::cuda::CUDAGuard guard(device);  // whose current stream may be the one captured
  auto* cuda = at::get_generator_or_default<at::CUDAGeneratorImpl>(
      generator, at::cuda::detail::getDefaultCUDAGenerator(device.index()));
  // torch.Generator("cuda") has no index and serves any device.
  TORCH_CHECK_VALUE(!cuda->device().has_index() || cuda->device() == device, "generator is on ",
                    cuda->device(), ", but the tensor to fill is on ", device,
                    "; give a generator of that device");
  const std::lock_guard<std::mutex> lock(cuda->mutex_);
  const at::PhiloxCudaState state = cuda->philox_cuda_state(4);
  spec.device.generator = true;
  if (state.captured_) {
    spec.device.seed = state.seed_.ptr;
    spec.device.offset = state.offset_.ptr;
    spec.key.offset = state.offset_intragraph_;
  } else {
    spec.key = {state.seed_.val, state.offset_.val};
  }
}

void check_launch(int error) { C10_CUDA_CHECK(static_cast<cudaError_t>(error)); }

// `host`, made by write(host, address on the device), in memory of the current device, and itself.
struct Uploaded {
  Tensor host, device;
};
Uploaded upload(int64_t bytes, c10::function_ref<void(void*, const void*)> write) {
  // A captured copy would read the host's memory at each replay, when it holds something else.
  const bool by_value =
      c10::cuda::currentStreamCaptureStatusMayInitCtx() != c10::cuda::CaptureStatus::None;
  const auto options = at::TensorOptions(at::kByte);
  const Tensor host = at::empty({bytes}, options.pinned_memory(!by_value));
  const Tensor table = at::empty({bytes}, options.device(at::kCUDA));
  write(host.mutable_data_ptr(), table.const_data_ptr());
  if (by_value) {
    check_launch(cuda::copy_table(host.const_data_ptr(), bytes, table.mutable_data_ptr(),
                                  c10::cuda::getCurrentCUDAStream().stream()));
  } else {
    table.copy_(host, /*non_blocking=*/true);  // keeps the pinned memory until it has been read
  }
  return {host, table};
}

// Fills specs of the current device: one by a launch that takes it by value, more from a table.
void fill_cuda(c10::ArrayRef<FillSpec> specs) {
  cudaStream_t stream = c10::cuda::getCurrentCUDAStream().stream();
  if (specs.size() == 1 || specs[0].sparse.zeros > 0) {  // a table has no masks
    for (const FillSpec& spec : specs) check_launch(cuda::fill(spec, stream));
    return;
  }
  const auto count = static_cast<int64_t>(specs.size());
  const Uploaded table = upload(cuda::table_bytes(count), [&](void* host, const void*) {
    cuda::write_table(specs.data(), count, host);
  });
  check_launch(
      cuda::fill_table(table.host.const_data_ptr(), count, table.device.const_data_ptr(), stream));
}

#endif

}  // namespace

namespace {

// A table of matrices where kernels read it; undefined if they need none.
Tensor table_of(const std::vector<MatrixSpec>& specs, const Tensor& self) {
  const auto count = static_cast<int64_t>(specs.size());
  const int64_t bytes = cuda::matrix_table_bytes(specs.data(), count);
  if (bytes == 0) return {};
  const auto write = [&](void* host, const void* table) {
    cuda::write_matrices(specs.data(), count, host, table);
  };
#if defined(FASTINIT_WITH_CUDA)
  if (self.is_cuda()) return upload(bytes, write).device;
#endif
  Tensor table = at::empty({bytes}, self.options().dtype(at::kByte));
  write(table.mutable_data_ptr(), table.const_data_ptr());
  return table;
}

void make_matrices(const MatrixSpec* specs, const MatrixSpec* table, int64_t count, void* memory,
                   const Tensor& self) {
#if defined(FASTINIT_WITH_CUDA)
  if (self.is_cuda()) {
    cudaStream_t stream = c10::cuda::getCurrentCUDAStream().stream();
    return check_launch(cuda::orthogonal(specs, table, count, memory, stream));
  }
#endif
  // The number of blocks stands for the order in which they run.
  const bool backwards = emulated_blocks.load(std::memory_order_relaxed) % 2 == 0;
  cuda::emulate_orthogonal(specs, table, count, memory, backwards);
}

}  // namespace

// Memory that has not been touched yet, as a rule: the operating system then hands it out in 2 MB
// at a time, which costs a fraction of 512 faults.
void prefer_huge_pages(void* memory, size_t bytes) {
#if defined(__linux__)
  const auto begin = reinterpret_cast<uintptr_t>(memory);
  const uintptr_t first = (begin + kHugePage - 1) / kHugePage * kHugePage;
  const uintptr_t last = (begin + bytes) / kHugePage * kHugePage;
  // A refusal changes nothing but the speed.
  if (first < last) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#endif
}

bool reads_on_device(const Tensor& self) {
  return self.is_cuda() || emulated_blocks.load(std::memory_order_relaxed) > 0;
}

int64_t matrix_bytes() {
  const int64_t bytes = emulated_bytes.load(std::memory_order_relaxed);
  return bytes > 0 ? bytes : kMatrixBytes;
}

void emulate_cuda(int64_t blocks, int64_t threads, int64_t bytes) {
  TORCH_CHECK_VALUE(blocks >= 0 && threads >= 1, "got ", blocks, " blocks of ", threads,
                    " threads");
  emulated_bytes = bytes;
  emulated_blocks = blocks;
  emulated_threads = threads;
}

Grid emulated_grid() { return {emulated_blocks.load(std::memory_order_relaxed), emulated_threads}; }

void check_backend(const char* op, const Tensor& self) {
#if defined(FASTINIT_WITH_CUDA)
  const bool filled = self.is_cpu() || self.is_cuda();
#else
  const bool filled = self.is_cpu();
#endif
  TORCH_CHECK(filled, "fastinit.", op, ": the tensor is on ", self.device(),
              ", but this fastinit was built without CUDA; rebuild it where the CUDA toolkit is: "
              "FASTINIT_CUDA=1 pip install --no-build-isolation --force-reinstall --no-deps .");
}

KeyWords::KeyWords(const Tensor& self, const Tensor& key)
    : on_device_(reads_on_device(self) && key.device() == self.device()) {
  TORCH_CHECK_VALUE(on_device_ || key.is_cpu() || self.is_cpu(), "key is on ", key.device(),
                    ", but the tensor to fill is on ", self.device(),
                    "; move the key there or to the CPU");
  words_ = (on_device_ ? key : key.cpu()).contiguous();
}

void KeyWords::set_key(FillSpec& spec, int64_t row) const {
  const auto* words = static_cast<const int64_t*>(words_.const_data_ptr()) + 2 * row;
  if (on_device_) {
    spec.device.seed = words;
    spec.device.offset = words + 1;
  } else {
    spec.key = key_from_words(words);
  }
}

// libgomp's threads, which are its pool, do not come along, and it would wait for them for ever.
int64_t available_threads() { return is_forked ? 1 : at::get_num_threads(); }

void set_key(FillSpec& spec, const Tensor& self, const std::optional<at::Generator>& generator) {
#if defined(FASTINIT_WITH_CUDA)
  if (self.is_cuda()) return take_key_from_cuda(spec, generator, self.device());
#endif
  spec.key = key_from_generator(generator);
}

void run(c10::ArrayRef<FillSpec> specs, c10::ArrayRef<const Tensor*> tensors) {
#if defined(FASTINIT_WITH_CUDA)
  if (tensors[0]->is_cuda()) {
    const c10::cuda::CUDAGuard guard(tensors[0]->device());
    return fill_cuda(specs);
  }
#endif
  for (const Tensor* tensor : tensors) {
    if (tensor->nbytes() < kHugePage || !tensor->is_non_overlapping_and_dense()) continue;
    prefer_huge_pages(tensor->mutable_data_ptr(), tensor->nbytes());
  }
  const int64_t blocks = emulated_blocks.load(std::memory_order_relaxed);
  if (blocks == 0) return fill_cpu(specs);
  cuda::emulate(specs.data(), static_cast<int64_t>(specs.size()), blocks, emulated_threads);
}

bool run(c10::ArrayRef<std::vector<MatrixSpec>> lists, const Tensor& self, int64_t& bytes) {
#if defined(FASTINIT_WITH_CUDA)
  std::optional<c10::cuda::CUDAGuard> guard;
  if (self.is_cuda()) guard.emplace(self.device());
#endif
  bytes = 0;
  for (const auto& specs : lists) {
    const int64_t one = cuda::matrix_memory(specs[0]);
    const auto count = static_cast<int64_t>(specs.size());
    bytes = std::max(bytes, one * std::clamp<int64_t>(matrix_bytes() / one, 1, count));
  }
  Tensor memory;
  try {
    memory = at::empty({bytes + kTableAlignment}, self.options().dtype(at::kByte));
  } catch (const c10::Error&) {
    return false;
  }
  std::vector<Tensor> tables;
  for (const auto& specs : lists) tables.push_back(table_of(specs, self));
  const auto address = reinterpret_cast<uintptr_t>(memory.mutable_data_ptr());
  auto* const begin =
      reinterpret_cast<char*>((address + kTableAlignment - 1) / kTableAlignment * kTableAlignment);
  for (size_t i = 0; i < lists.size(); ++i) {
    const std::vector<MatrixSpec>& specs = lists[i];
    const auto* table =
        static_cast<const MatrixSpec*>(tables[i].defined() ? tables[i].const_data_ptr() : nullptr);
    const auto all = static_cast<int64_t>(specs.size());
    const int64_t most = bytes / cuda::matrix_memory(specs[0]);
    for (int64_t from = 0; from < all; from += most) {
      const auto* const there = table != nullptr ? table + from : nullptr;
      make_matrices(specs.data() + from, there, std::min(most, all - from), begin, self);
    }
  }
  return true;
}

}  // namespace fastinit
