// Sums of unit vectors on the CPU: checks, the partition into chunks, and the threads. The sums are
// in unit_sums_kernels.cpp.
//
// Chunks of a segment that has several are summed apart and added in their order. Cutting a segment
// by columns, as segment_sums does, would take every norm once for each cut.

#include "core/unit_sums.h"

#include <algorithm>
#include <vector>

#include "cpu/buffer.h"
#include "cpu/dispatch.h"
#include "cpu/parallel.h"
#include "cpu/segments.h"

namespace outdim::cpu {
namespace {

/// Bits of the columns that are kept, as masks of 32 bits; as many as are in whole groups.
std::vector<uint32_t> kept_columns(const HiddenView& hidden, const UnitSumsArgs& args) {
  std::vector<uint32_t> kept(padded_columns(kernels().unit_sums->width, hidden.d), ~uint32_t{0});
  for (int64_t i = 0; i < args.left_outs; ++i) kept[args.left_out[i]] = 0;
  return kept;
}

void run(const HiddenView& hidden, const UnitSumsArgs& args, const Chunk& chunk, double* sums,
         const uint32_t* kept) {
  const auto add = kernels().unit_sums->add[static_cast<int>(hidden.dtype)];
  const OrderedRows rows(hidden, args.order);
  const void* addresses[kMaxPanelRows];
  UnitPanel panel;
  panel.rows = addresses;
  panel.d = hidden.d;
  panel.kept = kept;
  panel.sums = sums;
  for (int64_t position = chunk.from; position < chunk.to; position += panel.count) {
    panel.count = rows.addresses(position, chunk.to, addresses);
    add(panel);
  }
}

}  // namespace

void unit_sums(const HiddenView& hidden, const UnitSumsArgs& args, int threads) {
  check_segments(hidden, args);
  for (int64_t i = 0; i < args.left_outs; ++i)
    check_index("left_out", i, args.left_out[i], 0, hidden.d);
  const int64_t size = kUnitRows * hidden.d;
  const Chunks chunks = chunks_of(args);
  Buffer<double> extra(chunks.extra * size);
  std::fill_n(extra.data(), chunks.extra * size, 0.0);
  std::fill_n(args.sums, args.segments * size, 0.0);
  const std::vector<uint32_t> kept = kept_columns(hidden, args);
  run_tasks(static_cast<int64_t>(chunks.list.size()), threads, [&](TaskQueue& queue) {
    for (int64_t task = queue.next(); task >= 0; task = queue.next()) {
      const Chunk& chunk = chunks.list[task];
      double* to = chunk.extra < 0 ? args.sums + chunk.segment * size : &extra[chunk.extra * size];
      run(hidden, args, chunk, to, kept.data());
    }
  });
  for (const Chunk& chunk : chunks.list) {
    if (chunk.extra < 0) continue;
    double* sums = args.sums + chunk.segment * size;
    for (int64_t i = 0; i < size; ++i) sums[i] += extra[chunk.extra * size + i];
  }
  for (int64_t s = 0; s < args.segments; ++s)
    for (int64_t i = 0; i < args.left_outs; ++i)
      for (const int row : {kRestUnit, kRestSquares})
        args.sums[s * size + row * hidden.d + args.left_out[i]] = 0;
}

}  // namespace outdim::cpu
