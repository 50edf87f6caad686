#pragma once

// Sums of unit vectors of rows of hidden states [N, D] by segment, from which the cosines of all
// pairs of rows follow (stats/unit_sums.py).
//
//   u_i = h_i / ||h_i||        v_i = h'_i / ||h'_i||
//   sums[s] = sum over the rows i of segment s of (u_i, u_i^2, v_i, v_i^2), dimension by dimension
//
// h' is h with the dimensions left out put to 0; its norm is summed anew, for a difference of norms
// is noise where what is left out is nearly all. A row of norm 0 counts as zeros. A row with a NaN
// or an infinity (in h for u, in h' for v) makes the sums of its segment NaN in all dimensions, and
// no others.
//
// The rows of a segment are named by `order`, as for segment_sums: one sort serves every point.

#include <cstdint>

#include "core/moments.h"

namespace outdim {

enum UnitRow : int { kUnit = 0, kUnitSquares = 1, kRestUnit = 2, kRestSquares = 3, kUnitRows = 4 };

struct UnitSumsArgs {
  const int64_t* order = nullptr;  // [ordered] rows of hidden
  int64_t ordered = 0;
  const int64_t* starts = nullptr;  // [segments + 1] segment s is order[starts[s] .. starts[s + 1])
  int64_t segments = 0;
  const int64_t* left_out = nullptr;  // [left_outs] dimensions
  int64_t left_outs = 0;
  double* sums = nullptr;  // [segments, kUnitRows, d], written, not added to
};

namespace cpu {
/// Throws std::out_of_range naming what lies outside of hidden or order.
void unit_sums(const HiddenView& hidden, const UnitSumsArgs& args, int threads);
}  // namespace cpu

}  // namespace outdim
