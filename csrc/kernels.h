// The two backends behind one plain interface; torch-free.
#pragma once

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

// One instruction set's copy of it.
using FillFunction = void (*)(const FillSpec& spec, int64_t begin_item, int64_t end_item);

// The names of the instruction sets that were compiled in and that this machine has, best last.
// fill() uses the best, or the forced one: tests force each in turn. An empty name undoes it.
constexpr int kMaxInstructionSets = 3;
int instruction_sets(const char* names[kMaxInstructionSets]);
bool force_instruction_set(const char* name);
const char* instruction_set();

}  // namespace cpu
}  // namespace fastinit
