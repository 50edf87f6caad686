#pragma once

// The row kernel of layer_norm: how threads map to rows and columns, its shared memory, its
// parameters.

#include <cstdint>

#include "core/layer_norm.h"
#include "cuda/common.cuh"
#include "cuda/moments_state.cuh"

namespace outdim::cuda {

/// What the kernel reduces besides writing y.
enum class Fused : int { kNothing, kInput, kOutput };

/// Threads of a block at most, and with that its registers. Wide blocks take 16 columns a thread
/// and one row at a time, the others 8 columns and several rows.
constexpr int kFusedThreads = 384;
constexpr int kNarrowThreads = 512;
constexpr int kWideThreads = 1024;
constexpr int columns_of_thread(int max_threads) { return max_threads == kWideThreads ? 16 : 8; }
constexpr int64_t kNarrowWidth = int64_t{kNarrowThreads} * columns_of_thread(kNarrowThreads);

/// Groups of warps of a block work on rows of their own, each with a named barrier. At most so many
/// of a block of at most `max_threads`: blocks without statistics have 8 warps.
constexpr int max_row_groups(int max_threads) {
  return max_threads == kFusedThreads ? kFusedThreads / kWarp : max_threads == kWideThreads ? 1 : 8;
}
static_assert(max_row_groups(kFusedThreads) <= 15, "there are 15 named barriers");

/// Rows of a group per step: 64 bytes a thread in flight, half of that where the registers are
/// needed for else.
template <class T, int MaxThreads, bool General, Fused F>
constexpr int rows_per_step() {
  if (MaxThreads == kWideThreads) return 1;
  return (sizeof(T) == 4 ? 2 : 4) /
         (General || (F != Fused::kNothing && MaxThreads == kNarrowThreads) ? 2 : 1);
}

struct RowsArgs {
  LayerNormArgs norm;
  int warps = 1;         // per row
  int row_groups = 1;    // per block
  bool aligned = false;  // every row of every tensor can be accessed 16 bytes at a time

  // Statistics of the rows of group 1, or of all rows without groups.
  const uint8_t* group = nullptr;
  const float* covariate = nullptr;  // [n] deviations from the pivot; null: none
  const double* pivot = nullptr;     // of the covariate
  double* partial = nullptr;         // [gridDim.x, partial_rows(1, false), d]
  double* scalars = nullptr;         // [gridDim.x, kPartialScalars]
};

using FusedSums = ColumnSums<float, 1, false>;

/// Dynamic shared memory: gamma and beta as float32, then float64 totals of each thread's sums.
inline size_t rows_shared_bytes(int warps, int row_groups, int max_threads, Fused fused) {
  const size_t columns = static_cast<size_t>(warps) * kWarp * columns_of_thread(max_threads);
  const size_t totals =
      fused == Fused::kNothing ? 0 : sizeof(double) * FusedSums::kCount * columns * row_groups;
  return 2 * sizeof(float) * columns + totals;
}

}  // namespace outdim::cuda
