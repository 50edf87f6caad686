#pragma once

// The parts of the row kernel of layer_norm: access to rows, statistics of a row, edits, partial
// states.

#include "cuda/layer_norm.cuh"
#include "cuda/moments_state.cuh"

namespace outdim::cuda {

constexpr int kMaxWarps = 32;  // per block

/// Shared by the groups of warps of a block; a step leaves things by its parity.
template <int R>
struct RowShared {
  float2 warp[2]
             [kMaxWarps * R];  // of a warp in a row: sum, squared deviations from the warp's mean
  double squares[2][kMaxWarps * R];  // of a warp in a row whose norm is wanted
  float2 columns[kMaxWarps];         // of a warp: number of its columns, and its inverse
};

/// Barrier of the `threads` threads of a group of warps, of which there are at most kGroups. Its id
/// is known to the compiler: for one that is not, all 16 barriers of a block are reserved.
template <int kGroups>
__device__ __forceinline__ void group_barrier(int group, int threads) {
  if (kGroups == 1 || group == kGroups - 1) {
    named_barrier<kGroups>(threads);
  } else {
    group_barrier<kGroups == 1 ? 1 : kGroups - 1>(group, threads);
  }
}

/// The columns of a thread: C runs of V.
template <int V, int C>
struct OwnColumns {
  int first;  // of the first run
  int step;   // between runs
  int d;
  bool full;  // all exist, and rows can be accessed 16 bytes at a time

  __device__ __forceinline__ OwnColumns(int t, int width, int d, bool aligned)
      : first(t * V), step(width * V), d(d), full(aligned && first + (C - 1) * step + V <= d) {}

  /// Columns of run j that exist.
  __device__ __forceinline__ int valid(int j) const { return max(0, min(V, d - first - j * step)); }
};

/// Loads R rows from `row` on; what is not there is zero.
template <class T, int R, int V, int C>
__device__ __forceinline__ void load_rows(Packet<T, V> (&rows)[R][C], const void* data,
                                          int64_t stride, int64_t row, int64_t n,
                                          const OwnColumns<V, C>& own) {
  const T* const p = static_cast<const T*>(data) + row * stride + own.first;
  if (own.full && row + R <= n) {
#pragma unroll
    for (int r = 0; r < R; ++r) {
#pragma unroll
      for (int j = 0; j < C; ++j) rows[r][j] = load_aligned<T, V>(p + r * stride + j * own.step);
    }
  } else {
#pragma unroll
    for (int r = 0; r < R; ++r) {
#pragma unroll
      for (int j = 0; j < C; ++j) {
        rows[r][j] =
            load_guarded<T, V>(p + r * stride + j * own.step, row + r < n ? own.valid(j) : 0);
      }
    }
  }
}

/// Stores run j of R rows from `row` on.
template <class T, int R, int V, int C>
__device__ __forceinline__ void store_run(const Packet<T, V> (&rows)[R], int j, void* data,
                                          int64_t stride, int64_t row, int64_t n,
                                          const OwnColumns<V, C>& own) {
  T* const p = static_cast<T*>(data) + row * stride + own.first + j * own.step;
  if (own.full && row + R <= n) {
#pragma unroll
    for (int r = 0; r < R; ++r) store_aligned<T, V>(p + r * stride, rows[r]);
  } else {
#pragma unroll
    for (int r = 0; r < R; ++r)
      store_guarded<T, V>(p + r * stride, rows[r], row + r < n ? own.valid(j) : 0);
  }
}

/// V values of a table in shared memory, 16 bytes at a time.
template <int V>
__device__ __forceinline__ void load_shared(const float* from, float (&to)[V]) {
#pragma unroll
  for (int i = 0; i < V; i += 4) {
    const float4 four = *reinterpret_cast<const float4*>(from + i);
    to[i] = four.x;
    to[i + 1] = four.y;
    to[i + 2] = four.z;
    to[i + 3] = four.w;
  }
}

__device__ __forceinline__ float parameter(const void* values, DType dtype, int64_t i) {
  switch (dtype) {
    case DType::kFloat32:
      return static_cast<const float*>(values)[i];
    case DType::kFloat16:
      return __half2float(static_cast<const __half*>(values)[i]);
    default:
      return __bfloat162float(static_cast<const __nv_bfloat16*>(values)[i]);
  }
}

/// gamma and beta with disabled dimensions zeroed; zero beyond D.
__device__ __forceinline__ void load_parameters(const LayerNormArgs& norm, int columns,
                                                float* gamma, float* beta) {
  for (int c = threadIdx.x; c < columns; c += blockDim.x) {
    const bool kept = c < norm.d && (!norm.dim_mask || norm.dim_mask[c]);
    gamma[c] = !kept ? 0.0f : norm.gamma ? parameter(norm.gamma, norm.param_dtype, c) : 1.0f;
    beta[c] = kept && norm.beta ? parameter(norm.beta, norm.param_dtype, c) : 0.0f;
  }
}

/// Adds the residual, which was loaded with x.
template <class T, int R, int V, int C>
__device__ __forceinline__ void add_residual(float (&h)[R][C * V],
                                             const Packet<T, V> (&residual)[R][C]) {
#pragma unroll
  for (int r = 0; r < R; ++r) {
#pragma unroll
    for (int j = 0; j < C; ++j) {
      float other[V];
      unpack<T, V>(residual[r][j], other);
#pragma unroll
      for (int i = 0; i < V; ++i) h[r][j * V + i] += other[i];
    }
  }
}

/// Rounds x + residual to T and stores it where the sum is wanted; in place.
template <class T, int R, int V, int C>
__device__ __forceinline__ void round_sum(float (&h)[R][C * V], const LayerNormArgs& norm,
                                          int64_t row, const OwnColumns<V, C>& own) {
#pragma unroll
  for (int j = 0; j < C; ++j) {
    Packet<T, V> sum[R];
#pragma unroll
    for (int r = 0; r < R; ++r) {
      float* const s = h[r] + j * V;
      sum[r] = pack<T, V>(s);
      unpack<T, V>(sum[r], s);
    }
    if (norm.sum) store_run(sum, j, norm.sum, norm.d, row, norm.n, own);
  }
}

/// The number of columns of each warp of a row, and its inverse.
template <int V, int C>
__device__ __forceinline__ void count_columns(float2* of_warp, int warps, int d) {
  const int warp = threadIdx.x;
  if (warp >= warps) return;
  int count = 0;
  for (int j = 0; j < C; ++j) count += max(0, min(kWarp * V, d - (j * warps + warp) * kWarp * V));
  of_warp[warp] = make_float2(count, 1.0f / max(count, 1));
}

/// The warp's part of R rows: in lane l, of row l / (32 / R), its sum and the squared deviations
/// from its own mean.
template <int R, int V, int C>
__device__ __forceinline__ float2 warp_moments(const float (&h)[R][C * V], float inverse_columns,
                                               bool rms, int lane, const OwnColumns<V, C>& own) {
  float part[R];
#pragma unroll
  for (int r = 0; r < R; ++r) {
    part[r] = 0.0f;
#pragma unroll
    for (int i = 0; i < C * V; ++i) part[r] += h[r][i];  // zero beyond D
  }
  const float total = rms ? 0.0f : warp_sums<R>(part, lane);
  const float mean = total * inverse_columns;
  float centre[R];
#pragma unroll
  for (int r = 0; r < R; ++r) centre[r] = __shfl_sync(kAllLanes, mean, r * (kWarp / R));
  if (own.full) {
#pragma unroll
    for (int r = 0; r < R; ++r) {
      part[r] = 0.0f;
#pragma unroll
      for (int i = 0; i < C * V; ++i) part[r] += (h[r][i] - centre[r]) * (h[r][i] - centre[r]);
    }
  } else {
#pragma unroll
    for (int r = 0; r < R; ++r) {
      part[r] = 0.0f;
#pragma unroll
      for (int i = 0; i < C * V; ++i) {
        const float deviation = i % V < own.valid(i / V) ? h[r][i] - centre[r] : 0.0f;
        part[r] += deviation * deviation;
      }
    }
  }
  return make_float2(total, warp_sums<R>(part, lane));
}

/// Chan's sum over the warps of a row, dealt to `kLanes` lanes: the row's mean and mean square
/// deviation from it, the same bits in each of the lanes. All terms are positive.
template <int kLanes>
__device__ __forceinline__ float2 row_moments(const float2* of_warp, const float2* columns,
                                              int warps, int lane, float inverse_d) {
  float total = 0.0f;
  for (int w = lane % kLanes; w < warps; w += kLanes) total += of_warp[w].x;
#pragma unroll
  for (int offset = kLanes / 2; offset >= 1; offset /= 2)
    total += __shfl_xor_sync(kAllLanes, total, offset);
  const float mean = total * inverse_d;
  float squares = 0.0f;
  for (int w = lane % kLanes; w < warps; w += kLanes) {
    const float deviation = of_warp[w].x * columns[w].y - mean;
    squares += of_warp[w].y + columns[w].x * deviation * deviation;
  }
#pragma unroll
  for (int offset = kLanes / 2; offset >= 1; offset /= 2)
    squares += __shfl_xor_sync(kAllLanes, squares, offset);
  return make_float2(mean, squares * inverse_d);
}

/// y of one value: clamp(z, -clip, clip) * scale + shift, and shift alone where scale is 0. NaN
/// stays NaN.
__device__ __forceinline__ float edited(float z, float scale, float shift, const float* clip) {
  if (clip) {
    const float bound = *clip;
    z = z < -bound ? -bound : z > bound ? bound : z;
  }
  return scale == 0.0f ? shift : z * scale + shift;
}

/// Applies the edit of a row to V values of it; a variant that the tables do not have makes them
/// NaN.
template <int V>
__device__ __forceinline__ void edit_values(const LayerNormArgs& norm, int64_t row, int64_t each,
                                            int column, int valid, float (&z)[V]) {
  const int64_t variant = norm.variant ? norm.variant[row] : each;
  const bool known = variant >= 0 && variant < norm.variants;
  const int64_t first = (known ? variant : 0) * norm.d + column;
#pragma unroll
  for (int i = 0; i < V; ++i) {
    if (i >= valid) continue;
    const int64_t e = first + i;
    z[i] = known ? edited(z[i], norm.scale[e], norm.shift[e], norm.clip ? norm.clip + e : nullptr)
                 : NAN;
  }
}

/// The warp's part of the norms of R rows: in lane l, of row l / (32 / R), the sum of its squares.
template <int R, int V, int C>
__device__ __forceinline__ double warp_squares(const float (&h)[R][C * V], int lane,
                                               const OwnColumns<V, C>& own) {
  double part[R];
#pragma unroll
  for (int r = 0; r < R; ++r) {
    part[r] = 0.0;
#pragma unroll
    for (int i = 0; i < C * V; ++i) {
      if (own.full || i % V < own.valid(i / V)) part[r] += static_cast<double>(h[r][i]) * h[r][i];
    }
  }
  return warp_sums<R>(part, lane);
}

/// Writes 1 / ||h|| of a row, whose squares its warps have left.
__device__ __forceinline__ void write_norm(const RowsArgs& args, int64_t row,
                                           const double* of_warp) {
  if (row >= args.norm.n) return;
  double squares = 0.0;
  for (int w = 0; w < args.warps; ++w) squares += of_warp[w];
  if (args.exact) {
    static_cast<double*>(args.inverse_norm)[row] = inverse_root<double>(squares);
  } else {
    static_cast<float*>(args.inverse_norm)[row] = inverse_root<float>(squares);
  }
}

}  // namespace outdim::cuda
