#pragma once

// Sums of h, |h| and h^2 of rows of hidden states [N, D] by segment: the table of types, where a
// segment is the rows whose token ids fall into one bucket.
//
//   sums[write[s]] = sums[read[s]] + sum over the rows i of segment s of (h_i, |h_i|, h_i^2)
//
// The rows of a segment are named by `order`, sorted beforehand: one sort serves every point of a
// model that has seen the same tokens. A segment without rows is left alone. To read one row of the
// table and to write another makes a transaction of a batch: the state before it stays whole until
// the caller forgets it, and only the segments that a batch touches are held twice.
//
// A square of a float32, float16 or bfloat16 is exact in float64, so that a column of a segment is
// one chain of additions, in the order of the rows.

#include <cstdint>

#include "core/moments.h"

namespace outdim {

/// Rows of one segment of the table.
enum SegmentRow : int { kSumH = 0, kSumAbs = 1, kSumSquares = 2, kSegmentRows = 3 };

struct SegmentSumsArgs {
  const int64_t* order = nullptr;  // [ordered] rows of hidden
  int64_t ordered = 0;
  const int64_t* starts = nullptr;  // [segments + 1] segment s is order[starts[s] .. starts[s + 1])
  int64_t segments = 0;
  const int64_t* read = nullptr;   // [segments] in [-1, table_rows); -1: zeros
  const int64_t* write = nullptr;  // [segments] in [0, table_rows), different from each other, and
                                   // none the `read` of another segment
  double* sums = nullptr;          // [table_rows, kSegmentRows, d]
  int64_t table_rows = 0;
};

namespace cpu {
/// Throws std::out_of_range naming what lies outside of hidden, order or the table, or a row that
/// two segments share.
void segment_sums(const HiddenView& hidden, const SegmentSumsArgs& args, int threads);
}  // namespace cpu

}  // namespace outdim
