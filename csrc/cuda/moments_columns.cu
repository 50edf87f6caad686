// The column kernel: sums of deviations of every column over the selected rows.
//
//   bytes      s D per row read once; 4 (float64: 8) bytes per covariate, row and tile of columns;
//   labels threads    a block owns a tile of columns (4 per lane, 2 in float64), a run of rows and
//   one group; its 8 warps take
//              the rows in turn. Rows of the run are staged 256 at a time: the selected ones are
//              listed by a prefix sum over ballots, so a row that is left out is never read and
//              costs nothing in the inner loop.
//   precision  a warp adds at most 32 rows of a stage in float32; then the 8 warps' sums go through
//   shared memory into
//              float64 totals, each owned by one thread. Exact: float64 from the load on.
//   order      which thread adds which row depends on N, the labels and the number of SMs alone,
//   and partial states are
//              merged in a fixed order: the same bytes every time on a device. No atomics.
//   pivot      per block, the median of three of its rows (an actual value: h - c is then exact or
//   nearly so)
//
// Lost: the whole width per block with rows walked by all threads in step (ten times the bytes of
// partial states at D = 768); float64 totals of each thread in shared memory (twice the shared
// memory of this scheme).

#include "cuda/common.cuh"
#include "cuda/moments_columns.cuh"

namespace outdim::cuda {
namespace {

constexpr int kThreads = kColumnThreads;
constexpr int kWarps = kThreads / kWarp;

/// The selected rows of a stage, in order.
template <class A, int K, bool Shape>
struct Stage {
  __align__(16) A covariate[kThreads][K];
  A inverse_norm[Shape ? kThreads : 1];
  int64_t offset[kThreads];  // of the row's values, from those of row 0
  int warp_count[kWarps];
};

/// Lists the selected rows of [base, end), at most kThreads, and returns how many there are.
template <class A, int K, bool Shape>
__device__ __forceinline__ int list_rows(const ColumnArgs& args, int64_t base, int64_t end,
                                         Stage<A, K, Shape>& stage, double (&scalar)[1 + K]) {
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int64_t row = base + threadIdx.x;
  const bool selected = row < end && (!args.group || args.group[row] == blockIdx.z + 1);
  const unsigned ballot = __ballot_sync(kAllLanes, selected);
  if (lane == 0) stage.warp_count[warp] = __popc(ballot);
  __syncthreads();
  int slot = __popc(ballot & ((1u << lane) - 1)), count = 0;
#pragma unroll
  for (int w = 0; w < kWarps; ++w) {
    if (w < warp) slot += stage.warp_count[w];
    count += stage.warp_count[w];
  }
  if (selected) {
    stage.offset[slot] = row * args.stride;
    scalar[0] += 1.0;
#pragma unroll
    for (int k = 0; k < K; ++k) {
      const A f = k < args.covariate_count
                      ? static_cast<const A*>(args.covariates)[k * args.n + row]
                      : A(0);
      stage.covariate[slot][k] = f;
      scalar[1 + k] += static_cast<double>(f);
    }
    if constexpr (Shape) stage.inverse_norm[slot] = static_cast<const A*>(args.inverse_norm)[row];
  }
  __syncthreads();
  return count;
}

/// Item (q, i, lane) of the block: the sum over its warps of what their threads of that lane have
/// staged.
template <class A>
__device__ __forceinline__ double warps_sum(const A* staged, int item) {
  const A* first = staged + item / kWarp * kThreads + item % kWarp;
  double sum = 0.0;
#pragma unroll
  for (int w = 0; w < kWarps; ++w) sum += static_cast<double>(first[w * kWarp]);
  return sum;
}

/// Rows loaded ahead of their use; shape statistics need the registers, and compute longer per row.
template <class T, class A, bool Shape>
constexpr int rows_in_flight() {
  return Shape ? 2 : Packet<T, columns_per_thread(sizeof(A) == 8)>::kWords <= 2 ? 8 : 4;
}

/// Dynamic shared memory of a block: what its threads stage, then its totals, of item i owned by
/// thread i % kThreads.
template <class A, int K, bool Shape>
struct Layout {
  static constexpr int V = columns_per_thread(sizeof(A) == 8);
  static constexpr int kItems = sum_rows(K, Shape) * V * kWarp;
  static constexpr int kSumsBytes = sizeof(A) * sum_rows(K, Shape) * V * kThreads;
  static constexpr int kExtremesBytes = Shape ? sizeof(double) * kExtremeRows * V * kThreads : 0;
  static constexpr int kStagedBytes = kSumsBytes > kExtremesBytes ? kSumsBytes : kExtremesBytes;
  static constexpr int kBytes = kStagedBytes + sizeof(double) * kItems;
};

template <class T, class A, int K, bool Shape>
__global__ void __launch_bounds__(kThreads, column_blocks_per_sm(K, Shape))
    column_sums(const ColumnArgs args) {
  using Sums = ColumnSums<A, K, Shape>;
  constexpr bool kExact = sizeof(A) == 8;
  constexpr int V = columns_per_thread(kExact);
  constexpr int kFlight = rows_in_flight<T, A, Shape>();
  constexpr int kItems = Layout<A, K, Shape>::kItems;
  __shared__ Stage<A, K, Shape> stage;
  A* const staged = dynamic_shared<A>();  // [kCount, V, kThreads]
  double* const totals =
      reinterpret_cast<double*>(dynamic_shared<char>() + Layout<A, K, Shape>::kStagedBytes);

  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int64_t tile = static_cast<int64_t>(blockIdx.x) * tile_columns(kExact);
  const int64_t column = tile + lane * V;
  const int valid = args.d <= column      ? 0
                    : args.d - column < V ? static_cast<int>(args.d - column)
                                          : V;
  const bool vector = args.aligned && valid == V;
  const T* const data = static_cast<const T*>(args.data) + (valid ? column : 0);

  Sums sums[V];
  ColumnExtremes extremes[V];
  A pivot[V];
  double scalar[1 + K];
#pragma unroll
  for (int i = 0; i < V; ++i) {
    sums[i].clear();
    extremes[i].clear();
    pivot[i] = A(0);
  }
  for (int item = threadIdx.x; item < kItems; item += kThreads) totals[item] = 0.0;
#pragma unroll
  for (int s = 0; s < 1 + K; ++s) scalar[s] = 0.0;
  bool has_pivot = false;  // the same in all threads of the block

  const auto add_row = [&](const Packet<T, V>& packet, int slot) {
    float h[V];
    unpack<T, V>(packet, h);
    A f[K];
#pragma unroll
    for (int k = 0; k < K; ++k) f[k] = stage.covariate[slot][k];
    const A inverse_norm = Shape ? stage.inverse_norm[slot] : A(0);
#pragma unroll
    for (int i = 0; i < V; ++i) {
      sums[i].add(static_cast<A>(h[i]), pivot[i], f, inverse_norm);
      if constexpr (Shape) extremes[i].add(h[i], args.tau);
    }
  };

  const int64_t begin = blockIdx.y * args.split_rows;
  const int64_t end = begin + args.split_rows < args.n ? begin + args.split_rows : args.n;
  for (int64_t base = begin; base < end; base += kThreads) {
    const int count = list_rows(args, base, end, stage, scalar);
    if (count == 0) continue;
    if (!has_pivot) {
      has_pivot = true;
      float a[V], b[V], c[V];
      unpack<T, V>(load_guarded<T, V>(data + stage.offset[0], valid), a);
      unpack<T, V>(load_guarded<T, V>(data + stage.offset[count / 2], valid), b);
      unpack<T, V>(load_guarded<T, V>(data + stage.offset[count - 1], valid), c);
#pragma unroll
      for (int i = 0; i < V; ++i) pivot[i] = static_cast<A>(median_pivot(a[i], b[i], c[i]));
    }
    int slot = warp;
    for (; slot + (kFlight - 1) * kWarps < count; slot += kFlight * kWarps) {
      Packet<T, V> packet[kFlight];
      if (vector) {
#pragma unroll
        for (int r = 0; r < kFlight; ++r)
          packet[r] = load_aligned<T, V>(data + stage.offset[slot + r * kWarps]);
      } else {
#pragma unroll
        for (int r = 0; r < kFlight; ++r) {
          packet[r] = load_guarded<T, V>(data + stage.offset[slot + r * kWarps], valid);
        }
      }
#pragma unroll
      for (int r = 0; r < kFlight; ++r) add_row(packet[r], slot + r * kWarps);
    }
    for (; slot < count; slot += kWarps)
      add_row(load_guarded<T, V>(data + stage.offset[slot], valid), slot);
    if constexpr (!kExact) {
      // The barriers of the next list_rows keep these reads apart from the next writes.
#pragma unroll
      for (int q = 0; q < Sums::kCount; ++q) {
#pragma unroll
        for (int i = 0; i < V; ++i) staged[(q * V + i) * kThreads + threadIdx.x] = sums[i].sum[q];
      }
#pragma unroll
      for (int i = 0; i < V; ++i) sums[i].clear();
      __syncthreads();
#pragma unroll
      for (int item = threadIdx.x; item < kItems; item += kThreads)
        totals[item] += warps_sum(staged, item);
    }
  }

  const int64_t state = static_cast<int64_t>(blockIdx.z) * args.splits + blockIdx.y;
  __syncthreads();
  if (blockIdx.x == 0) {  // n and the sums of covariates are those of every tile
    double* warp_scalar = reinterpret_cast<double*>(staged);  // [kWarps, 1 + K]
#pragma unroll
    for (int s = 0; s < 1 + K; ++s) {
      const double sum = warp_sum(scalar[s]);
      if (lane == 0) warp_scalar[warp * (1 + K) + s] = sum;
    }
    __syncthreads();
    if (threadIdx.x < 1 + K) {
      double sum = 0.0;
      for (int w = 0; w < kWarps; ++w) sum += warp_scalar[w * (1 + K) + threadIdx.x];
      args.scalars[state * kPartialScalars + threadIdx.x] = sum;
    }
    __syncthreads();
  }
  if (!has_pivot) return;  // n is 0, which says that there is no partial state

  double* const partial = args.partial + state * partial_rows(K, Shape) * args.d;
  if constexpr (kExact) {
#pragma unroll
    for (int q = 0; q < Sums::kCount; ++q) {
#pragma unroll
      for (int i = 0; i < V; ++i) staged[(q * V + i) * kThreads + threadIdx.x] = sums[i].sum[q];
    }
    __syncthreads();
    for (int item = threadIdx.x; item < kItems; item += kThreads)
      totals[item] = warps_sum(staged, item);
  }
  for (int item = threadIdx.x; item < kItems; item += kThreads) {
    const int64_t of = tile + item % kWarp * V + item / kWarp % V;
    if (of < args.d) partial[(1 + item / (kWarp * V)) * args.d + of] = totals[item];
  }
  if (warp == 0) {
#pragma unroll
    for (int i = 0; i < V; ++i) {
      if (i < valid) partial[column + i] = static_cast<double>(pivot[i]);
    }
  }
  if constexpr (Shape) {
    double* const extreme = reinterpret_cast<double*>(staged);  // [kExtremeRows, V, kThreads]
    __syncthreads();
#pragma unroll
    for (int i = 0; i < V; ++i) {
      extreme[(0 * V + i) * kThreads + threadIdx.x] = extremes[i].minimum;
      extreme[(1 * V + i) * kThreads + threadIdx.x] = extremes[i].maximum;
      extreme[(2 * V + i) * kThreads + threadIdx.x] = extremes[i].over;
      extreme[(3 * V + i) * kThreads + threadIdx.x] = extremes[i].nonfinite;
    }
    __syncthreads();
    for (int item = threadIdx.x; item < kExtremeRows * V * kWarp; item += kThreads) {
      const int kind = item / (kWarp * V);
      const double* first = extreme + item / kWarp * kThreads + item % kWarp;
      double value = first[0];
      for (int w = 1; w < kWarps; ++w) {
        const double next = first[w * kWarp];
        value = kind == 0 ? fmin(value, next) : kind == 1 ? fmax(value, next) : value + next;
      }
      const int64_t of = tile + item % kWarp * V + item / kWarp % V;
      if (of < args.d) partial[(1 + Sums::kCount + kind) * args.d + of] = value;
    }
  }
}

template <class T, class A, int K, bool Shape>
void launch_kernel(const ColumnArgs& args, int groups, void* stream) {
  const int64_t tiles = ceil_div<int64_t>(args.d, tile_columns(sizeof(A) == 8));
  launch(&column_sums<T, A, K, Shape>,
         dim3(static_cast<unsigned>(tiles), static_cast<unsigned>(args.splits),
              static_cast<unsigned>(groups)),
         dim3(kThreads), Layout<A, K, Shape>::kBytes, stream, args);
}

template <class T, class A>
void launch_covariates(const ColumnArgs& args, int k, bool shape, int groups, void* stream) {
  if (k == 1) {
    shape ? launch_kernel<T, A, 1, true>(args, groups, stream)
          : launch_kernel<T, A, 1, false>(args, groups, stream);
  } else {
    shape ? launch_kernel<T, A, kMaxCovariates, true>(args, groups, stream)
          : launch_kernel<T, A, kMaxCovariates, false>(args, groups, stream);
  }
}

}  // namespace

void launch_column_sums(const ColumnArgs& args, DType dtype, bool exact, int k, bool shape,
                        int groups, void* stream) {
  with_dtype(dtype, [&](auto type) {
    using T = decltype(type);
    exact ? launch_covariates<T, double>(args, k, shape, groups, stream)
          : launch_covariates<T, float>(args, k, shape, groups, stream);
  });
}

}  // namespace outdim::cuda
