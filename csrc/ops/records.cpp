// The store of what waits, and the aliases through which it runs.
#include "records.h"

#include <ATen/MapAllocator.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/core/InferenceMode.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "layouts.h"
#include "ops.h"

namespace fastinit {

using at::Tensor;

namespace {

bool has_repeats(const Tensor& tensor) {
  for (int64_t d = 0; d < tensor.dim(); ++d) {
    if (tensor.stride(d) == 0 && tensor.size(d) != 1) return true;
  }
  return false;
}

// Whether no two elements share memory; a false may be wrong.
bool is_distinct(const Tensor& tensor) {
  std::vector<std::pair<int64_t, int64_t>> dims;
  for (int64_t d = 0; d < tensor.dim(); ++d) {
    if (tensor.size(d) > 1) dims.emplace_back(tensor.stride(d), tensor.size(d));
  }
  std::sort(dims.begin(), dims.end());
  int64_t room = 1;
  for (const auto& [stride, size] : dims) {
    if (stride < room) return false;
    room = stride * size;
  }
  return true;
}

bool is_at(const Place& place, const Tensor& tensor) {
  return place.dtype == tensor.scalar_type() && place.offset == tensor.storage_offset() &&
         tensor.sizes() == place.sizes && tensor.strides() == place.strides;
}

Record record_of(const Tensor& tensor, What what) {
  Record record;
  record.place.dtype = tensor.scalar_type();
  record.place.sizes.assign(tensor.sizes().begin(), tensor.sizes().end());
  record.place.strides.assign(tensor.strides().begin(), tensor.strides().end());
  record.place.offset = tensor.storage_offset();
  const auto item = static_cast<int64_t>(tensor.element_size());
  int64_t extent = tensor.numel();
  record.solid = true;
  if (!tensor.is_contiguous()) {
    extent = 1;
    for (int64_t d = 0; d < tensor.dim(); ++d) extent += (tensor.size(d) - 1) * tensor.stride(d);
    // Distinct elements that are as many as their span has room for leave no gap.
    record.solid = tensor.numel() == extent && is_distinct(tensor);
  }
  record.begin = record.place.offset * item;
  record.end = record.begin + extent * item;
  record.what = std::move(what);
  return record;
}

// The records that are left, and in `gone` the others: what they hold may be anybody's, and is let
// go only after everything here is in order.
void drop_covered(std::vector<Record>& records, const Record& by, std::vector<Record>& gone) {
  const auto covered = std::stable_partition(
      records.begin(), records.end(), [&](const Record& record) { return !by.covers(record); });
  gone.assign(std::make_move_iterator(covered), std::make_move_iterator(records.end()));
  records.erase(covered, records.end());
}

// For each record the number of the first wave that is after all records it must follow.
std::vector<size_t> waves_of(const std::vector<Record>& records) {
  std::vector<size_t> waves;
  waves.reserve(records.size());
  int64_t end = 0;
  for (size_t i = 0; i < records.size(); ++i) {
    size_t wave = 0;
    if (records[i].begin < end) {
      for (size_t j = 0; j < i; ++j) {
        if (records[j].meets(records[i])) wave = std::max(wave, waves[j] + 1);
      }
    }
    waves.push_back(wave);
    end = std::max(end, records[i].end);
  }
  return waves;
}

// A region with an offset a dimension of the tensor. The larger tensor only has to have its number
// of elements, as the law is known.
void add_region(const Tensor& tensor, const Fill& fill, std::vector<int64_t>& global_shape,
                std::vector<int64_t>& offsets) {
  if (!fill.region.has_value()) {
    global_shape.insert(global_shape.end(), tensor.sizes().begin(), tensor.sizes().end());
    offsets.resize(global_shape.size());
    return;
  }
  const auto& [shape, place] = *fill.region;
  if (shape.size() == place.size()) {
    global_shape.insert(global_shape.end(), shape.begin(), shape.end());
  } else {
    global_shape.push_back(checked_numel(shape));
  }
  offsets.insert(offsets.end(), place.begin(), place.end());
}

Tensor alias(const c10::intrusive_ptr<c10::StorageImpl>& storage, const Place& place) {
  const auto key =
      storage->device_type() == at::kCUDA ? at::DispatchKey::CUDA : at::DispatchKey::CPU;
  Tensor tensor =
      at::detail::make_tensor<c10::TensorImpl>(c10::Storage(storage), at::DispatchKeySet(key),
                                               caffe2::TypeMeta::fromScalarType(place.dtype));
  tensor.unsafeGetTensorImpl()->set_sizes_and_strides(place.sizes, place.strides, place.offset);
  return tensor;
}

}  // namespace

std::vector<int64_t> memory_of(const Tensor& tensor) {
  std::vector<int64_t> numbers{
      reinterpret_cast<int64_t>(tensor.storage().unsafeGetStorageImpl()),
      static_cast<int64_t>(tensor.scalar_type()),
      tensor.storage_offset(),
  };
  numbers.insert(numbers.end(), tensor.sizes().begin(), tensor.sizes().end());
  numbers.insert(numbers.end(), tensor.strides().begin(), tensor.strides().end());
  return numbers;
}

size_t Records::size() const {
  size_t count = 0;
  for (const auto& [_, held] : held_) count += held.records.size();
  return count;
}

bool Records::admits(const Tensor& tensor) const {
  const auto kind = tensor.device().type();
  if ((kind != at::kCPU && kind != at::kCUDA) || tensor.layout() != at::kStrided ||
      tensor.is_nested() || !tensor.has_storage() || tensor.numel() == 0 || tensor.is_conj() ||
      tensor.is_neg() ||
      (tensor.is_inference() && !c10::InferenceMode::is_enabled()) ||  // autograd refuses
      (!tensor.is_contiguous() && has_repeats(tensor))) {
    return false;
  }
  const Held* held = find(tensor);
  if (held != nullptr && held->exposed) return false;
  const c10::Storage& storage = tensor.storage();
  // torch forbids to resize what it handed to NumPy, got from it, shares with other processes, or
  // does not own.
  return storage.resizable() && at::MapAllocator::fromDataPtr(storage.data_ptr()) == nullptr;
}

bool Records::add(const Tensor& tensor, What what, bool bump) {
  if (!admits(tensor)) return false;
  Held& held = hold(tensor);
  std::vector<Record> gone;
  Record record = record_of(tensor, std::move(what));
  if (record.begin < held.end) drop_covered(held.records, record, gone);  // not behind all others
  if (held.records.size() >= kMostRecords) return false;
  held.end = std::max(held.end, record.end);
  held.records.push_back(std::move(record));
  if (bump && !tensor.is_inference()) tensor.unsafeGetTensorImpl()->bump_version();
  return true;
}

bool Records::full(const Tensor& tensor) const {
  const Held* held = find(tensor);
  return held != nullptr && held->records.size() >= kMostRecords;
}

void Records::overwritten(const Tensor& tensor) {
  Held* held = find(tensor);
  std::vector<Record> gone;
  if (held != nullptr) drop_covered(held->records, record_of(tensor, Action()), gone);
}

bool Records::survives_write(const Tensor& tensor) const {
  const Held* held = find(tensor);
  if (held == nullptr || held->records.empty()) return true;
  const Record write = record_of(tensor, Action());
  return std::all_of(held->records.begin(), held->records.end(), [&](const Record& record) {
    return write.covers(record) || !write.meets(record);
  });
}

std::vector<Record> Records::of(const Tensor& tensor) const {
  const Held* held = find(tensor);
  return held == nullptr ? std::vector<Record>() : held->records;
}

std::vector<Record> Records::left_by(const Tensor& tensor) const {
  std::vector<Record> records = of(tensor), gone;
  drop_covered(records, record_of(tensor, Action()), gone);
  return records;
}

void Records::expose(const Tensor& tensor) { hold(tensor).exposed = true; }

const Fill* Records::last(const Tensor& tensor) const {
  const Held* held = find(tensor);
  if (held == nullptr || held->records.empty()) return nullptr;
  const Record& last = held->records.back();
  return is_at(last.place, tensor) ? std::get_if<Fill>(&last.what) : nullptr;
}

void Records::allow_edits(const Tensor& tensor) {
  if (last(tensor) != nullptr) find(tensor)->records.back().editable = true;
}

const Fill* Records::editable(const Tensor& tensor) const {
  const Fill* fill = last(tensor);
  return fill != nullptr && find(tensor)->records.back().editable ? fill : nullptr;
}

void Records::edit(const Tensor& tensor, double mean, double std, double low, double high) {
  if (editable(tensor) == nullptr) return;
  Fill& fill = std::get<Fill>(find(tensor)->records.back().what);
  fill.mean = mean;
  fill.std = std;
  fill.low = low;
  fill.high = high;
}

// ------------------------------------------------------------------------------------- storages

const Records::Held* Records::find(const Tensor& tensor) const {
  if (!tensor.has_storage()) return nullptr;
  const auto found = held_.find(tensor.storage().unsafeGetStorageImpl());
  return found == held_.end() ? nullptr : &found->second;
}

Records::Held* Records::find(const Tensor& tensor) {
  return const_cast<Held*>(static_cast<const Records*>(this)->find(tensor));
}

Records::Held& Records::hold(const Tensor& tensor) {
  Held* held = find(tensor);
  if (held != nullptr) return *held;
  if (held_.size() >= sweep_at_) sweep();
  const c10::Storage& storage = tensor.storage();
  Held made{storage.getWeakStorageImpl(), next_++, {}};
  return held_.emplace(storage.unsafeGetStorageImpl(), std::move(made)).first->second;
}

void Records::sweep() {
  std::vector<Held> gone;
  for (auto at = held_.begin(); at != held_.end();) {
    if (at->second.storage.expired()) {
      gone.push_back(std::move(at->second));
      at = held_.erase(at);
    } else {
      ++at;
    }
  }
  sweep_at_ = 2 * held_.size() + kSweepAfter;
}

// ----------------------------------------------------------------------------------- running them

std::vector<Wave> Records::take(at::TensorList tensors) {
  std::map<uint64_t, Storages::iterator> found;
  for (const Tensor& tensor : tensors) {
    if (!tensor.has_storage()) return take_all();
    const auto at = held_.find(tensor.storage().unsafeGetStorageImpl());
    if (at != held_.end()) found.emplace(at->second.number, at);
  }
  std::vector<Storages::iterator> in_order;
  for (const auto& [_, at] : found) in_order.push_back(at);
  return take(std::move(in_order));
}

std::vector<Wave> Records::take_all() {
  std::vector<Storages::iterator> found;
  found.reserve(held_.size());
  for (auto at = held_.begin(); at != held_.end(); ++at) found.push_back(at);
  std::sort(found.begin(), found.end(),
            [](const auto& a, const auto& b) { return a->second.number < b->second.number; });
  return take(std::move(found));
}

std::vector<Wave> Records::take(std::vector<Storages::iterator> found) {
  std::map<std::pair<size_t, c10::DeviceIndex>, Wave> waves;
  std::vector<std::vector<Record>> gone;
  for (const auto& at : found) {
    Held& held = at->second;
    const auto storage = held.storage.lock();
    const std::vector<size_t> numbers = waves_of(held.records);
    for (size_t i = 0; storage != nullptr && i < held.records.size(); ++i) {
      Record& record = held.records[i];
      const at::Device device = storage->device();
      Wave& wave = waves.try_emplace({numbers[i], device.index()}, Wave{device}).first->second;
      Tensor tensor = alias(storage, record.place);
      if (auto* fill = std::get_if<Fill>(&record.what)) {
        wave.fills.emplace_back(std::move(tensor), std::move(*fill));
      } else if (auto* constant = std::get_if<double>(&record.what)) {
        wave.constants.emplace_back(std::move(tensor), *constant);
      } else {
        wave.actions.emplace_back(std::move(tensor), std::move(std::get<Action>(record.what)));
      }
    }
    if (held.exposed) {  // which is to be remembered
      gone.push_back(std::move(held.records));
      held.records.clear();
      held.end = 0;
    } else {
      gone.push_back(std::move(held.records));
      held_.erase(at);
    }
  }
  std::vector<Wave> in_order;
  for (auto& [_, wave] : waves) in_order.push_back(std::move(wave));
  return in_order;
}

void Wave::run_constants() const {
  for (const auto& [tensor, value] : constants) {
    Tensor target = tensor;
    const bool is_zero = value == 0.0 && !std::signbit(value);
    is_zero ? target.zero_() : target.fill_(value);
  }
}

void Wave::run_fills() const {
  if (fills.empty()) return;
  std::vector<Tensor> tensors;
  std::vector<double> mean, std, low, high;
  std::vector<int64_t> distribution, key, global_shape, offsets;
  const bool regions = std::any_of(fills.begin(), fills.end(),
                                   [](const auto& one) { return one.second.region.has_value(); });
  for (const auto& [tensor, fill] : fills) {
    tensors.push_back(tensor);
    distribution.push_back(fill.distribution);
    mean.push_back(fill.mean);
    std.push_back(fill.std);
    low.push_back(fill.low);
    high.push_back(fill.high);
    key.insert(key.end(), fill.key.begin(), fill.key.end());
    if (regions) add_region(tensor, fill, global_shape, offsets);
  }
  static const auto multi_fill = c10::Dispatcher::singleton()
                                     .findSchemaOrThrow("fastinit::multi_fill_", "")
                                     .typed<decltype(multi_fill_)>();
  const auto list = [&](const std::vector<int64_t>& numbers) {
    return regions ? at::OptionalIntArrayRef(numbers) : std::nullopt;
  };
  multi_fill.call(tensors, distribution, mean, std, low, high, key, list(global_shape),
                  list(offsets));
}

}  // namespace fastinit
