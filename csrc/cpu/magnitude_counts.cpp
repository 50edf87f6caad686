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

constexpr int64_t kMovedDims = 128;

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
      task.group_stride = hidden.d * kMagnitudeRoom;
      add(task);
    }
  });
}

void magnitude_counts_move(const MagnitudeCountsArgs& args, int64_t d, int64_t* counts,
                           int threads) {
  const int64_t dims = args.groups * d;
  run_tasks((dims + kMovedDims - 1) / kMovedDims, threads, [&](TaskQueue& queue) {
    for (int64_t task = queue.next(); task >= 0; task = queue.next()) {
      const int64_t end = std::min(dims, (task + 1) * kMovedDims);
      for (int64_t i = task * kMovedDims; i < end; ++i) {
        int32_t* fresh = args.fresh + i * kMagnitudeRoom;
        auto written = static_cast<uint32_t>(fresh[kMagnitudeBins]);
        fresh[kMagnitudeBins] = 0;
        for (; written != 0; written &= written - 1) {
          const int64_t line = __builtin_ctz(written) * kMagnitudeLine;
          int64_t* total = counts + i * kMagnitudeBins + line;
          for (int64_t bin = 0; bin < kMagnitudeLine; ++bin) total[bin] += fresh[line + bin];
          std::fill_n(fresh + line, kMagnitudeLine, 0);
        }
      }
    }
  });
}

}  // namespace outdim::cpu
