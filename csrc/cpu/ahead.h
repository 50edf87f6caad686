#pragma once

// The rows that come next, prefetched into L2 while these are worked on.

#include "cpu/dispatch.h"
#include "cpu/simd.h"

namespace outdim::cpu::OUTDIM_ISA {
namespace {

/// Prefetches what comes next into L2, a stretch of each tensor in turn: evenly, for only so many
/// lines can be under way. `two` lines for a row that is walked where walks are few.
class Ahead {
 public:
  Ahead(const Coming (&next)[kComing], int64_t bytes, bool two) : two_(two) {
    for (const Coming& coming : next) {
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

}  // namespace
}  // namespace outdim::cpu::OUTDIM_ISA
