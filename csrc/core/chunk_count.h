#pragma once

// Counts of the distinct chunks of text: the base of counting tokens at memory speed.
//
// A document is cut into chunks wherever the rule says so; what the rule knows are classes of
// bytes, never a tokenizer (python/outdim/tokens/boundaries.py makes rules and docs/counting.md
// proves them). Each distinct chunk is kept once with its count, is given token ids by the caller
// once, and `fold` adds count x ids.
//
// Two levels: every thread counts in a direct-mapped cache of 16384 short chunks that fits into its
// L2 (some nine of ten chunks of English end there), and passes what the cache drops on to one
// table of 64 shards, each with its own lock. So memory does not grow with the threads and there is
// nothing to merge. Sums of integers: the same result for any number of threads and any order.

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace outdim {

/// Where text is cut. Classes are numbers below 16; sets of classes are bit masks.
struct ChunkRule {
  std::array<uint8_t, 256> byte_class{};  // class of each byte
  std::array<uint16_t, 16>
      cut{};           // cut[p] bit c: a cut between a byte of class p and one of class c
  uint16_t solid = 0;  // classes that may stand on either side of a single space that is cut before
  uint16_t drop = 0;   // classes of bytes that belong to no chunk and always end one
  uint16_t guard =
      0;  // from such a byte to the next space cut or dropped byte, `cut` is not applied
  uint16_t word = 0;    // classes of the bytes of words (after the space where spaces are kept)
  bool wide = false;    // characters above U+007F are solid too, unless blank, invisible or U+2581
  bool spaces = false;  // cut before a single space between two solid characters; the space goes
                        // with what follows
};

/// Documents inside one buffer; `starts` is moved on as they are counted, so that counting can stop
/// and go on.
struct ChunkTexts {
  const uint8_t* data = nullptr;
  int64_t size = 0;           // bytes of data
  int64_t* starts = nullptr;  // [n]
  const int64_t* ends = nullptr;
  int64_t n = 0;
};

/// What may stand between a chunk and others, so that they are all cut apart again.
enum class Joint : int {
  kWord = 0,   // nothing: the ids of a word tell where it begins
  kSpace = 1,  // a separator that begins with a single space; any blank where blanks are dropped
  kClass = 2,  // a character of the class given
  kNone = 3    // the chunk has to be tokenized alone
};
constexpr int kJoints = 4;

/// Chunks that have no token ids yet, each followed by the separator of its joint.
struct FreshChunks {
  std::vector<uint8_t> data;
  std::vector<int64_t> starts;  // [n + 1]; a chunk goes from one to the next without its separator
  std::array<int64_t, kJoints> of_joint{};  // chunks of each joint, which come in this order
};

struct ChunkTable;

class ChunkCounter {
 public:
  ChunkCounter(const ChunkRule& rule, int threads, int64_t memory_bytes);
  ~ChunkCounter();

  /// Counts chunks; false when memory was full before the end: fold, clear, and call again with the
  /// same texts.
  bool add(const ChunkTexts& texts);

  /// The chunks without ids, with separators by joint; joint_class is the class of
  /// separators[kClass]. Nothing may be added between this and `learn`.
  FreshChunks fresh(const std::array<std::string, kJoints>& separators, int joint_class);

  /// Token ids of the chunks that `fresh` gave, in its order: ids[offsets[i] : offsets[i + 1]).
  void learn(const int32_t* ids, const int64_t* offsets, int64_t n);

  /// counts[id] += count for every id of every chunk, then forgets the counts; chunks and ids are
  /// kept. Throws std::out_of_range for an id outside [0, vocab).
  /// Returns how many chunks were counted in all.
  int64_t fold(int64_t* counts, int64_t vocab);

  /// documents[id] += 1 for every document in which the id occurs; all its chunks must be known
  /// (add, learn).
  void count_documents(const ChunkTexts& texts, int64_t* documents, int64_t vocab) const;

  /// Forgets all chunks.
  void clear();

  int64_t chunks() const;
  int64_t memory_bytes() const;

 private:
  ChunkRule rule_;
  int threads_;
  int64_t limit_;
  std::unique_ptr<ChunkTable> table_;
};

}  // namespace outdim
