// Places of the extremes and the kurtosis of one token (core/token_shape.h).
//
// Bytes a value: its own, from memory once. The first walk takes least, most and the sums; the
// second looks for the first of the least and of the most, in the L1 cache, half a row each on
// average.

#include "core/token_shape.h"
#include "cpu/dispatch.h"
#include "cpu/simd.h"

namespace outdim::cpu::OUTDIM_ISA {
namespace {

/// Column of the first value that is `wanted`; NaN: that is NaN. One must be.
template <DType T>
OUTDIM_INLINE int64_t first_of(const char* row, int64_t d, float wanted) {
  const bool nan = wanted != wanted;
  const VecF every = splat(wanted);
  int64_t column = 0;
  for (; column + kGroup <= d; column += kGroup) {
    const Group h = load_natural<T>(row + column * kItemSize<T>);
    if (any(nan ? (VecU)(h.a != h.a) | (VecU)(h.b != h.b)
                : (VecU)(h.a == every) | (VecU)(h.b == every)))
      break;
  }
  float values[kGroup];
  const int64_t left = d - column < kGroup ? d - column : kGroup;
  const Group h = load_natural_part<T>(row + column * kItemSize<T>, left);
  store(values, h.a);
  store(values + kWidth, h.b);
  int64_t i = 0;
  while (i + 1 < left && !(nan ? values[i] != values[i] : values[i] == wanted)) ++i;
  return column + i;
}

template <DType T>
void shape(const char* row, int64_t d, int64_t* smallest, int64_t* largest, double* kurtosis) {
  constexpr float kInfinity = __builtin_inff();
  VecF least = splat(kInfinity), most = splat(-kInfinity);
  VecD squares[kGroupVectors] = {}, fourths[kGroupVectors] = {};
  const auto add = [&](const Group& h) __attribute__((always_inline)) {
    const VecD values[kGroupVectors] = {widen(low_half(h.a)), widen(high_half(h.a)),
                                        widen(low_half(h.b)), widen(high_half(h.b))};
    for (int i = 0; i < kGroupVectors; ++i) {
      const VecD square = values[i] * values[i];
      squares[i] += square;
      fourths[i] += square * square;
    }
  };
  int64_t column = 0;
  for (; column + kGroup <= d; column += kGroup) {
    const Group h = load_group<T>(row + column * kItemSize<T>);
    least = smaller(h.b, smaller(h.a, least));
    most = larger(h.b, larger(h.a, most));
    add(h);
  }
  float low = -largest_across(-least), high = largest_across(most);
  if (column < d) {
    const Group h = load_natural_part<T>(row + column * kItemSize<T>, d - column);
    add(h);
    float values[kGroup];
    store(values, h.a);
    store(values + kWidth, h.b);
    for (int64_t i = 0; i < d - column; ++i) {
      low = values[i] < low ? values[i] : low;
      high = values[i] > high ? values[i] : high;
    }
  }
  const double second = sum_across((squares[0] + squares[1]) + (squares[2] + squares[3]));
  const double fourth = sum_across((fourths[0] + fourths[1]) + (fourths[2] + fourths[3]));
  if (second != second) low = high = __builtin_nanf("");  // squares do not cancel: a NaN is there
  *smallest = first_of<T>(row, d, low);
  *largest = low != low ? *smallest : first_of<T>(row, d, high);
  *kurtosis = static_cast<double>(d) * fourth / (second * second) - 3.0;
}

}  // namespace

extern const TokenShapeKernels kTokenShapeKernels;
const TokenShapeKernels kTokenShapeKernels = {
    {shape<DType::kFloat32>, shape<DType::kFloat16>, shape<DType::kBFloat16>}};

}  // namespace outdim::cpu::OUTDIM_ISA
