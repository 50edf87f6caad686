// Sums of unit vectors on the CPU: checks, the partition into chunks, and the threads. The sums are
// in unit_sums_kernels.cpp.
//
// A chunk is up to kChunkRows rows of one segment. Chunks of a segment that has several are summed
// apart and added in their order: the partition follows from the rows alone, so the threads do not
// show in the bytes. Cutting a segment by columns, as segment_sums does, would take every norm
// once for each cut.

#include "core/unit_sums.h"

#include <algorithm>
#include <vector>

#include "cpu/buffer.h"
#include "cpu/dispatch.h"
#include "cpu/parallel.h"
#include "cpu/segments.h"

namespace outdim::cpu {
namespace {

// Adding a chunk up costs 64 D bytes, which is that of eight rows of float32 or so.
constexpr int64_t kChunkRows = 1024;

struct Chunk {
  int64_t from, to;  // of the order
  double* sums;      // [kUnitRows, d] of zeros
};

/// Bits of the columns that are kept, as masks of 32 bits; as many as are in whole groups.
std::vector<uint32_t> kept_columns(const HiddenView& hidden, const UnitSumsArgs& args) {
  std::vector<uint32_t> kept(padded_columns(kernels().unit_sums->width, hidden.d), ~uint32_t{0});
  for (int64_t i = 0; i < args.left_outs; ++i) kept[args.left_out[i]] = 0;
  return kept;
}

int64_t extra_chunks(const UnitSumsArgs& args) {
  int64_t extra = 0;
  for (int64_t s = 0; s < args.segments; ++s)
    extra += std::max<int64_t>(0, args.starts[s + 1] - args.starts[s] - 1) / kChunkRows;
  return extra;
}

/// The first chunk of a segment goes to its row of the sums, the others to `extra`.
std::vector<Chunk> chunks_of(const UnitSumsArgs& args, int64_t size, double* extra) {
  std::vector<Chunk> chunks;
  for (int64_t s = 0; s < args.segments; ++s) {
    double* sums = args.sums + s * size;
    for (int64_t from = args.starts[s]; from < args.starts[s + 1]; from += kChunkRows) {
      chunks.push_back({from, std::min(args.starts[s + 1], from + kChunkRows), sums});
      sums = extra;
      if (from + kChunkRows < args.starts[s + 1]) extra += size;
    }
  }
  return chunks;
}

void run(const HiddenView& hidden, const UnitSumsArgs& args, const Chunk& chunk,
         const uint32_t* kept) {
  const auto add = kernels().unit_sums->add[static_cast<int>(hidden.dtype)];
  const OrderedRows rows(hidden, args.order);
  const void* addresses[kMaxPanelRows];
  UnitPanel panel;
  panel.rows = addresses;
  panel.d = hidden.d;
  panel.kept = kept;
  panel.sums = chunk.sums;
  for (int64_t position = chunk.from; position < chunk.to; position += panel.count) {
    panel.count = rows.addresses(position, chunk.to, addresses);
    add(panel);
  }
}

/// Adds the chunks of each segment behind its first, and puts what is left out to 0.
void finish(const UnitSumsArgs& args, int64_t d, const double* extra) {
  const int64_t size = kUnitRows * d;
  for (int64_t s = 0; s < args.segments; ++s) {
    double* sums = args.sums + s * size;
    for (int64_t from = args.starts[s] + kChunkRows; from < args.starts[s + 1]; from += kChunkRows)
      for (int64_t i = 0; i < size; ++i) sums[i] += *extra++;
    for (int64_t i = 0; i < args.left_outs; ++i)
      sums[kRestUnit * d + args.left_out[i]] = sums[kRestSquares * d + args.left_out[i]] = 0;
  }
}

}  // namespace

void unit_sums(const HiddenView& hidden, const UnitSumsArgs& args, int threads) {
  check_segments(hidden, args);
  for (int64_t i = 0; i < args.left_outs; ++i)
    check_index("left_out", i, args.left_out[i], 0, hidden.d);
  const int64_t size = kUnitRows * hidden.d;
  const int64_t extra = extra_chunks(args) * size;
  Buffer<double> apart(extra);
  std::fill_n(apart.data(), extra, 0.0);
  std::fill_n(args.sums, args.segments * size, 0.0);
  const std::vector<Chunk> chunks = chunks_of(args, size, apart.data());
  const std::vector<uint32_t> kept = kept_columns(hidden, args);
  run_tasks(static_cast<int64_t>(chunks.size()), threads, [&](TaskQueue& queue) {
    for (int64_t task = queue.next(); task >= 0; task = queue.next())
      run(hidden, args, chunks[task], kept.data());
  });
  finish(args, hidden.d, apart.data());
}

}  // namespace outdim::cpu
