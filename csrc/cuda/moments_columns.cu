// The column kernel: sums of deviations of every column over the selected rows.
//
//   bytes      s D per row read once; 8 bytes per covariate, row and tile of columns; labels
//   threads    a block owns a tile of columns (4 per lane, 2 in float64), a run of rows and one
//              group; its 8 warps take the rows in turn. Rows of the run are staged 256 at a time:
//              the selected ones are listed by a prefix sum over ballots, so a row that is left out
//              is never read and costs nothing in the inner loop.
//   covariates looked up when a row is listed, as deviations from the block's pivot; their own sums
//              are taken by the blocks of the first tile from what is listed
//   precision  a warp adds at most 32 rows of a stage in float32; then the 8 warps' sums go through
//              shared memory into float64 totals, each owned by one thread. Exact: float64 from the
//              load on.
//   order      which thread adds which row depends on N, the labels and the number of SMs alone,
//              and partial states are merged in a fixed order: the same bytes every time on a
//              device. No atomics.
//   pivot      per block, the median of three of its rows (an actual value: h - c is then exact or
//              nearly so); of a covariate likewise, of rows that are selected
//
// Lost: the whole width per block with rows walked by all threads in step (ten times the bytes of
// partial states at D = 768); float64 totals of each thread in shared memory (twice the shared
// memory of this scheme); a kernel of its own for the covariates (a launch a point, and the sums of
// covariates in registers of every thread here).

#include "cuda/common.cuh"
#include "cuda/moments_columns.cuh"

namespace outdim::cuda {
namespace {

constexpr int kThreads = kColumnThreads;
constexpr int kWarps = kThreads / kWarp;

/// The selected rows of a stage, in order, and what the stages add up of their covariates.
template <class A, int K, bool Shape>
struct Stage {
  __align__(16) A covariate[kThreads][K];
  A inverse_norm[Shape ? kThreads : 1];
  int64_t offset[kThreads];  // of the row's values, from those of row 0
  int warp_count[kWarps];
  double candidate[3][K];
  double pivot[K];
  double sum[K];
  double square[K];
};

/// Lists the selected rows of [base, end), at most kThreads, and returns how many there are. The
/// first that there are give the pivots of the covariates.
template <class A, int K, bool Shape>
__device__ __forceinline__ int list_rows(const ColumnArgs& args, int64_t base, int64_t end,
                                         bool has_pivot, Stage<A, K, Shape>& stage) {
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
  double value[K];
#pragma unroll
  for (int k = 0; k < K; ++k)
    value[k] = selected && k < args.covariate_count ? args.covariates.at(args.first + k, row) : 0.0;
  if (!has_pivot && count > 0) {
    const int slots[3] = {0, count / 2, count - 1};
#pragma unroll
    for (int c = 0; c < 3; ++c) {
      if (!selected || slot != slots[c]) continue;
#pragma unroll
      for (int k = 0; k < K; ++k) stage.candidate[c][k] = value[k];
    }
    __syncthreads();
    if (threadIdx.x < K) {
      const int k = threadIdx.x;
      stage.pivot[k] =
          covariate_pivot(stage.candidate[0][k], stage.candidate[1][k], stage.candidate[2][k]);
    }
    __syncthreads();
  }
  if (selected) {
    stage.offset[slot] = row * args.stride;
#pragma unroll
    for (int k = 0; k < K; ++k)
      stage.covariate[slot][k] = static_cast<A>(value[k] - stage.pivot[k]);
    if constexpr (Shape) stage.inverse_norm[slot] = static_cast<const A*>(args.inverse_norm)[row];
  }
  __syncthreads();
  return count;
}

/// Adds the covariates of the listed rows, as they are listed, to the sums: a warp a covariate.
template <class A, int K, bool Shape>
__device__ __forceinline__ void add_covariates(Stage<A, K, Shape>& stage, int count) {
  const int lane = threadIdx.x % kWarp, k = threadIdx.x / kWarp;
  if (k >= K) return;
  double sum = 0.0, square = 0.0;
  for (int slot = lane; slot < count; slot += kWarp) {
    const double f = static_cast<double>(stage.covariate[slot][k]);
    sum += f;
    square += f * f;
  }
  sum = warp_sum(sum);
  square = warp_sum(square);
  if (lane == 0) {
    stage.sum[k] += sum;
    stage.square[k] += square;
  }
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
  int rows = 0;
#pragma unroll
  for (int i = 0; i < V; ++i) {
    sums[i].clear();
    extremes[i].clear();
    pivot[i] = A(0);
  }
  for (int item = threadIdx.x; item < kItems; item += kThreads) totals[item] = 0.0;
  if (threadIdx.x < K) stage.sum[threadIdx.x] = stage.square[threadIdx.x] = 0.0;
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
    const int count = list_rows(args, base, end, has_pivot, stage);
    if (count == 0) continue;
    rows += count;
    if (blockIdx.x == 0) add_covariates(stage, count);
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
    double* const scalars = args.scalars + state * kPartialScalars;
    if (threadIdx.x == 0) {
      scalars[0] = rows;
      scalars[1] = rows ? 1.0 / rows : 0.0;
    }
    if (threadIdx.x < K) {
      const int k = threadIdx.x;
      scalars[pivot_scalar(k)] = has_pivot ? stage.pivot[k] : 0.0;
      scalars[sum_scalar(k)] = stage.sum[k];
      scalars[square_scalar(k)] = stage.square[k];
    }
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
  launch<&column_sums<T, A, K, Shape>>(
      dim3(static_cast<unsigned>(tiles), static_cast<unsigned>(args.splits),
           static_cast<unsigned>(groups)),
      dim3(kThreads), Layout<A, K, Shape>::kBytes, stream, args);
}

/// Calls `use` with the types and numbers of the kernel as template arguments.
template <class Use>
auto with_kernel(DType dtype, bool exact, int k, bool shape, Use&& use) {
  return with_dtype(dtype, [&](auto type) {
    using T = decltype(type);
    const auto with_sums = [&](auto sums) {
      using A = decltype(sums);
      constexpr int M = kMaxCovariates;
      if (k == 1)
        return shape ? use.template operator()<T, A, 1, true>()
                     : use.template operator()<T, A, 1, false>();
      return shape ? use.template operator()<T, A, M, true>()
                   : use.template operator()<T, A, M, false>();
    };
    return exact ? with_sums(double{}) : with_sums(float{});
  });
}

struct Launch {
  const ColumnArgs& args;
  int groups;
  void* stream;
  template <class T, class A, int K, bool Shape>
  void operator()() const {
    launch_kernel<T, A, K, Shape>(args, groups, stream);
  }
};

struct Resident {
  template <class T, class A, int K, bool Shape>
  int operator()() const {
    return resident_blocks<&column_sums<T, A, K, Shape>>(kThreads, Layout<A, K, Shape>::kBytes);
  }
};

}  // namespace

void launch_column_sums(const ColumnArgs& args, DType dtype, bool exact, int k, bool shape,
                        int groups, void* stream) {
  with_kernel(dtype, exact, k, shape, Launch{args, groups, stream});
}

int resident_column_blocks(DType dtype, bool exact, int k, bool shape) {
  const int blocks = with_kernel(dtype, exact, k, shape, Resident{});
  return blocks < column_blocks_per_sm(k, shape) ? blocks : column_blocks_per_sm(k, shape);
}

}  // namespace outdim::cuda
