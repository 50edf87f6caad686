// Largest |h| down a panel of rows, and mean and squares along each (core/sizes.h).
//
// Bytes a row: it is read once from memory; with squares its second and third reading come from the
// L1 cache, and that of the largest from the L2. Squares are float64 after the load. Sizes are
// compared as integers, for bits of |h| are in the order of |h|, with infinity and then NaN behind:
// so a NaN is the largest without a look at it.

#include "core/sizes.h"
#include "cpu/dispatch.h"
#include "cpu/simd.h"

namespace outdim::cpu::OUTDIM_ISA {
namespace {

typedef int32_t VecI __attribute__((vector_size(kWidth * 4)));

/// Sum of h - mean, or of its square, over a row; what is beyond its end counts for nothing.
template <DType T, bool kSquares>
OUTDIM_INLINE double sum_along(const char* row, int64_t d, double mean) {
  VecD sums[kGroupVectors] = {};
  const VecD centre = splat(mean);
  int64_t column = 0;
  for (; column + kGroup <= d; column += kGroup) {
    VecD h[kGroupVectors];
    widen_group<T>(row + column * kItemSize<T>, h);
    for (int i = 0; i < kGroupVectors; ++i) {
      const VecD apart = h[i] - centre;
      sums[i] += kSquares ? apart * apart : apart;
    }
  }
  double sum = sum_across((sums[0] + sums[1]) + (sums[2] + sums[3]));
  if (column < d) {
    const Group part = load_natural_part<T>(row + column * kItemSize<T>, d - column);
    float rest[kGroup];
    store(rest, part.a);
    store(rest + kWidth, part.b);
    for (int64_t i = 0; i < d - column; ++i) {
      const double apart = rest[i] - mean;
      sum += kSquares ? apart * apart : apart;
    }
  }
  return sum;
}

OUTDIM_INLINE VecI larger_bits(VecI a, VecF h) {
  const VecI b = (VecI)((VecU)h & 0x7fffffffu);
  return a > b ? a : b;
}

template <DType T, bool kPart>
OUTDIM_INLINE void add_group(const SizesPanel& panel, int64_t column, int64_t count) {
  alignas(64) float held[kGroup] = {};
  memcpy(held, panel.largest + column, count * sizeof(float));
  VecI a = load<VecI>(held), b = load<VecI>(held + kWidth);
  for (int64_t row = 0; row < panel.count; ++row) {
    const char* from = static_cast<const char*>(panel.rows[row]) + column * kItemSize<T>;
    const Group group = kPart ? load_natural_part<T>(from, count) : load_natural<T>(from);
    a = larger_bits(a, group.a);
    b = larger_bits(b, group.b);
  }
  store(held, a);
  store(held + kWidth, b);
  memcpy(panel.largest + column, held, count * sizeof(float));
}

template <DType T>
void take(const SizesPanel& panel) {
  if (panel.squares != nullptr)
    for (int64_t row = 0; row < panel.count; ++row) {
      const char* from = static_cast<const char*>(panel.rows[row]);
      const double mean = panel.rms ? 0 : sum_along<T, false>(from, panel.d, 0) / panel.d;
      panel.squares[row][0] = mean;
      panel.squares[row][1] = sum_along<T, true>(from, panel.d, mean);
    }
  if (panel.largest == nullptr) return;
  int64_t column = 0;
  for (; column + kGroup <= panel.d; column += kGroup) add_group<T, false>(panel, column, kGroup);
  if (column < panel.d) add_group<T, true>(panel, column, panel.d - column);
}

}  // namespace

extern const SizesKernels kSizesKernels;
const SizesKernels kSizesKernels = {
    {take<DType::kFloat32>, take<DType::kFloat16>, take<DType::kBFloat16>}};

}  // namespace outdim::cpu::OUTDIM_ISA
