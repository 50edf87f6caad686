#pragma once

// How the moments kernels walk a panel: a group of columns at a time, widened once to float64 into a
// tile that stays in the L1 cache, and from there column vector by column vector with the sums in
// registers. Included by moments_kernels.cpp alone.

#include "cpu/dispatch.h"
#include "cpu/simd.h"

namespace outdim::cpu::OUTDIM_ISA {
namespace {

/// A group of columns of every row of a panel, a vector of columns after the other, so that a walk
/// down the rows is one down memory whatever the stride of the rows.
struct Tile {
  VecD values[kGroupVectors][kMaxPanelRows];
};

/// Prefetches the next panel in the order of memory, a line of each tensor for a row that is walked:
/// more at once would wait for each other.
class Ahead {
 public:
  Ahead(const MomentsPanel& panel, int item_size) {
    if (panel.next_rows <= 0) return;
    const int64_t row_bytes = panel.d * item_size;
    const bool contiguous =
        panel.next_stride[0] == row_bytes &&
        (panel.next[1] == nullptr || panel.next_stride[1] == row_bytes);
    rows_ = contiguous ? 1 : panel.next_rows;
    row_bytes_ = contiguous ? panel.next_rows * row_bytes : row_bytes;
    for (int i = 0; i < 2; ++i) {
      row_[i] = panel.next[i];
      stride_[i] = panel.next_stride[i];
    }
  }

  /// The lines of one walk.
  struct Lines {
    const char* at[2];
    inline __attribute__((always_inline)) void fetch(int64_t i) const {
      __builtin_prefetch(at[0] + 64 * i, 0, 3);
      __builtin_prefetch(at[1] + 64 * i, 0, 3);
    }
  };

  /// The next `count` lines; `cached`: what is prefetched in their place where there are none.
  Lines next(const void* cached, int64_t count) {
    const auto* here = static_cast<const char*>(cached);
    if (rows_ == 0) return {{here, here}};
    const Lines lines = {{row_[0] + offset_, row_[1] != nullptr ? row_[1] + offset_ : here}};
    offset_ += 64 * count;
    if (offset_ >= row_bytes_) {
      offset_ = 0;
      --rows_;
      for (int i = 0; i < 2; ++i) row_[i] += row_[i] != nullptr ? stride_[i] : 0;
    }
    return lines;
  }

 private:
  const char* row_[2] = {};
  int64_t stride_[2] = {};
  int64_t row_bytes_ = 0;
  int64_t rows_ = 0;
  int64_t offset_ = 0;
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
