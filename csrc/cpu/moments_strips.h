#pragma once

// How the moments kernels walk a panel: strips of columns, loaded in the arithmetic of the sums.
// Included by moments_kernels.cpp alone.

#include "cpu/dispatch.h"
#include "cpu/simd.h"

namespace outdim::cpu::OUTDIM_ISA {
namespace {

// Rows of float32 sums before they are added to the float64 ones: |error of r| measured at N = 1e4,
// worst of 64 dimensions, 4.5e-9 with 8 and 9.9e-9 with 16.
constexpr int kFlushRows = 8;

template <bool kExact>
struct Arithmetic;
template <>
struct Arithmetic<true> {
  using Scalar = double;
  using Vec = VecD;
  using Bits = VecQ;
  static constexpr int kPerFloat = 2;  // vectors of this type for the columns of one float32 vector
};
template <>
struct Arithmetic<false> {
  using Scalar = float;
  using Vec = VecF;
  using Bits = VecU;
  static constexpr int kPerFloat = 1;
};

/// Prefetches the lines of the next panel in the order of memory, a few at a time.
class Ahead {
 public:
  explicit Ahead(const MomentsPanel& panel, int64_t item_size)
      : row_(panel.next),
        stride_(panel.next_stride),
        row_bytes_(panel.d * item_size),
        end_(panel.next + panel.next_rows * panel.next_stride) {}

  inline __attribute__((always_inline)) void fetch(int lines) {
    if (row_ == end_) return;
    for (int i = 0; i < lines; ++i) {
      __builtin_prefetch(row_ + offset_, 0, 3);
      offset_ += 64;
    }
    if (offset_ >= row_bytes_) {
      row_ += stride_;
      offset_ = 0;
    }
  }

 private:
  const char* row_;
  int64_t stride_;
  int64_t row_bytes_;
  const char* end_;
  int64_t offset_ = 0;
};

/// Columns of `count` rows starting at byte `from` of each, and where their sums start.
struct Strip {
  const void* const* rows;
  int64_t count;
  int64_t from;
  int64_t to;
};

/// kFloats float32 vectors of a row in layout order; with one, the first or second of its group.
template <DType T, int kFloats, int kSecond>
OUTDIM_INLINE void load_floats(const char* from, VecF* h) {
  if constexpr (kFloats == 1) {
    const Group group = load_group<T>(from);
    h[0] = kSecond ? group.b : group.a;
  } else {
    for (int i = 0; i < kFloats / 2; ++i) {
      const Group group = load_group<T>(from + i * kGroup * kItemSize<T>);
      h[2 * i] = group.a;
      h[2 * i + 1] = group.b;
    }
  }
}

OUTDIM_INLINE void convert(const VecF* h, int floats, VecD* out) {
  for (int i = 0; i < floats; ++i) {
    out[2 * i] = widen(low_half(h[i]));
    out[2 * i + 1] = widen(high_half(h[i]));
  }
}
OUTDIM_INLINE void convert(const VecF* h, int floats, VecF* out) {
  for (int i = 0; i < floats; ++i) out[i] = h[i];
}

/// The same in the arithmetic of the sums. float32 widens straight from memory, which saves the
/// shuffles.
template <DType T, bool kExact, int kFloats, int kSecond>
OUTDIM_INLINE void load_values(const char* from, typename Arithmetic<kExact>::Vec* h) {
  if constexpr (kExact && T == DType::kFloat32) {
    const char* p = from + (kSecond ? sizeof(VecF) : 0);
    for (int i = 0; i < 2 * kFloats; ++i) h[i] = widen(load<HalfF>(p + i * sizeof(HalfF)));
  } else {
    VecF floats[kFloats];
    load_floats<T, kFloats, kSecond>(from, floats);
    convert(floats, kFloats, h);
  }
}

OUTDIM_INLINE void add_to(double* sums, VecD value) { store(sums, load<VecD>(sums) + value); }
OUTDIM_INLINE void add_to(double* sums, VecF value) {
  add_to(sums, widen(low_half(value)));
  add_to(sums + kWidth / 2, widen(high_half(value)));
}

template <class V>
OUTDIM_INLINE void add_all(double* sums, const V* values, int count) {
  for (int i = 0; i < count; ++i)
    add_to(sums + i * static_cast<int>(sizeof(V) / sizeof(values[0][0])), values[i]);
}
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
      tail_rows_[row] = tails_[row];
    }
  }

  int64_t whole() const { return whole_; }
  bool has_tail() const { return whole_ < panel_.d; }
  /// A strip of whole groups from layout position `column` (of a group) on.
  Strip strip(int64_t column) const {
    return {panel_.rows, panel_.count, column * kItemSize<T>, column};
  }
  Strip tail() const { return {tail_rows_, panel_.count, 0, whole_}; }

 private:
  const MomentsPanel& panel_;
  int64_t whole_;
  const void* tail_rows_[kMaxPanelRows];
  alignas(64) char tails_[kMaxPanelRows][kGroup * kItemSize<T>];
};

/// Calls one<kFloats, kSecond>(strip) until every column of the panel is covered.
template <int kFloats, DType T, class Sums>
OUTDIM_INLINE void for_each_strip(const Rows<T>& rows, Sums sums) {
  if constexpr (kFloats == 1) {
    for (int64_t column = 0; column < rows.whole(); column += kGroup) {
      Strip strip = rows.strip(column);
      sums.template run<1, 0>(strip);
      strip.to += kWidth;
      sums.template run<1, 1>(strip);
    }
    if (rows.has_tail()) {
      Strip strip = rows.tail();
      sums.template run<1, 0>(strip);
      strip.to += kWidth;
      sums.template run<1, 1>(strip);
    }
  } else {
    int64_t column = 0;
    for (; column + kFloats * kWidth <= rows.whole(); column += kFloats * kWidth)
      sums.template run<kFloats, 0>(rows.strip(column));
    for (; column < rows.whole(); column += kGroup) sums.template run<2, 0>(rows.strip(column));
    if (rows.has_tail()) sums.template run<2, 0>(rows.tail());
  }
}
}  // namespace
}  // namespace outdim::cpu::OUTDIM_ISA
