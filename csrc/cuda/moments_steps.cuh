#pragma once

// The steps around a pass over the data, for `moments` and for the fused layer_norm:
//
//   prepare    per row: deviations of its covariates from their pivots; per group: n, mean and M2
//   of the covariates (the pass) partial states: kernel of moments_columns.cu or layer_norm.cu
//   finalize   partial states -> head and body

#include <cstdint>

#include "core/moments.h"
#include "cuda/moments_state.cuh"

namespace outdim::cuda {

/// Where the steps leave things for each other. `splits` partial states per group.
struct MomentsWorkspace {
  int k = 1;           // covariates of a pass over the data: 1 or kMaxCovariates
  int splits = 0;      // at least 1
  int row_blocks = 0;  // blocks of `prepare` per group

  void* covariates = nullptr;    // [K, n] float32, float64 if exact
  void* inverse_norm = nullptr;  // [n] of the same type, with shape
  double* pivots = nullptr;      // [K]
  double* row_sums = nullptr;    // [groups, row_blocks, 1 + 2 K]
  double* scalars = nullptr;     // [groups, splits, kPartialScalars]
  double* partial = nullptr;     // [groups, splits, partial_rows(k, shape), d]
  int64_t bytes = 0;

  MomentsWorkspace(int64_t n, int64_t d, const MomentsArgs& args, int splits, void* base);
};

/// One block of rows per partial state of the fused kernel; 0 when these statistics cannot be
/// fused.
int fused_blocks(int64_t d, const MomentsArgs& args, int device);

void prepare(int64_t n, const MomentsArgs& args, const MomentsWorkspace& workspace, void* stream);

/// Writes the comoments of covariates [first, first + workspace.k), and with first == 0 all the
/// rest.
void finalize(int64_t d, const MomentsArgs& args, const MomentsWorkspace& workspace, int first,
              void* stream);

}  // namespace outdim::cuda
