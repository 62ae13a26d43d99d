// What the host works out for orthogonal matrices by CUDA before it launches: their table, and the
// memory that they need. Knows no device.
#include "../kernels.h"
#include "matrix.h"

namespace fastinit::cuda {
namespace {

// A table of matrices in device memory: the specs, then the lists of the sides that have some.
struct MatrixTable {
  const MatrixSpec* specs;
  int64_t count;

  bool needed() const { return count > 1 || list_count() > 0; }
  int64_t bytes() const {
    return count * static_cast<int64_t>(sizeof(MatrixSpec)) +
           list_count() * static_cast<int64_t>(sizeof(int64_t));
  }
  int64_t list_count() const {
    return 2 * (listed(specs->wanted_rows) + listed(specs->wanted_columns));
  }
  static int64_t listed(const Side& side) { return side.index != nullptr ? side.count : 0; }

  // Into `host`, for a copy of it that will lie at `device`.
  void write(void* host, const void* device) const {
    auto* const out = static_cast<MatrixSpec*>(host);
    auto* list = reinterpret_cast<int64_t*>(out + count);
    const auto* const begin = list;
    const auto* const lists =
        reinterpret_cast<const int64_t*>(static_cast<const MatrixSpec*>(device) + count);
    Side sides[2] = {specs->wanted_rows, specs->wanted_columns};
    for (Side& side : sides) {
      if (side.index == nullptr) continue;
      const int64_t** const both[2] = {&side.index, &side.offset};
      for (const int64_t** of : both) {
        memcpy(list, *of, static_cast<size_t>(side.count) * sizeof(int64_t));
        *of = lists + (list - begin);
        list += side.count;
      }
    }
    for (int64_t i = 0; i < count; ++i) {
      out[i] = specs[i];
      out[i].wanted_rows = sides[0];
      out[i].wanted_columns = sides[1];
    }
  }
};

// The lists of a side as a first number and steps, where that is what they hold; `begin` is where
// the first of them lies.
Side plain(const Side& side, int64_t& begin) {
  Side found = side;
  begin = 0;
  found.first = side.index[0];
  found.stride = side.count > 1 ? side.offset[1] - side.offset[0] : 0;
  for (int64_t i = 0; i < side.count; ++i) {
    if (side.index[i] != found.first + i) return side;
    if (side.offset[i] != side.offset[0] + i * found.stride) return side;
  }
  begin = side.offset[0];
  found.index = found.offset = nullptr;
  return found;
}

}  // namespace

void plain_sides(MatrixSpec& spec) {
  int64_t row = 0, column = 0;
  spec.wanted_rows = plain(spec.wanted_rows, row);
  spec.wanted_columns = plain(spec.wanted_columns, column);
  const int64_t item = with_dtype(spec.dtype, []<DType dtype> { return sizeof(Code<dtype>); });
  spec.data = static_cast<char*>(spec.data) + (row + column) * item;
}

int64_t most_columns(const MatrixSpec& spec, int64_t bytes) {
  const auto most = [&]<class S>(S) {
    const MatrixPlan<S> plan(spec);
    const int64_t fitting = bytes / (plan.rows * static_cast<int64_t>(sizeof(S)));
    return plan.in_place ? plan.columns : fitting / kTile * kTile;
  };
  const int64_t found = spec.dtype == DType::kFloat64 ? most(double{}) : most(float{});
  return found > kTile ? found : kTile;
}

int64_t matrix_table_bytes(const MatrixSpec* specs, int64_t count) {
  const MatrixTable table{specs, count};
  return table.needed() ? table.bytes() : 0;
}

void write_matrices(const MatrixSpec* specs, int64_t count, void* host, const void* table) {
  MatrixTable{specs, count}.write(host, table);
}

int64_t matrix_memory(const MatrixSpec& spec) {
  return spec.dtype == DType::kFloat64 ? MatrixPlan<double>(spec).bytes
                                       : MatrixPlan<float>(spec).bytes;
}

}  // namespace fastinit::cuda
