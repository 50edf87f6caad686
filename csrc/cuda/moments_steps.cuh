#pragma once

// The steps around a pass over the data, for `moments` and for the fused layer_norm:
//
//   (the pass) partial states: kernel of moments_columns.cu or layer_norm.cu
//   finalize   partial states, and the state before -> head and body

#include <cstdint>

#include "core/moments.h"
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

  void* inverse_norm = nullptr;  // [n] float32, float64 if exact, with shape
  float* deviation = nullptr;    // [n] of the one covariate, for sums in registers
  double* pivot = nullptr;       // [1] of it
  double* scalars = nullptr;     // [groups, splits, kPartialScalars]
  double* partial = nullptr;     // [groups, splits, partial_rows(k, shape), d]
  int64_t bytes = 0;

  MomentsWorkspace(int64_t n, int64_t d, const MomentsArgs& args, int splits, void* base);
};

/// One block of rows per partial state of the fused kernel; 0 when these statistics cannot be
/// fused.
int fused_blocks(int64_t d, const MomentsArgs& args, int device);

/// Writes the pivot of the one covariate, a value of rows that count, and the deviations from it.
void deviations(int64_t n, const MomentsArgs& args, const MomentsWorkspace& workspace,
                void* stream);

/// Writes the comoments of covariates [first, first + workspace.k), and with first == 0 all the
/// rest.
void finalize(int64_t d, const MomentsArgs& args, const MomentsWorkspace& workspace, int first,
              void* stream);

}  // namespace outdim::cuda
