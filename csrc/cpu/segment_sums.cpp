// Segment sums on the CPU: checks, the partition into tasks, and the threads. The sums are in
// segment_sums_kernels.cpp.
//
// A task is some whole segments, or some columns of one long segment. Each column of a segment is
// summed by one task in the order of the rows, so neither the partition nor the threads show in the
// bytes, and the partition is free to follow the number of threads.

#include "core/segment_sums.h"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <vector>

#include "cpu/dispatch.h"
#include "cpu/parallel.h"
#include "cpu/segments.h"

namespace outdim::cpu {
namespace {

constexpr int64_t kTasksPerThread = 8;
constexpr int64_t kColumnUnit = 64;  // columns are cut at multiples of this
// Reading and writing a segment's 48 bytes a column costs about as much as this many rows.
constexpr int64_t kSegmentCost = 8;
constexpr int64_t kMinTaskCost = 64;

struct Task {
  int64_t first, last;  // segments
  int64_t column, to;   // columns
};

/// Throws where two segments write one row, or one reads what another writes.
void check_apart(const SegmentSumsArgs& args) {
  constexpr int64_t kNobody = -1;
  std::vector<int64_t> writer(args.table_rows, kNobody);
  for (int64_t s = 0; s < args.segments; ++s) {
    if (args.starts[s] == args.starts[s + 1]) continue;
    if (writer[args.write[s]] != kNobody)
      throw std::out_of_range("write: expected each row of `sums` at most once, got row " +
                              std::to_string(args.write[s]) + " twice");
    writer[args.write[s]] = s;
  }
  for (int64_t s = 0; s < args.segments; ++s) {
    if (args.starts[s] == args.starts[s + 1] || args.read[s] < 0) continue;
    const int64_t other = writer[args.read[s]];
    if (other != kNobody && other != s)
      throw std::out_of_range("write: expected no row that another segment reads, got row " +
                              std::to_string(args.read[s]));
  }
}

void check(const HiddenView& hidden, const SegmentSumsArgs& args) {
  check_segments(hidden, args);
  for (int64_t s = 0; s < args.segments; ++s) {
    if (args.starts[s] == args.starts[s + 1]) continue;
    check_index("read", s, args.read[s], -1, args.table_rows);
    check_index("write", s, args.write[s], 0, args.table_rows);
  }
  check_apart(args);
}

int64_t cost_of(const SegmentSumsArgs& args, int64_t segment) {
  const int64_t rows = args.starts[segment + 1] - args.starts[segment];
  return rows > 0 ? rows + kSegmentCost : 0;
}

std::vector<Task> tasks_of(const SegmentSumsArgs& args, int64_t d, int threads) {
  int64_t total = 0;
  for (int64_t s = 0; s < args.segments; ++s) total += cost_of(args, s);
  const int64_t share = std::max(kMinTaskCost, total / (kTasksPerThread * std::max(threads, 1)));
  std::vector<Task> tasks;
  int64_t first = 0, cost = 0;
  for (int64_t s = 0; s < args.segments; ++s) {
    const int64_t mine = cost_of(args, s);
    if (cost > 0 && cost + mine > share) {
      tasks.push_back({first, s, 0, d});
      first = s;
      cost = 0;
    }
    if (mine > share) {
      const int64_t cuts = (mine + share - 1) / share;
      const int64_t units = (d + kColumnUnit - 1) / kColumnUnit;
      const int64_t columns = (units + cuts - 1) / cuts * kColumnUnit;
      for (int64_t column = 0; column < d; column += columns)
        tasks.push_back({s, s + 1, column, std::min(d, column + columns)});
      first = s + 1;
    } else {
      cost += mine;
    }
  }
  if (cost > 0) tasks.push_back({first, args.segments, 0, d});
  return tasks;
}

void run(const HiddenView& hidden, const SegmentSumsArgs& args, const Task& task) {
  const auto add = kernels().segment_sums->add[static_cast<int>(hidden.dtype)];
  const OrderedRows rows(hidden, args.order);
  const int64_t size = kSegmentRows * hidden.d;
  const void* buffers[2][kMaxPanelRows];
  for (int64_t s = task.first; s < task.last; ++s) {
    const int64_t end = args.starts[s + 1];
    int64_t position = args.starts[s];
    if (position == end) continue;
    SegmentPanel panel;
    panel.d = hidden.d;
    panel.first = task.column;
    panel.last = task.to;
    panel.from = args.read[s] < 0 ? nullptr : args.sums + args.read[s] * size;
    panel.to = args.sums + args.write[s] * size;
    int now = 0;
    panel.count = rows.addresses(position, end, buffers[now]);
    while (panel.count > 0) {
      position += panel.count;
      panel.rows = buffers[now];
      panel.next = buffers[1 - now];
      panel.next_count = rows.addresses(position, end, buffers[1 - now]);
      add(panel);
      panel.from = panel.to;
      panel.count = panel.next_count;
      now = 1 - now;
    }
  }
}

}  // namespace

void segment_sums(const HiddenView& hidden, const SegmentSumsArgs& args, int threads) {
  check(hidden, args);
  const std::vector<Task> tasks = tasks_of(args, hidden.d, threads);
  run_tasks(static_cast<int64_t>(tasks.size()), threads, [&](TaskQueue& queue) {
    for (int64_t task = queue.next(); task >= 0; task = queue.next())
      run(hidden, args, tasks[task]);
  });
}

}  // namespace outdim::cpu
