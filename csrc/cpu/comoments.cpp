// Co-moments on the CPU: rows by group, means of the values, and the threads. The sums are in
// comoments_kernels.cpp.
//
// A task is a few strips of columns with all rows: a column is summed by one task, rows by group and
// in each in their own order, so the bytes do not depend on the threads and nothing is merged.

#include "core/comoments.h"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <vector>

#include "cpu/buffer.h"
#include "cpu/dispatch.h"
#include "cpu/parallel.h"

namespace outdim::cpu {
namespace {

/// Most strips of a task: of each row so many columns lie together in memory, and their sums still
/// fit into the L1 cache.
constexpr int64_t kStrips = 4;

int64_t round_up(int64_t value, int64_t unit) { return (value + unit - 1) / unit * unit; }

/// Rows by group, and the deviations of their values.
class Selected {
 public:
  Selected(const HiddenView& hidden, const ComomentsArgs& args, int values)
      : values_(values), starts_(args.groups + 2) {
    for (int64_t row = 0; row < hidden.n; ++row) {
      const int group = group_of(args, row);
      if (group > args.groups)
        throw std::out_of_range("group: row " + std::to_string(row) + " has group " +
                                std::to_string(group) + " of " + std::to_string(args.groups));
      if (group > 0) ++starts_[group + 1];
    }
    for (int g = 1; g <= args.groups; ++g) starts_[g + 1] += starts_[g];
    std::vector<int64_t> next(starts_), order(starts_.back());
    addresses_.resize(order.size());
    const int64_t stride = hidden.stride * item_size(hidden.dtype);
    for (int64_t row = 0; row < hidden.n; ++row) {
      const int group = group_of(args, row);
      if (group == 0) continue;
      const int64_t position = next[group]++;
      order[position] = row;
      addresses_[position] = static_cast<const char*>(hidden.data) + row * stride;
    }
    deviations_ = Buffer<double>(static_cast<int64_t>(order.size()) * values);
    left_.resize(args.groups * values);
    for (int g = 0; g < args.groups; ++g) center(hidden, args, order, g);
  }

  int64_t begin(int group) const { return starts_[group + 1]; }
  int64_t end(int group) const { return starts_[group + 2]; }
  const void* const* rows(int64_t position) const { return addresses_.data() + position; }
  const double* deviations(int64_t position) const {
    return deviations_.data() + position * values_;
  }
  /// The sum of the deviations of value k, which rounding leaves.
  double left(int group, int k) const { return left_[group * values_ + k]; }

 private:
  static int group_of(const ComomentsArgs& args, int64_t row) {
    return args.group == nullptr ? 1 : args.group[row];
  }

  /// Writes the head of a group.
  void center(const HiddenView& hidden, const ComomentsArgs& args,
              const std::vector<int64_t>& order, int group) {
    const int64_t from = begin(group), to = end(group);
    const auto n = static_cast<double>(to - from);
    double* head = args.head + group * head_size(args.count);
    head[0] = n;
    for (int k = 0; k < values_; ++k) {
      if (k >= args.count) {
        for (int64_t i = from; i < to; ++i) deviations_[i * values_ + k] = 0;
        continue;
      }
      const double* x = args.rows + k * hidden.n;
      // About a value of the data, so that what is constant has no deviations at all.
      const double pivot = n > 0 ? x[order[from]] : 0;
      double sum = 0, left = 0, square = 0;
      for (int64_t i = from; i < to; ++i) sum += x[order[i]] - pivot;
      const double shift = n > 0 ? sum / n : 0;
      for (int64_t i = from; i < to; ++i) {
        const double deviation = x[order[i]] - pivot - shift;
        deviations_[i * values_ + k] = deviation;
        left += deviation;
        square += deviation * deviation;
      }
      head[1 + k] = pivot + shift;
      head[1 + args.count + k] = n > 0 ? std::max(0.0, square - left * left / n) : 0;
      if (square != square) head[1 + args.count + k] = square;  // NaN, which max would not keep
      left_[group * values_ + k] = left;
    }
  }

  const int values_;  // K, padded
  // Of groups 0, 1, ...: begin(g) is that of group g + 1 of the arguments.
  std::vector<int64_t> starts_;
  std::vector<const void*> addresses_;
  Buffer<double> deviations_;  // [selected rows][values]
  std::vector<double> left_;   // [groups][values]
};

/// One thread's way through groups of columns.
class Columns {
 public:
  Columns(const HiddenView& hidden, const ComomentsArgs& args, const Selected& selected, int values,
          int64_t strips)
      : hidden_(hidden),
        args_(args),
        selected_(selected),
        kernels_(*kernels().comoments),
        values_(values),
        strips_(strips),
        pivot_(strips * kernels_.columns),
        sums_(strips * strip_size()) {}

  /// The strips from `column` on.
  void add(int64_t column) {
    const int64_t end = std::min(hidden_.d, column + strips_ * kernels_.columns);
    for (int g = 0; g < args_.groups; ++g) {
      std::fill_n(sums_.data(), strips_ * strip_size(), 0.0);
      const int64_t from = selected_.begin(g), to = selected_.end(g);
      for (int64_t i = from; i < to; i += kMaxPanelRows) {
        ComomentsPanel panel;
        panel.choose_pivot = i == from;
        panel.rows = selected_.rows(i);
        panel.count = std::min<int64_t>(kMaxPanelRows, to - i);
        panel.next = selected_.rows(i + panel.count);
        panel.next_count = std::min(panel.count, to - i - panel.count);
        panel.item_size = item_size(hidden_.dtype);
        panel.weights = selected_.deviations(i);
        panel.values = values_;
        panel.pivot = pivot_.data();
        panel.sums = sums_.data();
        for (panel.column = column; panel.column < end; panel.column += kernels_.columns) {
          panel.columns = std::min<int64_t>(kernels_.columns, hidden_.d - panel.column);
          kernels_.add[static_cast<int>(hidden_.dtype)](panel);
          panel.pivot += kernels_.columns;
          panel.sums += strip_size();
        }
      }
      for (int64_t c = column; c < end; ++c)
        finish(g, static_cast<double>(to - from), c, (c - column) / kernels_.columns);
    }
  }

 private:
  int64_t strip_size() const { return (kComomentsBase + values_) * kernels_.columns; }

  void finish(int group, double n, int64_t column, int64_t strip) {
    const int64_t in_strip = column % kernels_.columns;  // strips begin at multiples of it
    const double* sums = sums_.data() + strip * strip_size() + in_strip;
    double* body = args_.body + group * (kComomentsBase + args_.count) * hidden_.d + column;
    const auto sum = [&](int row) { return sums[row * kernels_.columns]; };
    const auto out = [&](int row) -> double& { return body[row * hidden_.d]; };
    const double v = n > 0 ? sum(kMeanSize) / n : 0;
    out(kMeanSize) = n > 0 ? pivot_[strip * kernels_.columns + in_strip] + v : 0;
    const double m2 = sum(kM2Size) - sum(kMeanSize) * v;
    out(kM2Size) = m2 < 0 ? 0 : m2;  // NaN stays
    for (int k = 0; k < args_.count; ++k)
      out(kComomentsBase + k) = sum(kComomentsBase + k) - selected_.left(group, k) * v;
  }

  const HiddenView& hidden_;
  const ComomentsArgs& args_;
  const Selected& selected_;
  const ComomentsKernels& kernels_;
  const int values_;
  const int64_t strips_;
  Buffer<double> pivot_, sums_;
};

}  // namespace

void comoments(const HiddenView& hidden, const ComomentsArgs& args, int threads) {
  const ComomentsKernels& found = *kernels().comoments;
  const int values = static_cast<int>(round_up(args.count, found.values));
  const Selected selected(hidden, args, values);
  // Few columns, those of chosen dimensions, still keep all threads busy.
  const int64_t all = (hidden.d + found.columns - 1) / found.columns;
  const int64_t strips = std::clamp<int64_t>(all / std::max(threads, 1), 1, kStrips);
  const int64_t columns = strips * found.columns;
  const int64_t tasks = (hidden.d + columns - 1) / columns;
  run_tasks(tasks, threads, [&](TaskQueue& queue) {
    Columns mine(hidden, args, selected, values, strips);
    for (int64_t task = queue.next(); task >= 0; task = queue.next()) mine.add(task * columns);
  });
}

}  // namespace outdim::cpu
