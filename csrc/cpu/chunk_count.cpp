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
#include "cpu/chunk_table.h"
#include "cpu/parallel.h"

namespace outdim {
namespace {

constexpr int64_t kCacheSlots = 16384;  // x 32 bytes = 512 KiB: fits into the L2 of servers
constexpr size_t kPassed = 4096;
constexpr int64_t kTaskBytes = 256 << 10;

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

// One thread's cache in front of the table. Chunks wait in a batch while their slots are fetched,
// so that the latency of the L2 is paid once a batch; what the cache drops waits for the table in
// the same way.
class Cache {
 public:
  Cache(ChunkTable* table, int64_t limit) : table_(table), limit_(limit), slots_(kCacheSlots) {
    passed_.reserve(kPassed);
  }

  // False when the table is full.
  bool count(const uint8_t* bytes, int64_t length, int64_t room) {
    if (length > kShort) {
      table_->add_long({0, hash_long(bytes, length), static_cast<uint32_t>(length)}, bytes);
      return !is_full();
    }
    Waiting& one = batch_[waiting_++];
    one.chunk = short_chunk(bytes, length, room);
    one.hash = hash_of(one.chunk.a, one.chunk.b, one.chunk.length);
    __builtin_prefetch(&slots_[one.hash & (kCacheSlots - 1)], 1);
    return waiting_ < batch_.size() || drain();
  }

  void flush() {
    drain();
    for (Slot& slot : slots_) {
      pass_on(slot);
      slot.length = 0;
    }
    table_->add_short(passed_, &sorted_);
    passed_.clear();
  }

 private:
  struct Waiting {
    Chunk chunk;
    uint64_t hash;
  };

  bool is_full() const { return table_->bytes.load(std::memory_order_relaxed) > limit_; }

  bool drain() {
    bool room = true;
    for (size_t i = 0; i < waiting_; ++i) {
      const Chunk& chunk = batch_[i].chunk;
      Slot& slot = slots_[batch_[i].hash & (kCacheSlots - 1)];
      if (((slot.a ^ chunk.a) | (slot.b ^ chunk.b) | (slot.length ^ chunk.length)) == 0) {
        ++slot.count;
        continue;
      }
      pass_on(slot);
      slot = {chunk.a, chunk.b, chunk.length, 0, 1};
      if (passed_.size() == kPassed) {
        table_->add_short(passed_, &sorted_);
        passed_.clear();
        room = !is_full();
      }
    }
    waiting_ = 0;
    return room;
  }

  void pass_on(const Slot& slot) {
    if (slot.length == 0) return;
    passed_.push_back(
        {{slot.a, slot.b, slot.length}, hash_of(slot.a, slot.b, slot.length), slot.count});
  }

  ChunkTable* table_;
  int64_t limit_;
  std::vector<Slot> slots_;
  std::array<Waiting, 64> batch_;
  size_t waiting_ = 0;
  std::vector<Passed> passed_, sorted_;
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
    Cache cache(table_.get(), limit_);
    for (int64_t task = queue.next(); task >= 0 && !full; task = queue.next()) {
      const auto group = static_cast<size_t>(task);
      for (int64_t i = groups[group]; i < groups[group + 1] && !full; ++i) {
        texts.starts[i] = scanner.scan(
            texts.data, texts.starts[i], texts.ends[i], [&](int64_t begin, int64_t end) {
              if (end - begin > UINT32_MAX) throw std::length_error("a chunk of more than 4 GiB");
              if (cache.count(texts.data + begin, end - begin, texts.size - begin)) return true;
              full = true;
              return false;
            });
      }
    }
    cache.flush();
  });
  return !full || std::equal(texts.starts, texts.starts + texts.n, texts.ends);
}

FreshChunks ChunkCounter::fresh(const std::array<std::string, kJoints>& separators,
                                int joint_class) {
  FreshChunks found;
  const Scanner scanner(rule_);
  std::array<std::vector<std::pair<int, uint32_t>>, kJoints> of_joint;
  const auto bytes_of = [&](const std::pair<int, uint32_t>& place) {
    const Shard& shard = table_->shards[static_cast<size_t>(place.first)];
    const Slot& slot = shard.slots[place.second];
    const uint8_t* bytes = slot.length <= kShort ? reinterpret_cast<const uint8_t*>(&slot)
                                                 : shard.arena.data() + slot.a;
    return std::make_pair(bytes, slot.length);
  };
  for (int s = 0; s < kShards; ++s) {
    for (const uint32_t i : table_->shards[static_cast<size_t>(s)].unknown) {
      const auto [bytes, length] = bytes_of({s, i});
      of_joint[static_cast<size_t>(scanner.joint(bytes, length, joint_class))].emplace_back(s, i);
    }
  }
  table_->fresh.clear();
  for (size_t joint = 0; joint < kJoints; ++joint) {
    found.of_joint[joint] = static_cast<int64_t>(of_joint[joint].size());
    for (const auto& place : of_joint[joint]) {
      const auto [bytes, length] = bytes_of(place);
      found.starts.push_back(static_cast<int64_t>(found.data.size()));
      found.data.insert(found.data.end(), bytes, bytes + length);
      found.data.insert(found.data.end(), separators[joint].begin(), separators[joint].end());
      table_->fresh.push_back(place);
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
  for (Shard& shard : table_->shards) shard.unknown.clear();
  table_->fresh.clear();
  table_->bytes += grown;
}

int64_t ChunkCounter::fold(int64_t* counts, int64_t vocab) {
  uint64_t total = 0;
  for (Shard& shard : table_->shards) {
    for (const uint32_t i : shard.touched) {
      Slot& slot = shard.slots[i];
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
    shard.touched.clear();
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
