#pragma once

// How the moments kernels walk a panel: a group of columns at a time, widened once to float64 into a
// tile that stays in the L1 cache, and from there column vector by column vector with the sums in
// registers. Included by moments_kernels.cpp alone.

#include "cpu/ahead.h"
#include "cpu/simd.h"

namespace outdim::cpu::OUTDIM_ISA {
namespace {

/// A group of columns of every row of a panel, a vector of columns after the other, so that a walk
/// down the rows is one down memory whatever the stride of the rows.
struct Tile {
  VecD values[kGroupVectors][kMaxPanelRows];
};

OUTDIM_INLINE void add_to(double* sums, VecD value) { store(sums, load<VecD>(sums) + value); }

/// Rows of a panel as whole groups: the columns after the last whole group are copied aside,
/// zero-padded.
template <DType T>
class Rows {
 public:
  explicit Rows(const MomentsPanel& panel) : panel_(panel) {
    whole_ = panel.d / kGroup * kGroup;
    if (whole_ == panel.d) return;
    const int64_t bytes = (panel.d - whole_) * kItemSize<T>;
    for (int64_t row = 0; row < panel.count; ++row) {
      memset(tails_[row], 0, sizeof tails_[row]);
      memcpy(tails_[row], static_cast<const char*>(panel.rows[row]) + whole_ * kItemSize<T>, bytes);
    }
  }

  int64_t whole() const { return whole_; }
  /// The columns of a row after the last whole group, or null.
  const char* tail(int64_t row) const { return whole_ < panel_.d ? tails_[row] : nullptr; }
  /// The group from layout position `column` on.
  inline __attribute__((always_inline)) const char* group(int64_t row, int64_t column) const {
    return column < whole_ ? static_cast<const char*>(panel_.rows[row]) + column * kItemSize<T>
                           : tails_[row];
  }

 private:
  const MomentsPanel& panel_;
  int64_t whole_;
  alignas(64) char tails_[kMaxPanelRows][kGroup * kItemSize<T>];
};

}  // namespace
}  // namespace outdim::cpu::OUTDIM_ISA
