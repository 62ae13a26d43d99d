// The two backends behind one plain interface; torch-free.
#pragma once

#include "core/moments.h"
#include "core/spec.h"

namespace fastinit {
namespace cpu {

// Work is counted in items that may be filled in any order, by any thread. An item is one element
// where memory order is stream order, one tile of elements elsewhere.
struct WorkSize {
  int64_t items = 0;
  int64_t elements_per_item = 1;
};
WorkSize work_size(const FillSpec& spec);
void fill(const FillSpec& spec, int64_t begin_item, int64_t end_item);

// Adds the elements [begin, end) of the memory to `moments`, and raises `peaks`, the words of each
// unit's largest magnitude, in which nan lies above infinity.
void measure(const MomentsSpec& spec, int64_t begin, int64_t end, Moments& moments, int32_t* peaks);

// Runs item(body, i, thread) for all i below `items`, in any order, by up to `threads` threads that
// have different numbers.
struct Parallel {
  using Item = void (*)(const void* body, int64_t i, int64_t thread);
  int64_t threads = 1;
  void* context = nullptr;
  void (*run)(void* context, int64_t items, Item item, const void* body) = nullptr;

  template <class Body>
  void each(int64_t items, const Body& body) const {
    const Item item = [](const void* of, int64_t i, int64_t thread) {
      (*static_cast<const Body*>(of))(i, thread);
    };
    if (items > 1 && threads > 1) return run(context, items, item, &body);
    for (int64_t i = 0; i < items; ++i) item(&body, i, 0);
  }
};

// Writes the wanted part of an orthogonal matrix, with memory of so many bytes, at a multiple of
// 64, for so many threads.
int64_t orthogonal_memory(const MatrixSpec& spec, int64_t threads);
void orthogonal(const MatrixSpec& spec, void* memory, const Parallel& parallel);

// One instruction set's copies of them.
struct Functions {
  void (*fill)(const FillSpec& spec, int64_t begin_item, int64_t end_item);
  void (*measure)(const MomentsSpec& spec, int64_t begin, int64_t end, Moments& moments,
                  int32_t* peaks);
  int64_t (*orthogonal_memory)(const MatrixSpec& spec, int64_t threads);
  void (*orthogonal)(const MatrixSpec& spec, void* memory, const Parallel& parallel);
};

// The names of the instruction sets that were compiled in and that this machine has, best last.
// fill() uses the best, or the forced one: tests force each in turn. An empty name undoes it.
constexpr int kMaxInstructionSets = 3;
int instruction_sets(const char* names[kMaxInstructionSets]);
bool force_instruction_set(const char* name);
const char* instruction_set();

}  // namespace cpu

// Each function that takes a stream, a cudaStream_t, launches on that stream of the current device
// and returns the CUDA runtime's error code, 0 if all went well.
namespace cuda {

int fill(const FillSpec& spec, void* stream);

// Many fills in one launch for each dtype, from a table in device memory.
// write_table() makes it in host memory; copy_table() is the way to the device that CUDA graphs can
// capture, by value, while the caller may as well copy the bytes itself.
int64_t table_bytes(int64_t count);
void write_table(const FillSpec* specs, int64_t count, void* host);
int copy_table(const void* host, int64_t bytes, void* table, void* stream);
int fill_table(const void* host, int64_t count, const void* table, void* stream);

// Adds `spec` to the two rows of kRowColumns numbers and to their peaks, `units` of each. `memory`,
// at a multiple of 8, is for it alone until it is done.
int64_t measure_memory(const MomentsSpec& spec);
int measure(const MomentsSpec& spec, double* rows, float* peaks, void* memory, void* stream);

// What measure() would do, by so many blocks of so many threads; as emulate() below.
void emulate_measure(const MomentsSpec& spec, double* rows, float* peaks, int64_t blocks,
                     int64_t threads);

// Orthogonal matrices of one shape, of which one part is wanted, side by side. A table of them lies
// in device memory where several are made, or where their sides have lists; write_matrices() makes
// it in host memory, for a copy at `table`. plain_sides() makes lists unnecessary, if it can.
// most_columns(): so many can be made at a time where those that are not made in place may take
// `bytes`. matrix_memory(): bytes that the device needs for one, at a multiple of 256.
void plain_sides(MatrixSpec& spec);
int64_t most_columns(const MatrixSpec& spec, int64_t bytes);
int64_t matrix_table_bytes(const MatrixSpec* specs, int64_t count);  // 0 if none is needed
void write_matrices(const MatrixSpec* specs, int64_t count, void* host, const void* table);
int64_t matrix_memory(const MatrixSpec& spec);
int orthogonal(const MatrixSpec* specs, const void* table, int64_t count, void* memory,
               void* stream);

// What fill() or fill_table() of all specs, and orthogonal(), would do on a GPU, done on the CPU,
// one thread after the other, or in the reverse order; in every build, for tests.
void emulate(const FillSpec* specs, int64_t count, int64_t blocks, int64_t threads);
void emulate_orthogonal(const MatrixSpec* specs, const void* table, int64_t count, void* memory,
                        bool backwards);

}  // namespace cuda
}  // namespace fastinit
