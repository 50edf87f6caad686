// Counts of the distinct chunks of text; core/chunk_count.h says how the parts fit together.

#include "core/chunk_count.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <mutex>
#include <stdexcept>
#include <string>
#include <utility>

#include "cpu/chunk_scan.h"
#include "cpu/parallel.h"

namespace outdim {
namespace {

constexpr int kShards = 64;
constexpr int64_t kCacheSlots = 8192;  // x 32 bytes = 256 KiB, within the L2 of today's processors
constexpr int64_t kTaskBytes = 256 << 10;
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

uint64_t mix(uint64_t a, uint64_t b) {
  const auto product = static_cast<unsigned __int128>(a) * b;
  return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
}

// Odd constants of wyhash (public domain).
uint64_t hash_of(uint64_t a, uint64_t b, uint64_t length) {
  return mix(a ^ 0xa0761d6478bd642full, b ^ 0xe7037ed1a0b428dbull ^ length);
}

uint64_t load(const uint8_t* bytes, int64_t size) {
  uint64_t word = 0;
  std::memcpy(&word, bytes, static_cast<size_t>(size));
  return word;
}

uint64_t hash_long(const uint8_t* bytes, int64_t length) {
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

struct Shard {
  mutable std::mutex lock;
  std::vector<Slot> slots;
  uint64_t used = 0;
  std::vector<uint8_t> arena;   // bytes of long chunks
  std::vector<int32_t> ids{0};  // position 0 means "not known"

  int64_t memory_bytes() const {
    return static_cast<int64_t>(slots.capacity() * sizeof(Slot) + arena.capacity() +
                                ids.capacity() * sizeof(int32_t));
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

  uint64_t hash_of_slot(const Slot& slot) const {
    return slot.length <= kShort ? hash_of(slot.a, slot.b, slot.length) : slot.b;
  }

  void grow() {
    std::vector<Slot> old(std::max<size_t>(slots.size() * 2, 64));
    old.swap(slots);
    const uint64_t mask = slots.size() - 1;
    for (const Slot& slot : old) {
      if (slot.length == 0) continue;
      uint64_t i = (hash_of_slot(slot) >> 13) & mask;
      while (slots[i].length != 0) i = (i + 1) & mask;
      slots[i] = slot;
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
      ++used;
    }
    slot->count += count;
  }
};

// Reads a chunk of at most 16 bytes; `room` bytes may be read from its start.
Chunk short_chunk(const uint8_t* bytes, int64_t length, int64_t room) {
  Chunk chunk;
  chunk.length = static_cast<uint32_t>(length);
  if (room < 16) {
    chunk.a = load(bytes, std::min<int64_t>(length, 8));
    chunk.b = length > 8 ? load(bytes + 8, length - 8) : 0;
    return chunk;
  }
  const uint64_t a = load(bytes, 8), b = load(bytes + 8, 8);
  if (length <= 8) {
    chunk.a = a & (~0ull >> (64 - 8 * length));
  } else {
    chunk.a = a;
    chunk.b = b & (~0ull >> (128 - 8 * length));
  }
  return chunk;
}

// Documents in groups of about kTaskBytes: the first document of each, and n.
std::vector<int64_t> group_documents(const ChunkTexts& texts) {
  std::vector<int64_t> groups{0};
  int64_t bytes = 0;
  for (int64_t i = 0; i < texts.n; ++i) {
    bytes += texts.ends[i] - texts.starts[i];
    if (bytes >= kTaskBytes) {
      groups.push_back(i + 1);
      bytes = 0;
    }
  }
  if (groups.back() < texts.n) groups.push_back(texts.n);
  return groups;
}

}  // namespace

struct ChunkTable {
  std::array<Shard, kShards> shards;
  std::vector<std::pair<int, size_t>> fresh;  // shard and slot of the chunks that wait for ids
  std::atomic<int64_t> bytes{0};

  Shard& shard(uint64_t hash) { return shards[hash >> 58]; }
  const Shard& shard(uint64_t hash) const { return shards[hash >> 58]; }

  void add(const Chunk& chunk, uint64_t hash, const uint8_t* data, uint64_t count) {
    Shard& home = shard(hash);
    std::lock_guard<std::mutex> hold(home.lock);
    const int64_t before = home.memory_bytes();
    home.add(chunk, hash, data, count);
    const int64_t grown = home.memory_bytes() - before;
    if (grown != 0) bytes.fetch_add(grown, std::memory_order_relaxed);
  }
};

namespace {

// One thread's cache in front of the table.
class Cache {
 public:
  explicit Cache(ChunkTable* table) : table_(table), slots_(kCacheSlots) {}

  void count(const uint8_t* bytes, int64_t length, int64_t room) {
    if (length > kShort) {
      const uint64_t hash = hash_long(bytes, length);
      table_->add({0, hash, static_cast<uint32_t>(length)}, hash, bytes, 1);
      return;
    }
    const Chunk chunk = short_chunk(bytes, length, room);
    const uint64_t hash = hash_of(chunk.a, chunk.b, chunk.length);
    Slot& slot = slots_[hash & (kCacheSlots - 1)];
    if (slot.a == chunk.a && slot.b == chunk.b && slot.length == chunk.length) {
      ++slot.count;
      return;
    }
    pass_on(slot);
    slot = {chunk.a, chunk.b, chunk.length, 0, 1};
  }

  void flush() {
    for (Slot& slot : slots_) {
      pass_on(slot);
      slot.length = 0;
    }
  }

 private:
  void pass_on(const Slot& slot) {
    if (slot.length == 0) return;
    table_->add({slot.a, slot.b, slot.length}, hash_of(slot.a, slot.b, slot.length), nullptr,
                slot.count);
  }

  ChunkTable* table_;
  std::vector<Slot> slots_;
};

}  // namespace

ChunkCounter::ChunkCounter(const ChunkRule& rule, int threads, int64_t memory_bytes)
    : rule_(rule),
      threads_(threads),
      limit_(memory_bytes),
      table_(std::make_unique<ChunkTable>()) {}

ChunkCounter::~ChunkCounter() = default;

bool ChunkCounter::add(const ChunkTexts& texts) {
  const std::vector<int64_t> groups = group_documents(texts);
  const Scanner scanner(rule_);
  std::atomic<bool> full{false};
  cpu::run_tasks(static_cast<int64_t>(groups.size()) - 1, threads_, [&](cpu::TaskQueue& queue) {
    Cache cache(table_.get());
    for (int64_t task = queue.next(); task >= 0 && !full; task = queue.next()) {
      const auto group = static_cast<size_t>(task);
      for (int64_t i = groups[group]; i < groups[group + 1] && !full; ++i) {
        texts.starts[i] = scanner.scan(
            texts.data, texts.starts[i], texts.ends[i], [&](int64_t begin, int64_t end) {
              if (end - begin > UINT32_MAX) throw std::length_error("a chunk of more than 4 GiB");
              cache.count(texts.data + begin, end - begin, texts.size - begin);
              if (table_->bytes.load(std::memory_order_relaxed) > limit_) full = true;
              return !full.load(std::memory_order_relaxed);
            });
      }
    }
    cache.flush();
  });
  return !full || std::equal(texts.starts, texts.starts + texts.n, texts.ends);
}

FreshChunks ChunkCounter::fresh(const std::array<std::string, 3>& separators, int joint_class) {
  FreshChunks found;
  const Scanner scanner(rule_);
  table_->fresh.clear();
  for (int joint = 0; joint < 3; ++joint) {
    const std::string& separator = separators[static_cast<size_t>(joint)];
    for (int s = 0; s < kShards; ++s) {
      const Shard& shard = table_->shards[static_cast<size_t>(s)];
      for (size_t i = 0; i < shard.slots.size(); ++i) {
        const Slot& slot = shard.slots[i];
        if (slot.length == 0 || slot.ids != 0) continue;
        uint8_t bytes[kShort];
        std::memcpy(bytes, &slot.a, 8);
        std::memcpy(bytes + 8, &slot.b, 8);
        const uint8_t* from = slot.length <= kShort ? bytes : shard.arena.data() + slot.a;
        if (static_cast<int>(scanner.joint(from, slot.length, joint_class)) != joint) continue;
        found.starts.push_back(static_cast<int64_t>(found.data.size()));
        found.data.insert(found.data.end(), from, from + slot.length);
        found.data.insert(found.data.end(), separator.begin(), separator.end());
        ++found.of_joint[static_cast<size_t>(joint)];
        table_->fresh.emplace_back(s, i);
      }
    }
  }
  found.starts.push_back(static_cast<int64_t>(found.data.size()));
  return found;
}

void ChunkCounter::learn(const int32_t* ids, const int64_t* offsets, int64_t n) {
  if (static_cast<size_t>(n) != table_->fresh.size()) {
    throw std::invalid_argument("learn: expected the ids of " +
                                std::to_string(table_->fresh.size()) + " chunks, got " +
                                std::to_string(n));
  }
  int64_t grown = 0;
  for (int64_t k = 0; k < n; ++k) {
    const auto [s, i] = table_->fresh[static_cast<size_t>(k)];
    Shard& shard = table_->shards[static_cast<size_t>(s)];
    const auto before = static_cast<int64_t>(shard.ids.capacity());
    shard.slots[i].ids = static_cast<uint32_t>(shard.ids.size());
    shard.ids.push_back(static_cast<int32_t>(offsets[k + 1] - offsets[k]));
    shard.ids.insert(shard.ids.end(), ids + offsets[k], ids + offsets[k + 1]);
    if (shard.ids.size() > UINT32_MAX)
      throw std::length_error("more ids in one shard than 32 bits can number");
    grown += (static_cast<int64_t>(shard.ids.capacity()) - before) *
             static_cast<int64_t>(sizeof(int32_t));
  }
  table_->fresh.clear();
  table_->bytes += grown;
}

int64_t ChunkCounter::fold(int64_t* counts, int64_t vocab) {
  uint64_t total = 0;
  for (Shard& shard : table_->shards) {
    for (Slot& slot : shard.slots) {
      if (slot.length == 0 || slot.count == 0) continue;
      if (slot.ids == 0)
        throw std::logic_error("fold: a chunk has no ids yet; call fresh and learn first");
      const int32_t* ids = shard.ids.data() + slot.ids;
      for (int32_t k = 1; k <= ids[0]; ++k) {
        if (ids[k] < 0 || ids[k] >= vocab) {
          throw std::out_of_range("id " + std::to_string(ids[k]) + " is outside [0, " +
                                  std::to_string(vocab) + ")");
        }
        counts[ids[k]] += static_cast<int64_t>(slot.count);
      }
      total += slot.count;
      slot.count = 0;
    }
  }
  return static_cast<int64_t>(total);
}

void ChunkCounter::count_documents(const ChunkTexts& texts, int64_t* documents,
                                   int64_t vocab) const {
  const std::vector<int64_t> groups = group_documents(texts);
  const Scanner scanner(rule_);
  std::mutex lock;
  cpu::run_tasks(static_cast<int64_t>(groups.size()) - 1, threads_, [&](cpu::TaskQueue& queue) {
    std::vector<int64_t> found(static_cast<size_t>(vocab), 0);
    std::vector<int64_t> last(static_cast<size_t>(vocab),
                              -1);  // the document in which an id was seen last
    for (int64_t task = queue.next(); task >= 0; task = queue.next()) {
      const auto group = static_cast<size_t>(task);
      for (int64_t i = groups[group]; i < groups[group + 1]; ++i) {
        scanner.scan(texts.data, texts.starts[i], texts.ends[i], [&](int64_t begin, int64_t end) {
          const uint8_t* bytes = texts.data + begin;
          const int64_t length = end - begin;
          const bool is_short = length <= kShort;
          const uint64_t long_hash = is_short ? 0 : hash_long(bytes, length);
          const Chunk chunk = is_short ? short_chunk(bytes, length, texts.size - begin)
                                       : Chunk{0, long_hash, static_cast<uint32_t>(length)};
          const uint64_t hash = is_short ? hash_of(chunk.a, chunk.b, chunk.length) : long_hash;
          const Shard& shard = static_cast<const ChunkTable&>(*table_).shard(hash);
          const Slot* slot =
              shard.slots.empty() ? nullptr : shard.find(chunk, hash, is_short ? nullptr : bytes);
          if (slot == nullptr || slot->ids == 0) {
            throw std::logic_error(
                "count_documents: a chunk has no ids; add and learn its text first");
          }
          const int32_t* ids = shard.ids.data() + slot->ids;
          for (int32_t k = 1; k <= ids[0]; ++k) {
            const auto id = static_cast<size_t>(ids[k]);
            found[id] += last[id] != i;
            last[id] = i;
          }
          return true;
        });
      }
    }
    std::lock_guard<std::mutex> hold(lock);
    for (int64_t id = 0; id < vocab; ++id) documents[id] += found[static_cast<size_t>(id)];
  });
}

void ChunkCounter::clear() { table_ = std::make_unique<ChunkTable>(); }

int64_t ChunkCounter::chunks() const {
  int64_t total = 0;
  for (const Shard& shard : table_->shards) total += static_cast<int64_t>(shard.used);
  return total;
}

int64_t ChunkCounter::memory_bytes() const { return table_->bytes; }

}  // namespace outdim
