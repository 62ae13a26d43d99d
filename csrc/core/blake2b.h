// BLAKE2b with a digest of 8 bytes: the number that a name stands for, of which a key is made.
//
// Unkeyed, and without salt: `hashlib.blake2b(data, digest_size=8)`. Must not know what is a name.
// Source: RFC 7693, sections 2.6 (initial values), 2.7 (orders), 3.1 (mixing), 3.2 (compression).
#pragma once

#include <cstddef>
#include <cstdint>

namespace fastinit {

class Blake2b {
 public:
  // The digest as a little-endian number.
  static constexpr uint64_t digest(const char* data, size_t size) {
    Blake2b state;
    size_t done = 0;
    for (; size - done > kBlock; done += kBlock) state.compress(data + done, kBlock, done, false);
    state.compress(data + done, size - done, done, true);
    return state.words_[0];
  }

 private:
  static constexpr size_t kBlock = 128;
  static constexpr uint64_t kInitial[8] = {
      0x6a09e667f3bcc908, 0xbb67ae8584caa73b, 0x3c6ef372fe94f82b, 0xa54ff53a5f1d36f1,
      0x510e527fade682d1, 0x9b05688c2b3e6c1f, 0x1f83d9abfb41bd6b, 0x5be0cd19137e2179};
  static constexpr uint8_t kOrder[10][16] = {
      {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15},
      {14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3},
      {11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4},
      {7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8},
      {9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13},
      {2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9},
      {12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11},
      {13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10},
      {6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5},
      {10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0}};

  static constexpr uint64_t rotated(uint64_t word, int count) {
    return word >> count | word << (64 - count);
  }

  static constexpr void mix(uint64_t& a, uint64_t& b, uint64_t& c, uint64_t& d, uint64_t x,
                            uint64_t y) {
    a += b + x;
    d = rotated(d ^ a, 32);
    c += d;
    b = rotated(b ^ c, 24);
    a += b + y;
    d = rotated(d ^ a, 16);
    c += d;
    b = rotated(b ^ c, 63);
  }

  // Takes in a block of at most 128 bytes, which zeros fill up, behind `before` bytes.
  constexpr void compress(const char* data, size_t size, uint64_t before, bool last) {
    uint64_t message[16] = {}, v[16] = {};
    for (size_t i = 0; i < size; ++i) {
      message[i / 8] |= uint64_t{static_cast<uint8_t>(data[i])} << 8 * (i % 8);
    }
    for (int i = 0; i < 8; ++i) {
      v[i] = words_[i];
      v[i + 8] = kInitial[i];
    }
    v[12] ^= before + size;
    if (last) v[14] = ~v[14];
    for (int round = 0; round < 12; ++round) {
      const auto& at = kOrder[round % 10];
      for (int i = 0; i < 4; ++i) {
        mix(v[i], v[i + 4], v[i + 8], v[i + 12], message[at[2 * i]], message[at[2 * i + 1]]);
      }
      for (int i = 0; i < 4; ++i) {
        mix(v[i], v[(i + 1) % 4 + 4], v[(i + 2) % 4 + 8], v[(i + 3) % 4 + 12],
            message[at[2 * i + 8]], message[at[2 * i + 9]]);
      }
    }
    for (int i = 0; i < 8; ++i) words_[i] ^= v[i] ^ v[i + 8];
  }

  // The parameters: a digest of 8 bytes, no key, no tree.
  uint64_t words_[8] = {kInitial[0] ^ 0x01010008,
                        kInitial[1],
                        kInitial[2],
                        kInitial[3],
                        kInitial[4],
                        kInitial[5],
                        kInitial[6],
                        kInitial[7]};
};

}  // namespace fastinit
