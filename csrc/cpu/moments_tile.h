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

/// Prefetches what comes next into L2, a stretch of each tensor in turn during a walk: evenly, for
/// only so many lines can be under way. `two` lines for a row that is walked where walks are few.
class Ahead {
 public:
  Ahead(const MomentsPanel& panel, int item_size, bool two) : two_(two) {
    const int64_t bytes = panel.d * item_size;
    for (const Coming& coming : panel.next) {
      if (coming.rows <= 0) continue;
      const bool contiguous = coming.stride == bytes;
      tensors_[count_++] = {coming.row, coming.stride, contiguous ? bytes * coming.rows : bytes,
                            contiguous ? 1 : coming.rows, 0};
    }
  }

  struct Lines {
    const char* at[2];
    inline __attribute__((always_inline)) void fetch(int64_t row) const {
      __builtin_prefetch(at[0] + kLine * row, 0, 2);
      __builtin_prefetch(at[1] + kLine * row, 0, 2);
    }
  };

  /// The lines of a walk down `count` rows; where none are left, those at `cached`.
  Lines next(const void* cached, int64_t count) {
    const auto* here = static_cast<const char*>(cached);
    const char* first = stretch(here, count);
    return {{first, two_ ? stretch(here, count) : here}};
  }

 private:
  static constexpr int64_t kLine = 64;

  const char* stretch(const char* cached, int64_t lines) {
    for (int tried = 0; tried < count_; ++tried) {
      Tensor& tensor = tensors_[turn_];
      turn_ = turn_ + 1 == count_ ? 0 : turn_ + 1;
      if (tensor.rows == 0) continue;
      const char* at = tensor.row + tensor.offset;
      tensor.offset += kLine * lines;
      if (tensor.offset >= tensor.bytes) {
        tensor.offset = 0;
        tensor.row += tensor.stride;
        --tensor.rows;
      }
      return at;
    }
    return cached;
  }

  struct Tensor {
    const char* row;
    int64_t stride;
    int64_t bytes;
    int64_t rows;
    int64_t offset;
  };
  Tensor tensors_[kComing];
  int count_ = 0;
  int turn_ = 0;
  bool two_;
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
