#pragma once

// Rows sorted by segment, as segment_sums, unit_sums and sizes take them.

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/moments.h"
#include "cpu/dispatch.h"

namespace outdim::cpu {

inline void check_index(const char* what, int64_t position, int64_t value, int64_t low,
                        int64_t high) {
  if (value >= low && value < high) return;
  throw std::out_of_range(std::string(what) + ": expected values in [" + std::to_string(low) +
                          ", " + std::to_string(high) + "), got " + std::to_string(value) + " at " +
                          std::to_string(position));
}

/// Throws where starts do not ascend within order, or a row of a segment is not one of hidden.
template <class Args>
void check_segments(const HiddenView& hidden, const Args& args) {
  for (int64_t s = 0; s <= args.segments; ++s)
    check_index("starts", s, args.starts[s], s > 0 ? args.starts[s - 1] : 0, args.ordered + 1);
  for (int64_t i = args.starts[0]; i < args.starts[args.segments]; ++i)
    check_index("order", i, args.order[i], 0, hidden.n);
}

/// Where the rows of an order lie.
class OrderedRows {
 public:
  OrderedRows(const HiddenView& hidden, const int64_t* order)
      : data_(static_cast<const char*>(hidden.data)),
        stride_(hidden.stride * item_size(hidden.dtype)),
        order_(order) {}

  /// Addresses of up to kMaxPanelRows rows from `position` of the order on, and how many.
  int64_t addresses(int64_t position, int64_t end, const void** rows) const {
    const int64_t count = std::min<int64_t>(kMaxPanelRows, end - position);
    for (int64_t i = 0; i < count; ++i) rows[i] = data_ + order_[position + i] * stride_;
    return count;
  }

 private:
  const char* data_;
  int64_t stride_;
  const int64_t* order_;
};

/// Up to kChunkRows rows of one segment: `extra` is -1 for the first chunk of a segment, and counts
/// the others of all segments.
struct Chunk {
  int64_t from, to;  // of the order
  int64_t segment;
  int64_t extra;
};

struct Chunks {
  std::vector<Chunk> list;
  int64_t extra = 0;
};

constexpr int64_t kChunkRows = 1024;

/// The partition follows from the rows alone: what is added up by chunk and then in the order of
/// chunks has the same bytes for any number of threads.
template <class Args>
Chunks chunks_of(const Args& args) {
  Chunks chunks;
  for (int64_t s = 0; s < args.segments; ++s)
    for (int64_t from = args.starts[s]; from < args.starts[s + 1]; from += kChunkRows) {
      const int64_t to = std::min(args.starts[s + 1], from + kChunkRows);
      chunks.list.push_back({from, to, s, from == args.starts[s] ? -1 : chunks.extra++});
    }
  return chunks;
}

}  // namespace outdim::cpu
