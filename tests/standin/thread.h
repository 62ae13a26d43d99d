// What a thread of a kernel sees, and what PTX's operations mean.
#pragma once

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <limits>
#include <type_traits>
#include <vector>

struct Thread {
  char* parameters;
  char* shared;
  uint32_t tid, threads, block, blocks;

  void wait();  // for all threads of the block
};

struct Kernel {
  const char* name;
  void (*run)(Thread&);
  size_t shared_bytes;
  std::vector<size_t> sizes, offsets;  // of the parameters
};

std::vector<Kernel>& all_kernels();

struct Registered {
  Registered(std::initializer_list<Kernel> kernels) {
    all_kernels().insert(all_kernels().end(), kernels);
  }
};

template <class To, class From>
To as(From bits) {
  return std::bit_cast<To>(bits);
}

template <class Value>
auto to_bits(Value value) {
  if constexpr (std::is_same_v<Value, float>) {
    return std::bit_cast<uint32_t>(value);
  } else if constexpr (std::is_same_v<Value, double>) {
    return std::bit_cast<uint64_t>(value);
  } else {
    return static_cast<std::make_unsigned_t<Value>>(value);
  }
}

inline float fused(float a, float b, float c) { return std::fma(a, b, c); }
inline double fused(double a, double b, double c) { return std::fma(a, b, c); }

template <class S>
bool both(S a, S b) {
  return !std::isnan(a) && !std::isnan(b);
}

// PTX clamps a shift by more than the width.
template <class T>
T shl_by(T value, uint32_t amount) {
  return amount >= 8 * sizeof(T) ? T{0} : static_cast<T>(value << amount);
}
template <class T>
T shr_by(T value, uint32_t amount) {
  if (amount < 8 * sizeof(T)) return static_cast<T>(value >> amount);
  return static_cast<T>(std::is_signed_v<T> && value < 0 ? -1 : 0);
}

// The low `length` bits of `from` in place of those of `into` from bit `position` on.
template <class T>
T insert(T from, T into, uint32_t position, uint32_t length) {
  const T ones = length >= 8 * sizeof(T) ? ~T{0} : static_cast<T>((T{1} << length) - 1);
  const T mask = shl_by<T>(ones, position);
  return (into & ~mask) | (shl_by<T>(from, position) & mask);
}

inline uint32_t permute(uint32_t low, uint32_t high, uint32_t selectors) {
  const uint64_t bytes = static_cast<uint64_t>(high) << 32 | low;
  uint32_t result = 0;
  for (int i = 0; i < 4; ++i) {
    const uint32_t selector = selectors >> (4 * i) & 15;
    auto byte = static_cast<uint8_t>(bytes >> (8 * (selector & 7)));
    if ((selector & 8) != 0) byte = (byte & 128) != 0 ? 255 : 0;
    result |= static_cast<uint32_t>(byte) << (8 * i);
  }
  return result;
}

// Towards zero, beyond the range to its ends, NaN to 0.
template <class T, class S>
T saturated(S value) {
  const S end = std::ldexp(S{1}, std::numeric_limits<T>::digits);
  if (std::isnan(value)) return 0;
  if (value >= end) return std::numeric_limits<T>::max();
  if (value <= static_cast<S>(std::numeric_limits<T>::min())) return std::numeric_limits<T>::min();
  return static_cast<T>(value);
}

inline void check_alignment(uint64_t address, size_t bytes) {
  if (address % bytes == 0) return;
  std::fprintf(stderr, "misaligned access of %zu bytes\n", bytes);
  std::abort();
}

// Of a word that the threads of other blocks raise too.
inline int32_t raised(uint64_t address, int32_t value) {
  check_alignment(address, sizeof(value));
  const std::atomic_ref<int32_t> word(*reinterpret_cast<int32_t*>(address));
  int32_t old = word.load();
  while (old < value && !word.compare_exchange_weak(old, value)) {
  }
  return old;
}

template <class T>
T load(uint64_t address) {
  T value;
  std::memcpy(&value, reinterpret_cast<const void*>(address), sizeof(T));
  return value;
}
template <class T>
void store(uint64_t address, uint64_t value) {
  const T narrowed = static_cast<T>(value);
  std::memcpy(reinterpret_cast<void*>(address), &narrowed, sizeof(T));
}
