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

// One instruction set's copies of them.
using MeasureFunction = void (*)(const MomentsSpec& spec, int64_t begin, int64_t end,
                                 Moments& moments, int32_t* peaks);
using FillFunction = void (*)(const FillSpec& spec, int64_t begin_item, int64_t end_item);

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
int copy_table(const void* host, int64_t count, void* table, void* stream);
int fill_table(const void* host, int64_t count, const void* table, void* stream);

// What fill() or fill_table() of all specs would do on a GPU, done on the CPU, one thread after the
// other; in every build, for tests.
void emulate(const FillSpec* specs, int64_t count, int64_t blocks, int64_t threads);

}  // namespace cuda
}  // namespace fastinit
