// Rows of LayerNorm or RMSNorm (core/layer_norm.h has the formulas).
//
// Bytes a row: x read and y written once (2 D elements), residual and sum once each where present. Mapping: one row at a
// time; the first pass brings it into L1 and sums it, the second sums squares, the third normalises, edits and stores.
// Passes two and three read L1, so the row costs one trip to memory.
//
// Variance in two passes about m0, the float32 mean; the second pass also sums x - m0, whose mean d is what float32
// rounding left out of m0. So var = mean (x - m0)^2 - d^2 and y = (x - m0) r - d r: right to the last bits at mean 1000 and
// for the price of one addition, where m0 alone leaves an error of 1e-4 standard deviations.
// Deterministic: a row is computed by one thread, always with the same lanes; so partitions and threads do not matter.
//
// Large outputs are stored past the cache (no read for ownership). Tried and lost: four rows at a time in the third pass
// (shares gamma and beta, but interleaved streamed stores made it 1.6x slower at D = 768).

#include "cpu/dispatch.h"
#include "cpu/simd.h"

namespace outdim::cpu::OUTDIM_ISA {
namespace {

// Groups of columns in flight in the summing passes, to hide the latency of addition.
constexpr int kUnroll = 4;

/// Calls whole(column) for each whole group of columns, then part(column, count) for what is left.
template <class Whole, class Part>
OUTDIM_INLINE void for_each_group(int64_t d, Whole whole, Part part) {
  int64_t column = 0;
  for (; column + kGroup <= d; column += kGroup) whole(column);
  if (column < d) part(column, d - column);
}

/// Sum over a row of what `at` gives for its whole groups, with kUnroll independent sums.
template <int kTerms, class At>
OUTDIM_INLINE void sum_whole_groups(int64_t d, At at, VecF (*sums)[kUnroll][2]) {
  for (int term = 0; term < kTerms; ++term)
    for (int i = 0; i < kUnroll; ++i) sums[term][i][0] = sums[term][i][1] = VecF{};
  int64_t column = 0;
  for (; column + kUnroll * kGroup <= d; column += kUnroll * kGroup) {
#pragma GCC unroll 4
    for (int i = 0; i < kUnroll; ++i) at(column + i * kGroup, i);
  }
  for (int i = 0; column + kGroup <= d; column += kGroup, ++i) at(column, i);
}

OUTDIM_INLINE float total(const VecF (*sums)[2]) {
  VecF sum = sums[0][0] + sums[0][1];
  for (int i = 1; i < kUnroll; ++i) sum += sums[i][0] + sums[i][1];
  return sum_across(sum);
}

/// s = x + residual, rounded to the storage type as the unfused addition would.
template <DType T>
OUTDIM_INLINE void add_row(const char* x, const char* residual, char* sum, int64_t d) {
  for_each_group(
      d,
      [&](int64_t column) {
        const int64_t at = column * kItemSize<T>;
        const Group a = load_group<T>(x + at), b = load_group<T>(residual + at);
        store_group<T>(sum + at, rounded<T>({a.a + b.a, a.b + b.b}));
      },
      [&](int64_t column, int64_t count) {
        const int64_t at = column * kItemSize<T>;
        const Group a = load_group_part<T>(x + at, count);
        const Group b = load_group_part<T>(residual + at, count);
        store_group_part<T>(sum + at, rounded<T>({a.a + b.a, a.b + b.b}), count);
      });
}

template <DType T>
OUTDIM_INLINE float mean_of(const char* x, int64_t d) {
  VecF sums[1][kUnroll][2];
  sum_whole_groups<1>(
      d,
      [&](int64_t column, int i) {
        const Group g = load_group<T>(x + column * kItemSize<T>);
        sums[0][i][0] += g.a;
        sums[0][i][1] += g.b;
      },
      sums);
  const int64_t whole = d / kGroup * kGroup;
  if (whole < d) {
    const Group g = load_group_part<T>(x + whole * kItemSize<T>, d - whole);
    sums[0][0][0] += g.a;
    sums[0][0][1] += g.b;
  }
  return total(sums[0]) / static_cast<float>(d);
}

/// y = (x - mean) scale + offset before gamma and beta.
struct RowScale {
  float mean;
  float scale;
  float offset;
};

template <DType T>
OUTDIM_INLINE RowScale row_scale(const char* x, int64_t d, float eps, bool rms, const Group& tail_mask) {
  const float mean = rms ? 0.0f : mean_of<T>(x, d);
  const VecF m = splat(mean);
  VecF sums[2][kUnroll][2];
  const auto add = [&](VecF a, VecF b, int i) {
    sums[0][i][0] += a;
    sums[0][i][1] += b;
    sums[1][i][0] += a * a;
    sums[1][i][1] += b * b;
  };
  sum_whole_groups<2>(
      d,
      [&](int64_t column, int i) {
        const Group g = load_group<T>(x + column * kItemSize<T>);
        add(g.a - m, g.b - m, i);
      },
      sums);
  const int64_t whole = d / kGroup * kGroup;
  if (whole < d) {
    const Group g = load_group_part<T>(x + whole * kItemSize<T>, d - whole);
    add((VecF)((VecU)(g.a - m) & (VecU)tail_mask.a), (VecF)((VecU)(g.b - m) & (VecU)tail_mask.b), 0);
  }
  const float count = static_cast<float>(d);
  const float rest = rms ? 0.0f : total(sums[0]) / count;
  const float variance = total(sums[1]) / count - rest * rest;
  const float scale = 1.0f / __builtin_sqrtf((variance > 0 || variance != variance ? variance : 0.0f) + eps);
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

/// NaN of the tables may have any payload; rounding to bfloat16 wants the canonical one.
OUTDIM_INLINE VecF canonical(VecF v) { return choose((VecU)(v == v), v, splat(__builtin_nanf(""))); }

OUTDIM_INLINE VecF edited(VecF z, VecF scale, VecF shift) {
  return canonical(choose((VecU)(scale == 0.0f), shift, z * scale + shift));
}

template <DType T>
OUTDIM_INLINE Group edited_group(Group z, const LayerNormPanel& panel, int64_t variant,
                                 int64_t column, int64_t count) {
  const int64_t at = variant * panel.d + column;
  if (panel.clip != nullptr) {
    const Group clip = table_group<T>(panel.clip + at, count);
    // The second operand wins where either is NaN: a NaN z stays NaN.
    z.a = smaller(clip.a, larger(-clip.a, z.a));
    z.b = smaller(clip.b, larger(-clip.b, z.b));
  }
  const Group scale = table_group<T>(panel.scale + at, count);
  const Group shift = table_group<T>(panel.shift + at, count);
  return {edited(z.a, scale.a, shift.a), edited(z.b, scale.b, shift.b)};
}

template <DType T, bool kEdit>
OUTDIM_INLINE void write_row(const char* x, char* y, char* copy, const LayerNormPanel& panel,
                             const RowScale& row, int64_t variant) {
  const VecF mean = splat(row.mean), scale = splat(row.scale), offset = splat(row.offset);
  const auto normalised = [&](Group g, int64_t column, int64_t count) {
    const VecF a = (g.a - mean) * scale + offset, b = (g.b - mean) * scale + offset;
    Group z = {a * load<VecF>(panel.gamma + column) + load<VecF>(panel.beta + column),
               b * load<VecF>(panel.gamma + column + kWidth) +
                   load<VecF>(panel.beta + column + kWidth)};
    if constexpr (kEdit) z = edited_group<T>(z, panel, variant, column, count);
    return rounded<T>(z);
  };
  for_each_group(
      panel.d,
      [&](int64_t column) {
        const int64_t at = column * kItemSize<T>;
        const Stored<T> stored = normalised(load_group<T>(x + at), column, kGroup);
        if (panel.stream)
          stream_group<T>(y + at, stored);
        else
          store_group<T>(y + at, stored);
        if (copy != nullptr) store_group<T>(copy + at, stored);
      },
      [&](int64_t column, int64_t count) {
        const int64_t at = column * kItemSize<T>;
        const Stored<T> stored = normalised(load_group_part<T>(x + at, count), column, count);
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

template <DType T, bool kEdit>
void write_rows(const LayerNormPanel& panel) {
  const Group tail_mask = tail_mask_of<T>(panel.d);
  for (int64_t row = 0; row < panel.n; ++row) {
    const char* x = panel.x + row * panel.x_stride;
    if (panel.residual != nullptr) {
      char* sum = panel.sum + row * panel.sum_stride;
      add_row<T>(x, panel.residual + row * panel.residual_stride, sum, panel.d);
      x = sum;
    }
    const RowScale scale = row_scale<T>(x, panel.d, panel.eps, panel.rms, tail_mask);
    const int64_t variant = panel.variant != nullptr ? panel.variant[row] : 0;
    char* copy = panel.copy != nullptr ? panel.copy + row * panel.copy_stride : nullptr;
    write_row<T, kEdit>(x, panel.y + row * panel.y_stride, copy, panel, scale, variant);
  }
  if (panel.stream) stream_fence();
}

template <DType T>
void rows(const LayerNormPanel& panel) {
  if (panel.scale != nullptr)
    write_rows<T, true>(panel);
  else
    write_rows<T, false>(panel);
}

}  // namespace

extern const LayerNormKernels kLayerNormKernels;
const LayerNormKernels kLayerNormKernels = {
    kWidth,
    {rows<DType::kFloat32>, rows<DType::kFloat16>, rows<DType::kBFloat16>},
};

}  // namespace outdim::cpu::OUTDIM_ISA
