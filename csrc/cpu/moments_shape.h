#pragma once

// The sums of a panel beyond means and comoments: powers of deviations, extremes, large values,
// unit vectors and nonfinite values, in a second walk over the panel in L2 because the registers of
// the first are full. Included by moments_kernels.cpp alone.
//
// Nonfinite values cost nothing where there are none: the norm of a row, needed anyway, says
// whether to look.

#include "cpu/moments_strips.h"

namespace outdim::cpu::OUTDIM_ISA {
namespace {

/// Powers, extremes, unit vectors and large values. Rows of weight 0 (nonfinite or zero norm) have
/// no unit vector.
template <DType T, bool kExact, int kFloats, int kSecond>
void strip_shape(const MomentsPanel& panel, const Strip& strip,
                 const typename Arithmetic<kExact>::Scalar* weights) {
  using A = Arithmetic<kExact>;
  using V = typename A::Vec;
  constexpr int kVecs = kFloats * A::kPerFloat;
  VecF least[kFloats], most[kFloats];
  V pivot[kVecs];
  {
    VecF floats[kFloats];
    for (int i = 0; i < kFloats; ++i) {
      floats[i] = load<VecF>(panel.pivot + strip.to + i * kWidth);
      least[i] = load<VecF>(panel.minimum + strip.to + i * kWidth);
      most[i] = load<VecF>(panel.maximum + strip.to + i * kWidth);
    }
    convert(floats, kFloats, pivot);
  }
  const VecF tau = splat(panel.tau);
  double* shape = panel.shape + strip.to;
  for (int64_t row = 0; row < strip.count;) {
    const int64_t end = kExact || row + kFlushRows > strip.count ? strip.count : row + kFlushRows;
    V sum_x3[kVecs] = {}, sum_x4[kVecs] = {}, sum_unit[kVecs] = {};
    VecF over[kFloats] = {};
    for (; row < end; ++row) {
      const char* from = static_cast<const char*>(strip.rows[row]) + strip.from;
      VecF floats[kFloats];
      load_floats<T, kFloats, kSecond>(from, floats);
      for (int i = 0; i < kFloats; ++i) {
        least[i] = smaller(floats[i], least[i]);
        most[i] = larger(floats[i], most[i]);
        over[i] += (VecF)((VecU)(absolute(floats[i]) >= tau) & (VecU)splat(1.0f));
      }
      V h[kVecs];
      load_values<T, kExact, kFloats, kSecond>(from, h);
      for (int i = 0; i < kVecs; ++i) {
        const V x = h[i] - pivot[i];
        const V xx = x * x;
        sum_x3[i] += xx * x;
        sum_x4[i] += xx * xx;
      }
      if (weights[row] != 0) {
        const V weight = splat(weights[row]);
        for (int i = 0; i < kVecs; ++i) sum_unit[i] += weight * h[i];
      }
    }
    add_all(shape + kSumX3 * panel.padded, sum_x3, kVecs);
    add_all(shape + kSumX4 * panel.padded, sum_x4, kVecs);
    add_all(shape + kSumUnit * panel.padded, sum_unit, kVecs);
    add_all(shape + kSumOver * panel.padded, over, kFloats);
  }
  for (int i = 0; i < kFloats; ++i) {
    store(panel.minimum + strip.to + i * kWidth, least[i]);
    store(panel.maximum + strip.to + i * kWidth, most[i]);
  }
}
template <DType T, bool kExact>
struct ShapeSums {
  const MomentsPanel& panel;
  const typename Arithmetic<kExact>::Scalar* weights;
  template <int kFloats, int kSecond>
  inline __attribute__((always_inline)) void run(const Strip& strip) const {
    strip_shape<T, kExact, kFloats, kSecond>(panel, strip, weights);
  }
};
/// Counts the nonfinite values of a row whose norm says that it has some.
template <DType T>
void count_nonfinite(const MomentsPanel& panel, const Rows<T>& rows, int64_t row) {
  double* counts = panel.shape + kSumNonfinite * panel.padded;
  const auto add = [&](const char* from, int64_t to) {
    const Group group = load_group<T>(from);
    const VecF one = splat(1.0f);
    // h - h is 0 for finite values and NaN otherwise.
    add_to(counts + to, (VecF)((VecU)(group.a - group.a != 0.0f) & (VecU)one));
    add_to(counts + to + kWidth, (VecF)((VecU)(group.b - group.b != 0.0f) & (VecU)one));
  };
  const char* values = static_cast<const char*>(panel.rows[row]);
  for (int64_t column = 0; column < rows.whole(); column += kGroup)
    add(values + column * kItemSize<T>, column);
  if (rows.has_tail()) add(static_cast<const char*>(rows.tail().rows[row]), rows.whole());
}

template <DType T>
OUTDIM_INLINE void add_squares(const char* from, VecD* sums) {
  VecD h[4];
  load_values<T, true, 2, 0>(from, h);
  for (int i = 0; i < 4; ++i) sums[i] += h[i] * h[i];
}

/// 1 / ||h|| in float64, 0 where the norm is zero or not finite. float32 values cannot overflow
/// float64 squares.
template <DType T>
double inverse_norm(const Rows<T>& rows, const char* values, const void* tail, bool* finite) {
  VecD sums[4] = {};
  for (int64_t column = 0; column < rows.whole(); column += kGroup)
    add_squares<T>(values + column * kItemSize<T>, sums);
  if (tail != nullptr) add_squares<T>(static_cast<const char*>(tail), sums);
  const double square = sum_across((sums[0] + sums[1]) + (sums[2] + sums[3]));
  *finite = square - square == 0.0;
  return *finite && square > 0.0 ? 1.0 / __builtin_sqrt(square) : 0.0;
}

template <DType T, bool kExact>
void add_shape(const MomentsPanel& panel, const Rows<T>& rows) {
  typename Arithmetic<kExact>::Scalar weights[kMaxPanelRows];
  for (int64_t row = 0; row < panel.count; ++row) {
    bool finite;
    const void* tail = rows.has_tail() ? rows.tail().rows[row] : nullptr;
    const auto* values = static_cast<const char*>(panel.rows[row]);
    weights[row] = static_cast<typename Arithmetic<kExact>::Scalar>(
        inverse_norm<T>(rows, values, tail, &finite));
    if (!finite) count_nonfinite<T>(panel, rows, row);
  }
  constexpr int kFloats = kRegisters == 32 || !kExact ? 2 : 1;
  for_each_strip<kFloats>(rows, ShapeSums<T, kExact>{panel, weights});
}
}  // namespace
}  // namespace outdim::cpu::OUTDIM_ISA
