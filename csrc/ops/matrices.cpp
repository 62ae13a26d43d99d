// Orthogonal matrices: which part of which matrices a tensor is, the memory and the threads to make
// them with.
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <c10/util/Exception.h>
#include <c10/util/accumulate.h>

#include <algorithm>
#include <atomic>
#include <deque>
#include <vector>

#include "../core/philox.h"
#include "../kernels.h"
#include "arguments.h"
#include "backends.h"
#include "layouts.h"
#include "ops.h"

namespace fastinit {

using at::IntArrayRef;
using at::Tensor;

namespace {

constexpr int64_t kSmallMatrix = 512 * 512;      // of a batch: one thread does all of it
constexpr int64_t kSerialMatrix = 64 * 64;       // no second thread is worth its start
constexpr int64_t kMostRows = int64_t{1} << 40;  // whose panel's bytes 64 bits count, by far

// A rectangle of a tensor of shape `global`.
struct Part {
  std::vector<int64_t> size, stride, first;
  int64_t offset = 0;  // of its first element in memory
};

// The rectangles, one after the other in memory, that `count` elements from `start` on of a tensor
// of this shape are. `done` dimensions have been decided.
void add_run(std::vector<Part>& parts, IntArrayRef global, size_t done, int64_t start,
             int64_t count, Part part) {
  while (count > 0 && done < global.size()) {
    const int64_t row = c10::multiply_integers(global.slice(done + 1));
    const int64_t number = start / row, inside = start % row;
    const bool whole = inside == 0 && count >= row;
    const int64_t rows = whole ? count / row : 1;
    const int64_t taken = whole ? rows * row : std::min(count, row - inside);
    Part next = part;
    next.size.push_back(rows);
    next.first.push_back(number);
    if (whole) {
      for (const int64_t size : global.slice(done + 1)) {
        next.size.push_back(size);
        next.first.push_back(0);
      }
      parts.push_back(std::move(next));
    } else {
      add_run(parts, global, done + 1, inside, taken, std::move(next));
    }
    part.offset += taken;
    start += taken;
    count -= taken;
  }
}

std::vector<Part> parts_of(const Tensor& self, const Region& region) {
  const IntArrayRef global = region.shape(self);
  if (!region.is_flat(self)) {
    const size_t skip = region.each ? 1 : 0;
    const IntArrayRef sizes = self.sizes().slice(skip), strides = self.strides().slice(skip);
    Part all{sizes.vec(), strides.vec(), std::vector<int64_t>(sizes.size(), 0)};
    if (region.offsets.has_value()) all.first = region.offsets->vec();
    return {all};
  }
  std::vector<Part> parts;
  add_run(parts, global, 0, (*region.offsets)[0], self.size(0), {});
  for (Part& part : parts) {
    part.stride.resize(global.size());
    int64_t stride = self.stride(0);
    for (size_t k = global.size(); k-- > 0; stride *= part.size[k]) part.stride[k] = stride;
    part.offset *= self.stride(0);
  }
  return parts;
}

// A part as matrices: the wanted rows and columns of each, and where each begins. Offsets count
// real numbers.
struct Matrices {
  // Numbers along some dimensions taken together, and offsets in memory.
  struct Numbers {
    std::vector<int64_t> index{0}, offset{0};

    void add(int64_t size, int64_t first, int64_t extent, int64_t stride) {
      Numbers all{{}, {}};
      for (size_t i = 0; i < index.size(); ++i) {
        for (int64_t j = 0; j < size; ++j) {
          all.index.push_back(index[i] * extent + first + j);
          all.offset.push_back(offset[i] + j * stride);
        }
      }
      *this = std::move(all);
    }
    Side side() const { return {static_cast<int64_t>(index.size()), index.data(), offset.data()}; }
  };

  Numbers batch, rows, columns;
  int64_t row_count = 1, column_count = 1;  // of a whole matrix
  int64_t unit;

  Matrices(const Part& part, IntArrayRef global, const std::vector<bool>& is_batch, bool complex)
      : unit(complex ? 2 : 1) {
    bool first = true;
    for (size_t k = 0; k < global.size(); ++k) {
      Numbers& numbers = is_batch[k] ? batch : first ? rows : columns;
      numbers.add(part.size[k], part.first[k], global[k], part.stride[k] * unit);
      if (is_batch[k]) continue;
      (first ? row_count : column_count) *= global[k];
      first = false;
    }
  }

  // Adds a spec for each matrix. `spec` has what they share, its data where the part begins. They
  // refer to this object.
  void add_to(std::vector<MatrixSpec>& specs, MatrixSpec spec, int64_t item) const {
    const bool tall = row_count > column_count;
    spec.rows = tall ? row_count : column_count;
    spec.columns = tall ? column_count : row_count;
    spec.wanted_rows = (tall ? rows : columns).side();
    spec.wanted_columns = (tall ? columns : rows).side();
    char* const data = static_cast<char*>(spec.data);
    const auto size = static_cast<uint64_t>(row_count * column_count * unit);
    for (size_t i = 0; i < batch.index.size(); ++i) {
      spec.data = data + batch.offset[i] * item;
      spec.start = static_cast<uint64_t>(batch.index[i]) * size;
      specs.push_back(spec);
    }
  }
};

void run_threads(void* /*context*/, int64_t items, cpu::Parallel::Item item, const void* body) {
  std::atomic<int64_t> next{0};
  const int64_t threads = std::min<int64_t>(available_threads(), items);
  at::parallel_for(0, threads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t thread = begin; thread < end; ++thread) {
      for (int64_t i; (i = next.fetch_add(1)) < items;) item(body, i, thread);
    }
  });
}

void check_memory(bool fits, const MatrixSpec& spec, int64_t bytes) {
  TORCH_CHECK(fits, "fastinit.orthogonal_: a matrix of ", spec.rows, " x ", spec.columns,
              " is made from panels of 64 of its columns, and there is no memory for one",
              bytes > 0 ? c10::str(" (", bytes, " bytes)") : "",
              "; fill a smaller matrix, or several by batch_axis");
}

// Memory for the largest of the matrices, and for so many at a time.
Tensor workspace(const std::vector<MatrixSpec>& specs, int64_t threads, int64_t copies,
                 int64_t& each) {
  int64_t bytes = 0;
  bool fits = specs[0].rows <= kMostRows;
  for (const MatrixSpec& spec : specs) {
    if (fits) each = std::max(each, (cpu::orthogonal_memory(spec, threads) + 63) / 64 * 64);
  }
  Tensor memory;
  try {
    bytes = each * copies;
    if (fits) memory = at::empty({bytes + 64}, at::TensorOptions(at::kByte));
  } catch (const c10::Error&) {
    fits = false;
  }
  check_memory(fits, specs[0], bytes);
  prefer_huge_pages(memory.mutable_data_ptr(), static_cast<size_t>(bytes));
  return memory;
}

char* aligned(const Tensor& memory) {
  const auto address = reinterpret_cast<uintptr_t>(memory.mutable_data_ptr());
  return reinterpret_cast<char*>((address + 63) / 64 * 64);
}

// Matrices of one size, on the CPU.
void make(const std::vector<MatrixSpec>& specs) {
  const auto count = static_cast<int64_t>(specs.size());
  const int64_t size = specs[0].rows * specs[0].columns, threads = available_threads();
  const bool shared_out = count > 1 && size <= kSmallMatrix;
  const int64_t workers = shared_out ? std::min(threads, count) : 1;
  const cpu::Parallel within{shared_out || size <= kSerialMatrix ? 1 : threads, nullptr,
                             run_threads};
  int64_t each = 0;
  const Tensor memory = workspace(specs, within.threads, workers, each);
  const auto one = [&](int64_t i, int64_t worker) {
    cpu::orthogonal(specs[i], aligned(memory) + worker * each, within);
  };
  cpu::Parallel{workers, nullptr, run_threads}.each(count, one);
}

// Some of the columns of matrices of which the same part is wanted, as CUDA kernels take them.
std::vector<MatrixSpec> columns_of(std::vector<MatrixSpec> specs, int64_t from, int64_t count) {
  for (MatrixSpec& spec : specs) {
    Side& columns = spec.wanted_columns;
    columns = {count, columns.index + from, columns.offset + from};
    cuda::plain_sides(spec);
  }
  return specs;
}

// Matrices of one size, by CUDA kernels; of a list each has the same part.
void make_by_cuda(const std::vector<std::vector<MatrixSpec>>& lists, const Tensor& self) {
  const MatrixSpec& one = lists[0][0];
  bool fits = one.rows <= kMostRows;
  std::vector<std::vector<MatrixSpec>> pieces;
  for (size_t i = 0; fits && i < lists.size(); ++i) {
    MatrixSpec spec = lists[i][0];
    const int64_t all = spec.wanted_columns.count;
    cuda::plain_sides(spec);
    const int64_t most = cuda::most_columns(spec, matrix_bytes());
    for (int64_t from = 0; from < all; from += most) {
      pieces.push_back(columns_of(lists[i], from, std::min(most, all - from)));
    }
  }
  int64_t bytes = 0;
  fits = fits && run(pieces, self, bytes);
  check_memory(fits, one, bytes);
}

}  // namespace

void orthogonal_(const Tensor& self, double gain, const std::optional<Tensor>& scale,
                 at::OptionalIntArrayRef batch_axis, FASTINIT_STREAM_ARGUMENTS) {
  const Stream stream = FASTINIT_STREAM;
  const int64_t ndim = stream.region.dim(self);
  TORCH_CHECK_VALUE(ndim >= 2, "Only tensors with 2 or more dimensions are supported");
  const std::vector<bool> is_batch = batch_axes(ndim, batch_axis);
  FillSpec fill;
  fill.law.distribution = Distribution::kNormal;
  const bool by_cuda = reads_on_device(self);
  const bool something =
      check_fill(fill, "orthogonal_", self, by_cuda ? scale : std::nullopt, stream.region, keep);
  if (scale.has_value()) check_scale(self, *scale);
  if (!something) return;
  std::optional<KeyWords> words;
  if (key.has_value()) {
    fill.key = key_from_words(key->data());
  } else if (key_tensor.has_value()) {
    words.emplace(self, *key_tensor);
  } else {
    set_key(fill, self, generator);
  }
  if (self.numel() == 0) return;  // an empty shard, which has used the generator like any other
  MatrixSpec shared;
  shared.dtype = fill.dtype;
  shared.complex = fill.law.complex;
  shared.gain = scale.has_value() && !by_cuda ? gain * scale->item<double>() : gain;
  const IntArrayRef global = stream.region.shape(self);
  const int64_t item = static_cast<int64_t>(self.element_size());
  std::deque<Matrices> parts;
  std::vector<std::vector<MatrixSpec>> lists;
  for (const Part& part : parts_of(self, stream.region)) {
    const Matrices& matrices = parts.emplace_back(part, global, is_batch, shared.complex);
    auto& specs = lists.emplace_back();
    const int64_t slices = stream.region.each ? self.size(0) : 1;
    for (int64_t slice = 0; slice < slices; ++slice) {
      if (words.has_value()) words->set_key(fill, slice);
      shared.key = fill.key;
      shared.device = fill.device;
      const int64_t begin = part.offset + (stream.region.each ? slice * self.stride(0) : 0);
      shared.data = static_cast<char*>(self.mutable_data_ptr()) + begin * item;
      matrices.add_to(specs, shared, item / (shared.complex ? 2 : 1));
    }
  }
  if (by_cuda) {
    make_by_cuda(lists, self);
  } else {
    std::vector<MatrixSpec> all;
    for (const auto& specs : lists) all.insert(all.end(), specs.begin(), specs.end());
    make(all);
  }
  self.unsafeGetTensorImpl()->bump_version();
}

}  // namespace fastinit
