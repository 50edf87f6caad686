#pragma once

// Masked one-pass moments of hidden states [N, D] against per-token covariates.
//
// For every group g of selected rows, with y in {h, |h|} and covariates x_k:
//
//   head[g]  : n, mean x_0..x_{K-1}, M2 x_0..x_{K-1}
//   body[g]  : rows of length D, in the order of BodyRow, then comoments C(x_k, h), C(x_k, |h|)
//
// M2, M3, M4 are sums of powers of deviations from the mean; everything is float64. States of
// disjoint rows merge by Chan's and Pebay's formulas (moments_merge.h), always in row order, so the
// same rows give the same bytes whatever the number of threads.

#include <cstdint>

#include "core/types.h"

namespace outdim {

/// Rows of `body` present in every state.
enum BodyRow : int { kMean = 0, kM2 = 1, kMeanAbs = 2, kM2Abs = 3, kBaseRows = 4 };

/// Rows after the base rows and the 2 K comoments (all [K] of h, then all [K] of |h|), when `shape`
/// is asked for.
enum ShapeRow : int {
  kM3 = 0,  // third and fourth central sums of h
  kM4 = 1,
  kMin = 2,  // over the values that are not NaN; +inf, -inf when there are none
  kMax = 3,
  kCountOver = 4,  // number of |h| >= tau
  kUnitSum = 5,    // sum of h / ||h|| over rows with a finite, nonzero norm
  kNonfinite = 6,  // number of NaN and infinite values
  kShapeRows = 7
};

constexpr int64_t head_size(int covariates) { return 1 + 2 * static_cast<int64_t>(covariates); }
constexpr int64_t body_rows(int covariates, bool shape) {
  return kBaseRows + 2 * static_cast<int64_t>(covariates) + (shape ? kShapeRows : 0);
}

struct MomentsArgs {
  // Covariates by token id: table[k * vocab + ids[row]]; then covariates given per row: rows[k * n
  // + row].
  const int64_t* ids = nullptr;  // [n], needed when table_covariates > 0
  const double* table = nullptr;
  int64_t vocab = 0;
  int table_covariates = 0;
  const double* rows = nullptr;
  int row_covariates = 0;

  const uint8_t* group =
      nullptr;  // [n]: 0 leaves the row out, g counts it in state g - 1; null: all in state 0
  int groups = 1;

  double tau = 6.0;  // threshold of kCountOver
  // The state of earlier rows, in the layout of head and body and apart from them; null: none. What
  // is written is then the state of those rows and these together: that of these alone, merged
  // behind it. So a stream keeps two states, and a batch that fails has changed neither.
  const double* before_head = nullptr;
  const double* before_body = nullptr;
  // float64 after the load; otherwise, on a GPU (the CPU gains nothing by it), float32 partial sums
  // flushed to float64, the covariates rounded to float32 after their pivot (mean and M2 of x are
  // then those of the rounded ones).
  bool exact = true;
  bool shape = true;

  double* head = nullptr;  // [groups, head_size(K)], written, not added to
  double* body = nullptr;  // [groups, body_rows(K, shape), d]

  constexpr int covariates() const { return table_covariates + row_covariates; }
};

/// A row-strided view of hidden states; columns are contiguous.
struct HiddenView {
  const void* data = nullptr;
  DType dtype = DType::kFloat32;
  int64_t n = 0;
  int64_t d = 0;
  int64_t stride = 0;  // elements between rows
};

namespace cpu {
/// Throws std::out_of_range naming the row when its group is above `groups`, or when it is selected
/// and its id outside [0, vocab).
void moments(const HiddenView& hidden, const MomentsArgs& args, int threads);

/// The state of `groups` groups on the host.
struct MomentsStateView {
  const double* head = nullptr;  // [groups, head_size(covariates)]
  const double* body = nullptr;  // [groups, body_rows(covariates, shape), d]
};
/// Merges the rows of `later` behind those of `earlier`; the results lie apart from both. A state
/// of no rows leaves the bytes of the other.
void merge_moments(int groups, int covariates, bool shape, int64_t d,
                   const MomentsStateView& earlier, const MomentsStateView& later, double* head,
                   double* body);
}  // namespace cpu

}  // namespace outdim
