#pragma once

// The row kernel of layer_norm: how threads map to rows and columns, its shared memory, its
// parameters.

#include <cstdint>

#include "core/layer_norm.h"
#include "cuda/common.cuh"

namespace outdim::cuda {

/// The rows whose norms the kernel leaves for `moments`, which has a use for them with shape.
enum class Norms : int { kNothing, kInput, kOutput };

/// Threads of a block at most, and with that its registers. Wide blocks take 16 columns a thread
/// and one row at a time, the others 8 columns and several rows.
constexpr int kNarrowThreads = 512;
constexpr int kWideThreads = 1024;
constexpr int columns_of_thread(int max_threads) { return max_threads == kWideThreads ? 16 : 8; }
constexpr int64_t kNarrowWidth = int64_t{kNarrowThreads} * columns_of_thread(kNarrowThreads);

/// Warps of a block, but for rows that need more. Groups of them work on rows of their own, each
/// with a named barrier.
constexpr int kBlockWarps = 8;
constexpr int max_row_groups(int max_threads) {
  return max_threads == kWideThreads ? 1 : kBlockWarps;
}
static_assert(kBlockWarps <= 15, "there are 15 named barriers");

/// Rows of a group per step: 64 bytes a thread in flight, half of that where the registers are
/// needed for else.
template <class T, int MaxThreads, bool General>
constexpr int rows_per_step() {
  if (MaxThreads == kWideThreads) return 1;
  return (sizeof(T) == 4 ? 2 : 4) / (General ? 2 : 1);
}

struct RowsArgs {
  LayerNormArgs norm;
  int warps = 1;         // per row
  int row_groups = 1;    // per block
  bool aligned = false;  // every row of every tensor can be accessed 16 bytes at a time

  void* inverse_norm = nullptr;  // [n] float64 if exact, else float32; with Norms
  bool exact = false;
};

/// Dynamic shared memory: gamma and beta as float32.
inline size_t rows_shared_bytes(int warps, int max_threads) {
  return 2 * sizeof(float) * warps * kWarp * columns_of_thread(max_threads);
}

}  // namespace outdim::cuda
