// Sums of u, u^2, v and v^2 down a panel of rows (core/unit_sums.h).
//
// Bytes a row: it is read once from memory and twice more from cache. Mapping: the norms of a row
// are taken along it, which brings the panel into the L2 cache; then a group of 2 kWidth columns is
// walked down the panel with its four sums in 16 registers (of AVX-512; the others spill some).
// Everything is float64 after the load. Deterministic: a column is one chain of additions in the
// order of the rows; a norm adds its columns in an order that the instruction set decides.

#include "core/unit_sums.h"
#include "cpu/dispatch.h"
#include "cpu/simd.h"

namespace outdim::cpu::OUTDIM_ISA {
namespace {

struct Weights {
  double whole[kMaxPanelRows];  // 1 / ||h||
  double rest[kMaxPanelRows];   // 1 / ||h'||
};

/// 0 for a row of zeros, NaN for one that is not finite.
OUTDIM_INLINE double inverse_root(double squares) {
  if (squares == 0) return 0;
  return squares <= __DBL_MAX__ ? 1 / __builtin_sqrt(squares) : __builtin_nan("");
}

OUTDIM_INLINE void widen_natural(const Group& group, VecD* values) {
  values[0] = widen(low_half(group.a));
  values[1] = widen(high_half(group.a));
  values[2] = widen(low_half(group.b));
  values[3] = widen(high_half(group.b));
}

template <DType T>
OUTDIM_INLINE void load_columns(const char* row, int64_t column, int64_t d, VecD* values,
                                const uint32_t* kept) {
  const char* from = row + column * kItemSize<T>;
  Group group =
      column + kGroup <= d ? load_natural<T>(from) : load_natural_part<T>(from, d - column);
  if (kept != nullptr) {
    group.a = (VecF)((VecU)group.a & load<VecU>(kept + column));
    group.b = (VecF)((VecU)group.b & load<VecU>(kept + column + kWidth));
  }
  widen_natural(group, values);
}

template <DType T>
OUTDIM_INLINE Weights weights_of(const UnitPanel& panel) {
  Weights weights;
  for (int64_t row = 0; row < panel.count; ++row) {
    const char* from = static_cast<const char*>(panel.rows[row]);
    VecD whole[kGroupVectors] = {}, rest[kGroupVectors] = {};
    for (int64_t column = 0; column < panel.d; column += kGroup) {
      VecD h[kGroupVectors];
      load_columns<T>(from, column, panel.d, h, nullptr);
      for (int i = 0; i < kGroupVectors; ++i) whole[i] += h[i] * h[i];
      load_columns<T>(from, column, panel.d, h, panel.kept);
      for (int i = 0; i < kGroupVectors; ++i) rest[i] += h[i] * h[i];
    }
    weights.whole[row] = inverse_root(sum_across((whole[0] + whole[1]) + (whole[2] + whole[3])));
    weights.rest[row] = inverse_root(sum_across((rest[0] + rest[1]) + (rest[2] + rest[3])));
  }
  return weights;
}

template <DType T>
OUTDIM_INLINE void add_columns(const UnitPanel& panel, const Weights& weights, int64_t column) {
  const bool part = column + kGroup > panel.d;
  const int64_t count = part ? panel.d - column : kGroup;
  VecD sums[kUnitRows][kGroupVectors] = {};
  for (int r = 0; r < kUnitRows; ++r)
    if (part)
      memcpy(sums[r], panel.sums + r * panel.d + column, count * sizeof(double));
    else
      memcpy(sums[r], panel.sums + r * panel.d + column, sizeof sums[r]);
  for (int64_t row = 0; row < panel.count; ++row) {
    VecD h[kGroupVectors];
    load_columns<T>(static_cast<const char*>(panel.rows[row]), column, panel.d, h, nullptr);
    const VecD whole = splat(weights.whole[row]), rest = splat(weights.rest[row]);
    for (int i = 0; i < kGroupVectors; ++i) {
      const VecD u = h[i] * whole, v = h[i] * rest;
      sums[kUnit][i] += u;
      sums[kUnitSquares][i] += u * u;
      sums[kRestUnit][i] += v;
      sums[kRestSquares][i] += v * v;
    }
  }
  for (int r = 0; r < kUnitRows; ++r)
    memcpy(panel.sums + r * panel.d + column, sums[r], count * sizeof(double));
}

template <DType T>
void add(const UnitPanel& panel) {
  const Weights weights = weights_of<T>(panel);
  for (int64_t column = 0; column < panel.d; column += kGroup)
    add_columns<T>(panel, weights, column);
}

}  // namespace

extern const UnitSumsKernels kUnitSumsKernels;
const UnitSumsKernels kUnitSumsKernels = {
    kWidth, {add<DType::kFloat32>, add<DType::kFloat16>, add<DType::kBFloat16>}};

}  // namespace outdim::cpu::OUTDIM_ISA
