// Histograms of |h| on the CPU: strips of columns and the threads. The counting is in
// magnitude_counts_kernels.cpp.
//
// A task is a strip of columns with all rows, and no other task has its bins: integers, so neither
// the partition nor the threads show in the result.

#include "core/magnitude_counts.h"

#include <algorithm>
#include <vector>

#include "cpu/check_group.h"
#include "cpu/dispatch.h"
#include "cpu/parallel.h"

namespace outdim::cpu {
namespace {

constexpr int64_t kMovedDims = 128;
constexpr size_t kAhead = 12;

/// The bins of one power of two in the counts of a batch, and those that they are added to.
struct Line {
  int32_t* fresh;
  int64_t* total;

  void prefetch() const {
    __builtin_prefetch(fresh, 1);
    __builtin_prefetch(total, 1);
    __builtin_prefetch(total + kMagnitudeLine / 2, 1);
  }

  void move() const {
    for (int bin = 0; bin < kMagnitudeLine; ++bin) total[bin] += fresh[bin];
    std::fill_n(fresh, kMagnitudeLine, 0);
  }
};

/// Lists the lines of some dimensions that were written, and forgets that they were.
void find_written(int32_t* fresh, int64_t* counts, int64_t first, int64_t last,
                  std::vector<Line>* lines) {
  lines->clear();
  for (int64_t i = first; i < last; ++i) {
    int32_t* of_dim = fresh + i * kMagnitudeRoom;
    auto written = static_cast<uint32_t>(of_dim[kMagnitudeBins]);
    if (written == 0) continue;
    of_dim[kMagnitudeBins] = 0;
    for (; written != 0; written &= written - 1) {
      const int64_t line = __builtin_ctz(written) * kMagnitudeLine;
      lines->push_back({of_dim + line, counts + i * kMagnitudeBins + line});
    }
  }
}

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
    std::vector<Line> lines;
    for (int64_t task = queue.next(); task >= 0; task = queue.next()) {
      const int64_t first = task * kMovedDims;
      find_written(args.fresh, counts, first, std::min(dims, first + kMovedDims), &lines);
      for (size_t i = 0; i < lines.size(); ++i) {
        // They lie anywhere in more memory than the caches have.
        if (i + kAhead < lines.size()) lines[i + kAhead].prefetch();
        lines[i].move();
      }
    }
  });
}

}  // namespace outdim::cpu
