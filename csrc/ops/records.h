// Initializations that wait: for which memory, in which order, and which of them are overwritten
// before anybody looks. A record belongs to a storage, so that it holds for every alias, and keeps
// nothing alive. Must not know how reads are noticed, nor any Python: see fastinit/_intercept.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/StorageImpl.h>
#include <c10/util/SmallVector.h>
#include <c10/util/intrusive_ptr.h>

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

namespace fastinit {

// A fill, in the numbers of multi_fill_.
struct Fill {
  int64_t distribution;
  double mean, std, low, high;
  std::array<int64_t, 2> key;
  std::optional<std::pair<std::vector<int64_t>, std::vector<int64_t>>> region;  // shape, offsets
};

// What else may wait, and is run by whoever recorded it.
using Action = std::shared_ptr<void>;

using What = std::variant<Fill, double, Action>;  // a number is written to all of the tensor

// A tensor without its storage.
struct Place {
  at::ScalarType dtype;
  c10::SmallVector<int64_t, 4> sizes, strides;
  int64_t offset;

  bool operator==(const Place& other) const {
    return dtype == other.dtype && offset == other.offset && sizes == other.sizes &&
           strides == other.strides;
  }
};

// One initialization of one tensor. It writes within [begin, end), bytes of the storage, and all of
// it if it is solid.
struct Record {
  Place place;
  int64_t begin, end;
  bool solid;
  bool editable = false;
  What what;

  bool covers(const Record& other) const {
    return begin <= other.begin && other.end <= end && (solid || place == other.place);
  }
  bool meets(const Record& other) const { return begin < other.end && other.begin < end; }
};

// Records of one device that touch nothing of each other's.
struct Wave {
  at::Device device;
  std::vector<std::pair<at::Tensor, Fill>> fills;
  std::vector<std::pair<at::Tensor, double>> constants;
  std::vector<std::pair<at::Tensor, Action>> actions;

  void run_fills() const;  // in one call
  void run_constants() const;
};

// The address of the storage, dtype, offset, shape and strides: numbers that are equal for tensors
// that show the same memory in the same way.
std::vector<int64_t> memory_of(const at::Tensor& tensor);

class Records {
 public:
  size_t storages() const { return held_.size(); }
  size_t size() const;

  // Whether an initialization of `tensor` may wait: it is allowed at all, and nobody sees the
  // memory but torch. Which stream it would run in is not looked at.
  bool admits(const at::Tensor& tensor) const;
  // Records an initialization; false if it is not admitted, or the storage is full. `bump` tells
  // autograd of the write.
  bool add(const at::Tensor& tensor, What what, bool bump = false);
  bool full(const at::Tensor& tensor) const;
  // Forgets what was to be written to all of `tensor`, as something else has been.
  void overwritten(const at::Tensor& tensor);
  // Whether no record would undo a write to all of `tensor` that happens now.
  bool survives_write(const at::Tensor& tensor) const;
  // What waits for the storage of `tensor`, in its order; what of it a write to all of `tensor`
  // would leave.
  std::vector<Record> of(const at::Tensor& tensor) const;
  std::vector<Record> left_by(const at::Tensor& tensor) const;
  // Lets nothing wait for this storage from here on. What waits is to be taken before.
  void expose(const at::Tensor& tensor);

  // The last record of the storage, if it is a fill of exactly this tensor.
  const Fill* last(const at::Tensor& tensor) const;
  // Lets the law of that one be changed while it is the last.
  void allow_edits(const at::Tensor& tensor);
  const Fill* editable(const at::Tensor& tensor) const;
  void edit(const at::Tensor& tensor, double mean, double std, double low, double high);

  // Takes out what waits for the storages of these tensors, or for all, in waves that are to be run
  // one after the other. Storages that are gone are passed over. Of a tensor that has no storage,
  // but others inside, nobody knows: then it is all.
  std::vector<Wave> take(at::TensorList tensors);
  std::vector<Wave> take_all();

 private:
  struct Held {
    c10::weak_intrusive_ptr<c10::StorageImpl> storage;
    uint64_t number;  // in the order of their first records
    std::vector<Record> records;
    int64_t end = 0;  // none of them ends beyond
    bool exposed = false;
  };

  // By address, which cannot be used anew as long as a weak reference is held.
  using Storages = std::unordered_map<const c10::StorageImpl*, Held>;

  Held* find(const at::Tensor& tensor);
  const Held* find(const at::Tensor& tensor) const;
  Held& hold(const at::Tensor& tensor);
  std::vector<Wave> take(std::vector<Storages::iterator> found);
  void sweep();

  Storages held_;
  uint64_t next_ = 0;
  size_t sweep_at_ = kSweepAfter;

  static constexpr size_t kSweepAfter = 1024;  // storages, at least, before the dead are looked for
  static constexpr size_t kMostRecords = 512;  // of one storage, as each may be held against all
};

}  // namespace fastinit
