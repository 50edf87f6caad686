// Sizes of hidden states on the CPU: checks, chunks, and the threads. The walk over a panel of rows
// is in sizes_kernels.cpp. The order in which values are compared does not show in the largest.

#include "core/sizes.h"

#include <algorithm>
#include <cmath>

#include "cpu/buffer.h"
#include "cpu/dispatch.h"
#include "cpu/parallel.h"
#include "cpu/segments.h"

namespace outdim::cpu {
namespace {

void run(const HiddenView& hidden, const SizesArgs& args, const Chunk& chunk, float* largest) {
  const auto take = kernels().sizes->take[static_cast<int>(hidden.dtype)];
  const OrderedRows rows(hidden, args.order);
  const void* addresses[kMaxPanelRows];
  double* squares[kMaxPanelRows];
  SizesPanel panel;
  panel.rows = addresses;
  panel.d = hidden.d;
  panel.rms = args.rms;
  panel.largest = largest;
  panel.squares = args.squares == nullptr ? nullptr : squares;
  for (int64_t position = chunk.from; position < chunk.to; position += panel.count) {
    panel.count = rows.addresses(position, chunk.to, addresses);
    if (args.squares != nullptr)
      for (int64_t i = 0; i < panel.count; ++i)
        squares[i] = args.squares + 2 * args.order[position + i];
    take(panel);
  }
}

}  // namespace

void sizes(const HiddenView& hidden, const SizesArgs& args, int threads) {
  check_segments(hidden, args);
  const int64_t d = args.largest == nullptr ? 0 : hidden.d;
  const Chunks chunks = chunks_of(args);
  Buffer<float> extra(chunks.extra * d);
  std::fill_n(extra.data(), chunks.extra * d, 0.0f);
  std::fill_n(args.largest, args.segments * d, 0.0f);
  run_tasks(static_cast<int64_t>(chunks.list.size()), threads, [&](TaskQueue& queue) {
    for (int64_t task = queue.next(); task >= 0; task = queue.next()) {
      const Chunk& chunk = chunks.list[task];
      float* to = chunk.extra < 0 ? args.largest + chunk.segment * d : &extra[chunk.extra * d];
      run(hidden, args, chunk, args.largest == nullptr ? nullptr : to);
    }
  });
  for (const Chunk& chunk : chunks.list) {
    if (chunk.extra < 0) continue;
    float* largest = args.largest + chunk.segment * d;
    for (int64_t i = 0; i < d; ++i) {
      const float other = extra[chunk.extra * d + i];
      if (other > largest[i] || std::isnan(other)) largest[i] = other;
    }
  }
}

}  // namespace outdim::cpu
