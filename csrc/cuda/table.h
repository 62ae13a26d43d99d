// Many fills at once: a table of FillSpecs in device memory, and its division into shares of equal
// size, one a thread block, whichever tensors they fall into. Owns the table's format; knows no
// device.
#pragma once

#include "body.h"

namespace fastinit::cuda {

// Entries of one dtype. Entry i has the units first_unit[i] to first_unit[i + 1].
struct Table {
  const FillSpec* specs = nullptr;
  const int64_t* first_unit = nullptr;
  int64_t count = 0;
  int64_t share = 0;  // units a thread block

  FASTINIT_HD int64_t units() const { return first_unit[count]; }
  FASTINIT_HD int64_t shares() const { return (units() + share - 1) / share; }

  // The entry that a unit belongs to.
  FASTINIT_HD int64_t entry_of(int64_t unit) const {
    int64_t low = 0, high = count;  // first_unit[low] <= unit < first_unit[high]
    while (high - low > 1) {
      const int64_t middle = low + (high - low) / 2;
      if (first_unit[middle] <= unit) {
        low = middle;
      } else {
        high = middle;
      }
    }
    return low;
  }
};

// What thread block `block` does; `threads.run(spec, begin, end)` has its threads fill those units.
template <class Threads>
FASTINIT_HD void run_share(const Table& table, int64_t block, const Threads& threads) {
  int64_t unit = block * table.share;
  const int64_t end = unit + table.share < table.units() ? unit + table.share : table.units();
  for (int64_t entry = table.entry_of(unit); unit < end; ++entry) {
    const int64_t first = table.first_unit[entry], next = table.first_unit[entry + 1];
    const int64_t stop = next < end ? next : end;
    threads.run(table.specs[entry], unit - first, stop - first);
    unit = stop;
  }
}

inline int64_t units_of(const FillSpec& spec) {
  return with_dtype(spec.dtype, [&]<DType dtype> { return units_of<dtype>(spec); });
}

constexpr int kDTypes = 6;

// The entries of one dtype in a TableBuffer: what is launched together.
struct Segment {
  DType dtype;
  int64_t begin, count, units;
};

// A table of `count` specs of any dtypes as one block of memory, here or on a device: the segments,
// the specs grouped by dtype, and the first units of each segment, one number more than entries.
struct TableBuffer {
  int64_t count;

  struct Head {
    int64_t segments;
    Segment segment[kDTypes];
  };

  int64_t bytes() const {
    return static_cast<int64_t>(sizeof(Head)) +
           count * static_cast<int64_t>(sizeof(FillSpec) + sizeof(int64_t)) +
           kDTypes * static_cast<int64_t>(sizeof(int64_t));
  }

  void write(const FillSpec* specs, void* host) const {
    Head& head = *static_cast<Head*>(host);
    auto* sorted = reinterpret_cast<FillSpec*>(&head + 1);
    auto* units = reinterpret_cast<int64_t*>(sorted + count);
    bool present[kDTypes] = {};
    for (int64_t i = 0; i < count; ++i) present[static_cast<int>(specs[i].dtype)] = true;
    head.segments = 0;
    int64_t at = 0;
    for (int number = 0; number < kDTypes; ++number) {
      if (!present[number]) continue;
      const auto dtype = static_cast<DType>(number);
      Segment& segment = head.segment[head.segments++] = {dtype, at, 0, 0};
      for (int64_t i = 0; i < count; ++i) {
        if (specs[i].dtype != dtype) continue;
        sorted[at++] = specs[i];
        *units++ = segment.units;
        segment.units += units_of(specs[i]);
      }
      *units++ = segment.units;
      segment.count = at - segment.begin;
    }
  }

  // Segment number `number`, in a copy of the buffer at `memory`.
  Table table(const Head& head, int64_t number, const void* memory, int64_t share) const {
    const Segment& segment = head.segment[number];
    const auto* specs = reinterpret_cast<const FillSpec*>(static_cast<const Head*>(memory) + 1);
    const auto* units = reinterpret_cast<const int64_t*>(specs + count);
    return {specs + segment.begin, units + segment.begin + number, segment.count, share};
  }
};

}  // namespace fastinit::cuda
