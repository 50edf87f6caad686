#pragma once

// Sizes of hidden states [N, D]: how large each dimension gets in a sequence, and what a norm
// divides each token by.
//
//   largest[s][d] = max over the rows i of segment s of |h_id|
//   squares[i]    = (m_i, sum_d (h_id - m_i)^2), m_i the mean over dimensions; 0 for an RMSNorm
//
// The rows of a segment are named by `order`, as for segment_sums; rows that it does not name are
// not looked at, and their squares are not written. NaN and infinity go their way: a NaN makes the
// largest of its segment and dimension NaN, and the squares of its row.

#include <cstdint>

#include "core/moments.h"

namespace outdim {

struct SizesArgs {
  const int64_t* order = nullptr;  // [ordered] rows of hidden, each at most once
  int64_t ordered = 0;
  const int64_t* starts = nullptr;  // [segments + 1] segment s is order[starts[s] .. starts[s + 1])
  int64_t segments = 0;
  bool rms = false;
  float* largest = nullptr;   // [segments, d], written, 0 for a segment without rows; null: none
  double* squares = nullptr;  // [n, 2], written at the rows of `order`; null: none
};

namespace cpu {
/// Throws std::out_of_range naming what lies outside of hidden or order.
void sizes(const HiddenView& hidden, const SizesArgs& args, int threads);
}  // namespace cpu

}  // namespace outdim
