// Where a fill runs: the generator that its key comes from, the threads or the stream that it gets.
#pragma once

#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>
#include <c10/util/ArrayRef.h>

#include <optional>
#include <vector>

#include "../core/spec.h"

namespace fastinit {

// Throws where this build has nothing that fills `self`.
void check_backend(const char* op, const at::Tensor& self);

// Whether the fill of `self` reads keys and scales where they are, as CUDA kernels do.
bool reads_on_device(const at::Tensor& self);

// The key: two words, those of a key tensor, or what a generator gives.
StreamKey key_from_words(const int64_t* words);
StreamKey key_from_generator(const std::optional<at::Generator>& generator);  // the CPU's
void set_key(FillSpec& spec, const at::Tensor& self, const std::optional<at::Generator>& generator);

// The words of a key tensor, one key or one a row, where the fill of `self` reads them. They must
// live until it is launched.
class KeyWords {
 public:
  KeyWords(const at::Tensor& self, const at::Tensor& key);
  void set_key(FillSpec& spec, int64_t row) const;

 private:
  at::Tensor words_;
  bool on_device_;
};

// Threads that may share a fill: one in the child of a fork.
int64_t available_threads();

// Fills specs of these tensors, one or more, which lie on one device.
void run(c10::ArrayRef<FillSpec> specs, c10::ArrayRef<const at::Tensor*> tensors);

// Makes orthogonal matrices, each list of one shape and part, where `self` lies, by CUDA kernels.
// False, and nothing has been written, if there is no memory for one, of `bytes`.
bool run(c10::ArrayRef<std::vector<MatrixSpec>> lists, const at::Tensor& self, int64_t& bytes);

// Memory that will be written from end to end comes in large pages, where the system has them.
void prefer_huge_pages(void* memory, size_t bytes);

// Bytes for matrices that CUDA kernels make side by side, and for columns that they do not make
// where these are wanted; a panel and what belongs to it may take more.
int64_t matrix_bytes();

// For tests: from now on the CUDA kernels fill CPU tensors, on the CPU, as so many blocks of so
// many threads; none means that the CPU engine does. `bytes` for matrices, 0 being the usual
// number.
void emulate_cuda(int64_t blocks, int64_t threads, int64_t bytes);

struct Grid {
  int64_t blocks, threads;
};
Grid emulated_grid();

}  // namespace fastinit
