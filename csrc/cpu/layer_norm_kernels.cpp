// Rows of LayerNorm or RMSNorm (core/layer_norm.h has the formulas).
//
// Bytes a row: x read and y written once (2 D elements), residual and sum once each where present.
// Mapping: one row at a time; the first pass sums the row and its squares, the second normalises,
// edits and stores it out of L1 and prefetches the rows to come, of x and the residual to read and
// of y to write (without: 1.5x slower where rows come from memory; of the residual: 1.2x).
//
// Variance in one pass about a guess m0, the mean of every kSampled-th group of columns: var = mean
// (x - m0)^2 - d^2 with d = mean (x - m0). By Cauchy and Schwarz d^2 <= (D / sampled columns) var
// for any data, so at most about three bits cancel, and usually none. y = (x - m0) r - d r is right
// to the last bits also at mean 1000, where subtracting a mean rounded to float32 leaves an error
// of 1e-4 standard deviations. Exact two-pass variance cost a third pass over L1. Deterministic: a
// row is computed by one thread, always with the same lanes; so partitions and threads do not
// matter.
//
// Tried and lost: four rows at a time in the second pass (shares gamma and beta, but 1.6x slower
// with streamed stores at D = 768); prefetching further ahead than two rows; prefetching x or y
// while the row is summed (5 to 15 % slower); summing the next row before a row is written, to hide
// the latency of sums across a vector (10 to 20 % slower, in cache too).

// The sum of the squares of a row, which moments need, is taken while it is in L1.

#include "cpu/ahead.h"
#include "cpu/dispatch.h"
#include "cpu/simd.h"

namespace outdim::cpu::OUTDIM_ISA {
namespace {

// Groups of columns in flight in the summing pass, to hide the latency of addition.
constexpr int kUnroll = 4;
constexpr int kSampled = 8;
// Rows of x prefetched ahead of the one being written.
constexpr int kRowsAhead = 2;

/// Calls whole(column) for each whole group of columns, then part(column, count) for what is left.
template <class Whole, class Part>
OUTDIM_INLINE void for_each_group(int64_t d, Whole whole, Part part) {
  int64_t column = 0;
  for (; column + kGroup <= d; column += kGroup) whole(column);
  if (column < d) part(column, d - column);
}

OUTDIM_INLINE float total(const VecF (*sums)[2]) {
  VecF sum = sums[0][0] + sums[0][1];
  for (int i = 1; i < kUnroll; ++i) sum += sums[i][0] + sums[i][1];
  return sum_across(sum);
}

/// The rows of x and, where there is one, of the residual; the sum goes to `sum`.
struct RowInput {
  const char* x;
  const char* residual;
  char* sum;
};

/// A group of s = x or, rounded to the storage type as the unfused addition would, x + residual,
/// which is then in `stored` as well.
template <DType T, bool kResidual>
OUTDIM_INLINE Group input_group(const RowInput& row, int64_t column, Stored<T>* stored) {
  const int64_t at = column * kItemSize<T>;
  const Group x = load_group<T>(row.x + at);
  if (!kResidual) return x;
  const Group residual = load_group<T>(row.residual + at);
  *stored = rounded<T>({x.a + residual.a, x.b + residual.b});
  return unpacked<T>(*stored);
}
template <DType T, bool kResidual>
OUTDIM_INLINE Group input_group_part(const RowInput& row, int64_t column, int64_t count,
                                     Stored<T>* stored) {
  const int64_t at = column * kItemSize<T>;
  const Group x = load_group_part<T>(row.x + at, count);
  if (!kResidual) return x;
  const Group residual = load_group_part<T>(row.residual + at, count);
  *stored = rounded<T>({x.a + residual.a, x.b + residual.b});
  return unpacked<T>(*stored);
}

/// A guess of the mean; see above for how good it has to be.
template <DType T, bool kResidual>
OUTDIM_INLINE float sampled_mean(const RowInput& row, int64_t d) {
  Stored<T> stored;
  if (d < kGroup) {
    const Group g = input_group_part<T, kResidual>(row, 0, d, &stored);
    return sum_across(g.a + g.b) / static_cast<float>(d);
  }
  VecF sum[2] = {};
  int64_t count = 0;
  for (int64_t column = 0; column + kGroup <= d; column += kSampled * kGroup) {
    const Group g = input_group<T, kResidual>(row, column, &stored);
    sum[0] += g.a;
    sum[1] += g.b;
    count += kGroup;
  }
  return sum_across(sum[0] + sum[1]) / static_cast<float>(count);
}

/// y = (x - mean) scale + offset before gamma and beta.
struct RowScale {
  float mean;
  float scale;
  float offset;
};

/// Sums the row up and, with a residual, stores the sum.
template <DType T, bool kResidual>
OUTDIM_INLINE RowScale row_scale(const RowInput& row, int64_t d, float eps, bool rms,
                                 const Group& tail_mask) {
  const float mean = rms ? 0.0f : sampled_mean<T, kResidual>(row, d);
  const VecF m = splat(mean);
  VecF sums[kUnroll][2] = {}, squares[kUnroll][2] = {};
  const auto add = [&](VecF a, VecF b, int i) {
    sums[i][0] += a;
    sums[i][1] += b;
    squares[i][0] += a * a;
    squares[i][1] += b * b;
  };
  const auto add_group = [&](int64_t column, int i) {
    Stored<T> stored;
    const Group g = input_group<T, kResidual>(row, column, &stored);
    if (kResidual) store_group<T>(row.sum + column * kItemSize<T>, stored);
    add(g.a - m, g.b - m, i);
  };
  int64_t column = 0;
  for (; column + kUnroll * kGroup <= d; column += kUnroll * kGroup) {
#pragma GCC unroll 4
    for (int i = 0; i < kUnroll; ++i) add_group(column + i * kGroup, i);
  }
  for (; column + kGroup <= d; column += kGroup) add_group(column, 0);
  if (column < d) {
    Stored<T> stored;
    const Group g = input_group_part<T, kResidual>(row, column, d - column, &stored);
    if (kResidual) store_group_part<T>(row.sum + column * kItemSize<T>, stored, d - column);
    add((VecF)((VecU)(g.a - m) & (VecU)tail_mask.a), (VecF)((VecU)(g.b - m) & (VecU)tail_mask.b),
        0);
  }
  const auto count = static_cast<float>(d);
  const float rest = rms ? 0.0f : total(sums) / count;
  const float variance = total(squares) / count - rest * rest;
  // Rounding may leave a negative variance for a constant row; NaN has to stay.
  const float scale = 1.0f / __builtin_sqrtf((variance < 0.0f ? 0.0f : variance) + eps);
  return {mean, scale, -rest * scale};
}

OUTDIM_INLINE VecF choose(VecU condition, VecF yes, VecF no) {
  return (VecF)((condition & (VecU)yes) | (~condition & (VecU)no));
}

/// A group of a float32 table in natural order, in the layout order of T.
template <DType T>
OUTDIM_INLINE Group table_group(const float* from, int64_t count) {
  alignas(64) float natural[kGroup] = {};
  memcpy(natural, from, count * sizeof(float));
  if constexpr (T == DType::kBFloat16) {
    alignas(64) float layout[kGroup];
    for (int i = 0; i < kWidth; ++i) {
      layout[i] = natural[2 * i];
      layout[kWidth + i] = natural[2 * i + 1];
    }
    return {load<VecF>(layout), load<VecF>(layout + kWidth)};
  } else {
    return {load<VecF>(natural), load<VecF>(natural + kWidth)};
  }
}

/// Rows of the panel to prefetch while one is written.
struct RowsAhead {
  const char* x;
  const char* residual;  // null where there is none
  const char* y;
  Ahead::Lines next;  // of the panel behind; null: none
};

/// What an edit adds to y = x_hat gamma' + beta': nothing, a choice, bounds.
enum class Edit { kNone, kAffine, kClipped };

/// y of one vector of columns: beta' where gamma' is -0, which says that x does not matter; NaN
/// passes the bounds.
template <Edit kEdit>
OUTDIM_INLINE VecF affine(VecF x_hat, const LayerNormPanel& panel, int64_t at) {
  const VecF gamma = load<VecF>(panel.gamma + at), beta = load<VecF>(panel.beta + at);
  VecF y = x_hat * gamma + beta;
  if constexpr (kEdit != Edit::kNone) y = choose((VecU)((VecU)gamma == 0x80000000u), beta, y);
  if constexpr (kEdit == Edit::kClipped) {
    const VecF low = load<VecF>(panel.low + at), high = load<VecF>(panel.high + at);
    y = choose((VecU)(y < low), low, choose((VecU)(y > high), high, y));
  }
  return y;
}

template <DType T, Edit kEdit>
OUTDIM_INLINE void write_row(const char* x, char* y, char* copy, const LayerNormPanel& panel,
                             const RowScale& row, int64_t variant, const RowsAhead& coming) {
  const int64_t table = variant * panel.table_stride;
  const VecF mean = splat(row.mean), scale = splat(row.scale), offset = splat(row.offset);
  const auto normalised = [&](Group g, int64_t column) {
    const VecF a = (g.a - mean) * scale + offset, b = (g.b - mean) * scale + offset;
    return rounded<T>({affine<kEdit>(a, panel, table + column),
                       affine<kEdit>(b, panel, table + column + kWidth)});
  };
  for_each_group(
      panel.d,
      [&](int64_t column) {
        const int64_t at = column * kItemSize<T>;
        for (int byte = 0; byte < kGroup * kItemSize<T>; byte += 64) {
          __builtin_prefetch(coming.x + at + byte, 0, 3);
          if (coming.residual != nullptr) __builtin_prefetch(coming.residual + at + byte, 0, 3);
          if (!panel.stream) __builtin_prefetch(coming.y + at + byte, 1, 3);
        }
        if (coming.next.at[0] != nullptr) coming.next.fetch(column / kGroup);
        const Stored<T> stored = normalised(load_group<T>(x + at), column);
        if (panel.stream)
          stream_group<T>(y + at, stored);
        else
          store_group<T>(y + at, stored);
        if (copy != nullptr) store_group<T>(copy + at, stored);
      },
      [&](int64_t column, int64_t count) {
        const int64_t at = column * kItemSize<T>;
        const Stored<T> stored = normalised(load_group_part<T>(x + at, count), column);
        store_group_part<T>(y + at, stored, count);
        if (copy != nullptr) store_group_part<T>(copy + at, stored, count);
      });
}

/// All ones in the lanes of the columns that a last, partial group has.
template <DType T>
Group tail_mask_of(int64_t d) {
  const int64_t count = d % kGroup;
  alignas(64) float ones[kGroup];
  for (int64_t i = 0; i < kGroup; ++i) {
    const uint32_t bits = i < count ? 0xffffffffu : 0u;
    memcpy(ones + i, &bits, sizeof bits);
  }
  return table_group<T>(ones, kGroup);
}

template <DType T>
double row_squares(const char* row, int64_t d) {
  const int64_t whole = d / kGroup * kGroup;
  alignas(64) char tail[kGroup * kItemSize<T>] = {};
  memcpy(tail, row + whole * kItemSize<T>, (d - whole) * kItemSize<T>);
  return sum_of_squares<T>(row, d, whole < d ? tail : nullptr);
}

template <DType T, Edit kEdit>
void write_rows(const LayerNormPanel& panel) {
  const Group tail_mask = tail_mask_of<T>(panel.d);
  Ahead of_next(panel.next, panel.d * kItemSize<T>, true);
  for (int64_t row = 0; row < panel.n; ++row) {
    const char* x = panel.x + row * panel.x_stride;
    RowScale scale;
    if (panel.residual != nullptr) {
      char* sum = panel.sum + row * panel.sum_stride;
      scale = row_scale<T, true>({x, panel.residual + row * panel.residual_stride, sum}, panel.d,
                                 panel.eps, panel.rms, tail_mask);
      x = sum;
    } else {
      scale = row_scale<T, false>({x, nullptr, nullptr}, panel.d, panel.eps, panel.rms, tail_mask);
    }
    const int64_t variant = panel.variant != nullptr ? panel.variant[row] : 0;
    char* copy = panel.copy != nullptr ? panel.copy + row * panel.copy_stride : nullptr;
    const int64_t left = panel.n - 1 - row;
    const int64_t ahead = row + (left < kRowsAhead ? left : kRowsAhead);
    const RowsAhead coming = {
        panel.x + ahead * panel.x_stride,
        panel.residual != nullptr ? panel.residual + ahead * panel.residual_stride : nullptr,
        panel.y + (row + (left < 1 ? left : 1)) * panel.y_stride,
        panel.next[0].rows > 0 ? of_next.next(x, panel.d / kGroup) : Ahead::Lines{}};
    char* y = panel.y + row * panel.y_stride;
    write_row<T, kEdit>(x, y, copy, panel, scale, variant, coming);
    for (int64_t each = 1; each < panel.each; ++each) {
      y += panel.each_stride;
      write_row<T, kEdit>(x, y, nullptr, panel, scale, each, {x, nullptr, y, {}});
    }
    if (panel.squares != nullptr)
      panel.squares[row] = row_squares<T>(panel.squares_of_input ? x
                                          : copy != nullptr      ? copy
                                                                 : panel.y + row * panel.y_stride,
                                          panel.d);
  }
  if (panel.stream) stream_fence();
}

template <DType T>
void rows(const LayerNormPanel& panel) {
  if (!panel.edit)
    write_rows<T, Edit::kNone>(panel);
  else if (panel.low == nullptr)
    write_rows<T, Edit::kAffine>(panel);
  else
    write_rows<T, Edit::kClipped>(panel);
}

}  // namespace

extern const LayerNormKernels kLayerNormKernels;
const LayerNormKernels kLayerNormKernels = {
    kWidth,
    {rows<DType::kFloat32>, rows<DType::kFloat16>, rows<DType::kBFloat16>},
};

}  // namespace outdim::cpu::OUTDIM_ISA
