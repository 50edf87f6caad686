#pragma once

// Co-moments of |h| with values of the rows: what Pearson's r of |h| with them needs, and no more.
//
// For every group g of selected rows, y = |h| and values x_k of a row:
//
//   head[g] : n, mean x_0..x_{K-1}, M2 x_0..x_{K-1}
//   body[g] : rows of length D: mean y, M2 y, C(x_0, y)..C(x_{K-1}, y)
//
// M2 and C are sums of products of deviations from the means; everything after the load is float64.
// It is a part of the state of moments.h, for callers with many values of a row (every head of a
// layer) who would not read the rest.

#include <cstdint>

#include "core/moments.h"

namespace outdim {

/// Rows of `body` before those of the values.
enum ComomentsRow : int { kMeanSize = 0, kM2Size = 1, kComomentsBase = 2 };

struct ComomentsArgs {
  const double* rows = nullptr;    // [count, n]
  int count = 0;                   // K
  const uint8_t* group = nullptr;  // [n]: 0 leaves the row out; null: all in group 1
  int groups = 1;
  double* head = nullptr;  // [groups, 1 + 2 K], written
  double* body = nullptr;  // [groups, 2 + K, d], written
};

namespace cpu {
/// Throws std::out_of_range naming the row when its group is above `groups`.
void comoments(const HiddenView& hidden, const ComomentsArgs& args, int threads);
}  // namespace cpu

}  // namespace outdim
