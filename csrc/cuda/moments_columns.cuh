#pragma once

// Launch parameters of the column kernel, which does the work of `moments`; see moments_columns.cu.

#include <cstdint>

#include "core/types.h"
#include "cuda/moments_state.cuh"
#include "cuda/moments_steps.cuh"

namespace outdim::cuda {

constexpr int kColumnThreads = 256;

/// Columns that a thread owns: float64 sums take twice the registers.
OUTDIM_HOST_DEVICE constexpr int columns_per_thread(bool exact) { return exact ? 2 : 4; }
/// Columns that a block owns: a warp wide.
OUTDIM_HOST_DEVICE constexpr int tile_columns(bool exact) { return 32 * columns_per_thread(exact); }
/// Blocks that fit on an SM (the launch bounds), hence the grid.
OUTDIM_HOST_DEVICE constexpr int column_blocks_per_sm(int k, bool shape) {
  return k == 1 && !shape ? 3 : 2;
}

struct ColumnArgs {
  const void* data = nullptr;
  int64_t n = 0;
  int64_t d = 0;
  int64_t stride = 0;
  bool aligned = false;        // rows can be read in packets of columns_per_thread
  CovariateSource covariates;  // of `covariate_count` from covariate `first` on
  int first = 0;
  int covariate_count = 0;             // at most the K of the kernel, the rest counts as 0
  const void* inverse_norm = nullptr;  // [n], with shape
  const uint8_t* group = nullptr;      // [n] or null
  float tau = 0;                       // with shape
  int splits = 0;                      // the rows are cut into this many runs
  int64_t split_rows = 0;              // of this many rows
  double* partial = nullptr;           // [groups, splits, partial_rows(K, shape), d]
  double* scalars = nullptr;           // [groups, splits, kPartialScalars]
};

/// `k` is 1 or kMaxCovariates.
void launch_column_sums(const ColumnArgs& args, DType dtype, bool exact, int k, bool shape,
                        int groups, void* stream);

/// Blocks of that kernel that run on an SM at a time, at most column_blocks_per_sm.
int resident_column_blocks(DType dtype, bool exact, int k, bool shape);

}  // namespace outdim::cuda
