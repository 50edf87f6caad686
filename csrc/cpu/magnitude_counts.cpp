// Histograms of |h| on the CPU: strips of columns and the threads. The counting is in
// magnitude_counts_kernels.cpp.
//
// A task is a strip of columns with all rows, and no other task has its bins: integers, so neither
// the partition nor the threads show in the result.

#include "core/magnitude_counts.h"

#include <algorithm>

#include "cpu/check_group.h"
#include "cpu/dispatch.h"
#include "cpu/parallel.h"

namespace outdim::cpu {
namespace {

constexpr int64_t kMovedDims = 64;
constexpr int64_t kLine = 16;  // bins that are looked at together

}  // namespace

void magnitude_counts_add(const HiddenView& hidden, const MagnitudeCountsArgs& args, int threads) {
  check_group(args.group, hidden.n, args.groups);
  const auto add = kernels().magnitude_counts->add[static_cast<int>(hidden.dtype)];
  run_tasks((hidden.d + kMaxStrip - 1) / kMaxStrip, threads, [&](TaskQueue& queue) {
    for (int64_t strip = queue.next(); strip >= 0; strip = queue.next()) {
      MagnitudeStrip task;
      task.rows = static_cast<const char*>(hidden.data);
      task.stride = hidden.stride * item_size(hidden.dtype);
      task.n = hidden.n;
      task.group = args.group;
      task.first = strip * kMaxStrip;
      task.last = std::min(hidden.d, task.first + kMaxStrip);
      task.counts = args.fresh;
      task.group_stride = args.group_stride;
      task.dim_stride = args.dim_stride;
      add(task);
    }
  });
}

void magnitude_counts_move(const MagnitudeCountsArgs& args, int64_t d, int64_t* counts,
                           int threads) {
  static_assert(kMagnitudeBins % kLine == 0);
  const int64_t dims = args.groups * d;
  run_tasks((dims + kMovedDims - 1) / kMovedDims, threads, [&](TaskQueue& queue) {
    for (int64_t task = queue.next(); task >= 0; task = queue.next()) {
      const int64_t end = std::min(dims, (task + 1) * kMovedDims);
      for (int64_t i = task * kMovedDims; i < end; ++i) {
        int32_t* fresh = args.fresh + i / d * args.group_stride + i % d * args.dim_stride;
        int64_t* total = counts + i * kMagnitudeBins;
        for (int64_t line = 0; line < kMagnitudeBins; line += kLine) {
          int32_t some = 0;
          for (int64_t bin = line; bin < line + kLine; ++bin) some |= fresh[bin];
          if (some == 0) continue;
          for (int64_t bin = line; bin < line + kLine; ++bin) total[bin] += fresh[bin];
          std::fill_n(fresh + line, kLine, 0);
        }
      }
    }
  });
}

}  // namespace outdim::cpu
