#pragma once

// The table of distinct chunks: 64 shards, each an open-addressing table with its own lock.

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <mutex>
#include <stdexcept>
#include <utility>
#include <vector>

namespace outdim {

constexpr int kShards = 64;
constexpr int64_t kShort = 16;  // bytes of a chunk that are kept inside a slot

// A chunk of up to 16 bytes is (a, b) itself, padded with zeros; a longer one is kept elsewhere: a
// is where, b its hash.
struct Chunk {
  uint64_t a = 0;
  uint64_t b = 0;
  uint32_t length = 0;
};

struct Slot {
  uint64_t a;
  uint64_t b;
  uint32_t length;  // 0: empty
  uint32_t
      ids;  // where in the shard's ids the number of ids and then the ids stand; 0: not known yet
  uint64_t count;
};
static_assert(sizeof(Slot) == 32, "two slots a cache line");

inline uint64_t mix(uint64_t a, uint64_t b) {
  const auto product = static_cast<unsigned __int128>(a) * b;
  return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
}

// Odd constants of wyhash (public domain).
inline uint64_t hash_of(uint64_t a, uint64_t b, uint64_t length) {
  return mix(a ^ 0xa0761d6478bd642full, b ^ 0xe7037ed1a0b428dbull ^ length);
}

inline uint64_t load(const uint8_t* bytes, int64_t size) {
  uint64_t word = 0;
  std::memcpy(&word, bytes, static_cast<size_t>(size));
  return word;
}

inline uint64_t hash_long(const uint8_t* bytes, int64_t length) {
  uint64_t hash = static_cast<uint64_t>(length);
  int64_t i = 0;
  for (; i + 16 <= length; i += 16) {
    hash = mix(load(bytes + i, 8) ^ 0x8ebc6af09c88c6e3ull, load(bytes + i + 8, 8) ^ hash);
  }
  const int64_t left = length - i;
  const uint64_t a = load(bytes + i, std::min<int64_t>(left, 8));
  const uint64_t b = left > 8 ? load(bytes + i + 8, left - 8) : 0;
  return hash_of(a ^ hash, b, static_cast<uint64_t>(length));
}

// A short chunk on its way from a thread's cache to the table.
struct Passed {
  Chunk chunk;
  uint64_t hash;
  uint64_t count;
};

struct Shard {
  mutable std::mutex lock;
  std::vector<Slot> slots;
  uint64_t used = 0;
  std::vector<uint8_t> arena;   // bytes of long chunks
  std::vector<int32_t> ids{0};  // position 0 means "not known"
  // Slots with a count, and those of chunks without ids: what a unit leaves to do, however large
  // the table is.
  std::vector<uint32_t> touched, unknown;

  int64_t memory_bytes() const {
    return static_cast<int64_t>(slots.capacity() * sizeof(Slot) + arena.capacity() +
                                (ids.capacity() + touched.capacity() + unknown.capacity()) *
                                    sizeof(int32_t));
  }

  // The slot of a chunk, or the empty one where it belongs.
  const Slot* find(const Chunk& chunk, uint64_t hash, const uint8_t* bytes) const {
    const uint64_t mask = slots.size() - 1;
    for (uint64_t i = (hash >> 13) & mask;; i = (i + 1) & mask) {
      const Slot& slot = slots[i];
      if (slot.length == 0) return &slot;
      if (slot.length != chunk.length || slot.b != chunk.b) continue;
      if (bytes == nullptr ? slot.a == chunk.a
                           : std::memcmp(arena.data() + slot.a, bytes, chunk.length) == 0) {
        return &slot;
      }
    }
  }

  void prefetch(uint64_t hash) const {
    if (!slots.empty()) __builtin_prefetch(&slots[(hash >> 13) & (slots.size() - 1)], 1);
  }

  uint64_t hash_of_slot(const Slot& slot) const {
    return slot.length <= kShort ? hash_of(slot.a, slot.b, slot.length) : slot.b;
  }

  void grow() {
    std::vector<Slot> old(std::max<size_t>(slots.size() * 2, 64));
    if (old.size() > UINT32_MAX)
      throw std::length_error("more slots in a shard than 32 bits number");
    old.swap(slots);
    touched.clear();
    unknown.clear();
    const uint64_t mask = slots.size() - 1;
    for (const Slot& slot : old) {
      if (slot.length == 0) continue;
      uint64_t i = (hash_of_slot(slot) >> 13) & mask;
      while (slots[i].length != 0) i = (i + 1) & mask;
      slots[i] = slot;
      if (slot.count != 0) touched.push_back(static_cast<uint32_t>(i));
      if (slot.ids == 0) unknown.push_back(static_cast<uint32_t>(i));
    }
  }

  void add(Chunk chunk, uint64_t hash, const uint8_t* bytes, uint64_t count) {
    if ((used + 1) * 10 > slots.size() * 7) grow();
    Slot* slot = const_cast<Slot*>(find(chunk, hash, bytes));
    if (slot->length == 0) {
      if (bytes != nullptr) {
        chunk.a = arena.size();
        arena.insert(arena.end(), bytes, bytes + chunk.length);
      }
      *slot = {chunk.a, chunk.b, chunk.length, 0, 0};
      unknown.push_back(static_cast<uint32_t>(slot - slots.data()));
      ++used;
    }
    if (slot->count == 0) touched.push_back(static_cast<uint32_t>(slot - slots.data()));
    slot->count += count;
  }
};

// The first n bytes of a word.
constexpr uint64_t kKeep[9] = {
    0, 0xFF, 0xFFFF, 0xFFFFFF, 0xFFFFFFFF, 0xFFFFFFFFFF, 0xFFFFFFFFFFFF, 0xFFFFFFFFFFFFFF, ~0ull};

// Reads a chunk of at most 16 bytes; `room` bytes may be read from its start.
inline Chunk short_chunk(const uint8_t* bytes, int64_t length, int64_t room) {
  Chunk chunk;
  chunk.length = static_cast<uint32_t>(length);
  if (room < 16) {
    chunk.a = load(bytes, std::min<int64_t>(length, 8));
    chunk.b = length > 8 ? load(bytes + 8, length - 8) : 0;
    return chunk;
  }
  // Without a branch on the length, which no predictor can guess.
  chunk.a = load(bytes, 8) & kKeep[length < 8 ? length : 8];
  chunk.b = load(bytes + 8, 8) & kKeep[length < 8 ? 0 : length - 8];
  return chunk;
}

struct ChunkTable {
  std::array<Shard, kShards> shards;
  std::vector<std::pair<int, uint32_t>> fresh;  // shard and slot of the chunks that wait for ids
  std::atomic<int64_t> bytes{0};

  Shard& shard(uint64_t hash) { return shards[hash >> 58]; }
  const Shard& shard(uint64_t hash) const { return shards[hash >> 58]; }

  void add_long(const Chunk& chunk, const uint8_t* data) {
    Shard& home = shard(chunk.b);
    std::lock_guard<std::mutex> hold(home.lock);
    const int64_t before = home.memory_bytes();
    home.add(chunk, chunk.b, data, 1);
    bytes.fetch_add(home.memory_bytes() - before, std::memory_order_relaxed);
  }

  // Adds short chunks, shard by shard: one lock a shard, and the slots are fetched ahead.
  void add_short(const std::vector<Passed>& passed, std::vector<Passed>* sorted) {
    std::array<size_t, kShards + 1> from{};
    for (const Passed& one : passed) ++from[(one.hash >> 58) + 1];
    for (size_t s = 0; s < kShards; ++s) from[s + 1] += from[s];
    std::array<size_t, kShards> next;
    std::copy_n(from.begin(), kShards, next.begin());
    sorted->resize(passed.size());
    for (const Passed& one : passed) (*sorted)[next[one.hash >> 58]++] = one;
    for (size_t s = 0; s < kShards; ++s) {
      if (from[s] == from[s + 1]) continue;
      Shard& home = shards[s];
      std::lock_guard<std::mutex> hold(home.lock);
      const int64_t before = home.memory_bytes();
      for (size_t i = from[s]; i < from[s + 1]; ++i) home.prefetch((*sorted)[i].hash);
      for (size_t i = from[s]; i < from[s + 1]; ++i) {
        const Passed& one = (*sorted)[i];
        home.add(one.chunk, one.hash, nullptr, one.count);
      }
      bytes.fetch_add(home.memory_bytes() - before, std::memory_order_relaxed);
    }
  }
};

}  // namespace outdim
