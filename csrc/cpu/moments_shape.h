#pragma once

// What the moments kernels take of single values and of rows: extremes, large and nonfinite values,
// norms. Included by moments_kernels.cpp alone.
//
// Large and nonfinite values cost nothing where there are none: the extremes of a group, the norm
// of a row, needed anyway, say whether to look.

#include "cpu/moments_tile.h"

namespace outdim::cpu::OUTDIM_ISA {
namespace {

/// Least and largest values of a group of columns over the rows of a panel.
struct Extremes {
  VecF least[2];
  VecF most[2];
};

/// Fills the tile with the group at `column`; returns its extremes where they are asked for.
template <DType T, bool kExtremes>
OUTDIM_INLINE Extremes fill_tile(const Rows<T>& rows, int64_t count, int64_t column, Tile* tile) {
  const VecF infinity = splat(__builtin_inff());
  Extremes found = {{infinity, infinity}, {-infinity, -infinity}};
  for (int64_t row = 0; row < count; ++row) {
    const char* from = rows.group(row, column);
    VecD values[kGroupVectors];
    widen_group<T>(from, values);
    for (int i = 0; i < kGroupVectors; ++i) tile->values[i][row] = values[i];
    if (!kExtremes) continue;
    const Group group = load_group<T>(from);
    found.least[0] = smaller(group.a, found.least[0]);
    found.least[1] = smaller(group.b, found.least[1]);
    found.most[0] = larger(group.a, found.most[0]);
    found.most[1] = larger(group.b, found.most[1]);
  }
  return found;
}

/// Counts |h| >= tau in the tile.
inline void count_over(const Tile& tile, int64_t count, double tau, double* counts) {
  const VecD bound = splat(tau), one = splat(1.0);
  for (int i = 0; i < kGroupVectors; ++i) {
    VecD over = {};
    for (int64_t row = 0; row < count; ++row)
      over += (VecD)((VecQ)(absolute(tile.values[i][row]) >= bound) & (VecQ)one);
    add_to(counts + i * kLanes, over);
  }
}

/// Adds the extremes of a group to those of the panels before, and counts what is large.
OUTDIM_INLINE void add_extremes(const MomentsPanel& panel, const Extremes& found, const Tile& tile,
                                int64_t column) {
  const VecF tau = splat(panel.tau);
  bool large = false;
  for (int i = 0; i < 2; ++i) {
    float* least = panel.minimum + column + i * kWidth;
    float* most = panel.maximum + column + i * kWidth;
    store(least, smaller(found.least[i], load<VecF>(least)));
    store(most, larger(found.most[i], load<VecF>(most)));
    large |= any((VecU)(larger(found.most[i], -found.least[i]) >= tau));
  }
  if (large)
    count_over(tile, panel.count, panel.tau, panel.shape + kSumOver * panel.padded + column);
}

/// Counts the nonfinite values of a row whose norm says that it has some.
template <DType T>
void count_nonfinite(const MomentsPanel& panel, const Rows<T>& rows, int64_t row) {
  double* counts = panel.shape + kSumNonfinite * panel.padded;
  const VecD one = splat(1.0);
  for (int64_t column = 0; column < panel.padded; column += kGroup) {
    VecD values[kGroupVectors];
    widen_group<T>(rows.group(row, column), values);
    // h - h is 0 for finite values and NaN otherwise.
    for (int i = 0; i < kGroupVectors; ++i)
      add_to(counts + column + i * kLanes,
             (VecD)((VecQ)(values[i] - values[i] != 0.0) & (VecQ)one));
  }
}

/// Fills in 1 / ||h|| of every row, 0 where the norm is zero or not finite; returns whether all of
/// them are finite.
template <DType T>
bool inverse_norms(const MomentsPanel& panel, const Rows<T>& rows, double* weights) {
  bool all_finite = true;
  for (int64_t row = 0; row < panel.count; ++row) {
    const double square =
        panel.squares != nullptr
            ? panel.squares[row]
            : sum_of_squares<T>(static_cast<const char*>(panel.rows[row]), panel.d, rows.tail(row));
    const bool finite = square - square == 0.0;
    weights[row] = finite && square > 0.0 ? 1.0 / __builtin_sqrt(square) : 0.0;
    if (finite) continue;
    all_finite = false;
    count_nonfinite<T>(panel, rows, row);
  }
  return all_finite;
}

}  // namespace
}  // namespace outdim::cpu::OUTDIM_ISA
