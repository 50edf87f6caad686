#pragma once

// How the D values of a token lie: where the smallest and the largest are, and their kurtosis about
// zero,
//
//   kurtosis_i = (mean_j h_ij^4) / (mean_j h_ij^2)^2 - 3
//
// Of equal values the first is taken, and a NaN is both smallest and largest, as NumPy and torch
// have it. The kurtosis is NaN for a token of zeros or with values that are not finite. Sums are
// float64, in which the square of a value is exact.

#include <cstdint>

#include "core/moments.h"

namespace outdim {

struct TokenShapeArgs {
  const uint8_t* group = nullptr;  // [n]: a row of 0 is not looked at; null: all are
  int64_t* smallest = nullptr;     // [n], written; -1 where a row is not looked at
  int64_t* largest = nullptr;
  double* kurtosis = nullptr;  // NaN there
};

namespace cpu {
void token_shape(const HiddenView& hidden, const TokenShapeArgs& args, int threads);
}  // namespace cpu

}  // namespace outdim
