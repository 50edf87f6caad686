#pragma once

// The steps of `moments`, for itself and for layer_norm, which can take the first of them:
//
//   norms      of the rows, with shape: kernel of moments.cu, or of layer_norm.cu on the way
//   the pass   partial states: kernel of moments_columns.cu
//   finalize   partial states, and the state before -> head and body: kernel of moments.cu

#include <cstdint>

#include "core/moments.h"
#include "cuda/kernels.h"
#include "cuda/moments_state.cuh"

namespace outdim::cuda {

/// Partial states of a group at most, which bounds the shared memory of `finalize`.
constexpr int kMaxSplits = 512;

/// The covariates of the rows.
struct CovariateSource {
  const int64_t* ids = nullptr;
  const double* table = nullptr;
  int64_t vocab = 0;
  int table_covariates = 0;
  const double* rows = nullptr;
  int64_t n = 0;

  CovariateSource() = default;
  CovariateSource(const MomentsArgs& args, int64_t n)
      : ids(args.ids),
        table(args.table),
        vocab(args.vocab),
        table_covariates(args.table_covariates),
        rows(args.rows),
        n(n) {}

  /// Covariate k of a row; NaN for an id outside the table.
  OUTDIM_HOST_DEVICE double at(int k, int64_t row) const {
    if (k >= table_covariates) return rows[(k - table_covariates) * n + row];
    const int64_t id = ids[row];
    return id >= 0 && id < vocab ? table[k * vocab + id] : NAN;
  }
};

/// Where the steps leave things for each other. `splits` partial states per group.
struct MomentsWorkspace {
  int k = 1;       // covariates of a pass over the data: 1 or kMaxCovariates
  int splits = 0;  // at most kMaxSplits

  void* inverse_norm = nullptr;  // [n] float32, float64 if exact, with shape; whatever the splits
  double* scalars = nullptr;     // [groups, splits, kPartialScalars]
  double* partial = nullptr;     // [groups, splits, partial_rows(k, shape), d]
  int64_t bytes = 0;

  MomentsWorkspace(int64_t n, int64_t d, const MomentsArgs& args, int splits, void* base);
};

/// `moments` of rows whose norms may lie in the workspace already.
void moments_of(const HiddenView& hidden, const MomentsArgs& args, const Context& context,
                bool has_norms);

}  // namespace outdim::cuda
