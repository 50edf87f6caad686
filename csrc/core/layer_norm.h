#pragma once

// [residual add +] LayerNorm or RMSNorm + edit of dimensions [+ moments of its input or output].
//
//   s = x + residual                                          rounded to the storage type, as the
//                                                             unfused sequence would
//   z = (s - mean s) / sqrt(var s + eps) * gamma + beta       LayerNorm
//   z = s / sqrt(mean s^2 + eps) * gamma + beta               RMSNorm
//   y = clamp(z, -clip, clip) * scale + shift                 edit: rows of [M, D] tables, one for
//                                                             each row of x, or all for each
//
// where scale == 0 gives shift whatever z is (also NaN). `dim_mask` is the simple form: 0 zeroes
// gamma and beta.
//
// An edit is affine, y = x_hat (gamma scale) + (beta scale + shift), and then clamped to shift -+
// clip |scale|: tables of gamma', beta' and the bounds are the whole of it. The CPU makes them once
// a call; CUDA kernels, bound by memory, edit z as above and spare a launch.

#include <cstdint>

#include "core/moments.h"
#include "core/types.h"

namespace outdim {

struct LayerNormArgs {
  DType dtype = DType::kFloat32;  // of x, residual, sum and y
  int64_t n = 0;
  int64_t d = 0;
  const void* x = nullptr;
  int64_t x_stride = 0;
  const void* residual = nullptr;  // [n, d] or null
  int64_t residual_stride = 0;
  void* sum = nullptr;  // [n, d] contiguous, receives s; null when not wanted
  void* y = nullptr;
  int64_t y_stride = 0;

  DType param_dtype = DType::kFloat32;  // of gamma and beta
  const void* gamma = nullptr;          // [d] or null (ones)
  const void* beta = nullptr;           // [d] or null (zeros)
  double eps = 1e-5;
  bool rms = false;

  const uint8_t* dim_mask = nullptr;  // [d], 0 disables the dimension; null: all kept
  const float* scale = nullptr;       // [variants, d]; null: no edit
  const float* shift = nullptr;       // [variants, d], with scale
  const float* clip = nullptr;        // [variants, d] bounds, or null
  const int32_t* variant = nullptr;   // [n] row of the tables for each row; null: row 0
  int64_t variants = 0;
  bool each = false;  // every row of x with every variant: y is [variants, n, d], variant null
};

/// Which tensor the fused statistics are of.
enum class Observed : int { kInput = 0, kOutput = 1 };

namespace cpu {
/// `stats` may be null. Fused statistics are bit-equal to `moments` on the stored tensor. Throws
/// std::out_of_range naming the row for a variant outside the tables, and as `moments` for an id.
void layer_norm(const LayerNormArgs& args, const MomentsArgs* stats, Observed observed,
                int threads);
}  // namespace cpu

}  // namespace outdim
