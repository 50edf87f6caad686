// LayerNorm, RMSNorm, residual, edit, and the norms of rows for the moments that follow.
//
//   bytes      2 s D per row (s bytes an element), 4 s D with residual and sum; 4 or 8 for a norm
//   threads    blocks stay for the whole call and take steps of row_groups x R rows; thread t of a
//              group of warps owns columns (j threads + t) V + i: 16-byte accesses, the next step's
//              loads in flight during this one
//   mean, var  each warp: its mean, then the squared deviations from it; one barrier; then Chan's
//              sum over the warps, all terms positive. No E[x^2] - E[x]^2, no second barrier.
//   norms      of rows as they are stored, in float64: a warp leaves its sum of squares, which is
//              read behind the barrier of the next step
//   moments    by their own kernels, of the stored tensor: a batch of 4,096 rows is in the L2 cache
//   order      what a row gives depends on nothing but the row; no atomics
//
// Lost: E[x^2] - E[x]^2 with a second pass where it cancels (a rare, block-wide branch that costs
// registers); gamma and beta in registers (16 of them; from shared memory they cost 1/8 of an
// instruction per element). Given up: sums of moments in registers here. A block then leaves a
// state of its own for all columns, with four covariates and shape 19 rows of float64 a group:
// written and read, as many bytes as 152 rows of bfloat16, and a batch of 4,096 has 31 a block
// of 132.

#include <algorithm>

#include "cuda/kernels.h"
#include "cuda/layer_norm_parts.cuh"
#include "cuda/moments_steps.cuh"

namespace outdim::cuda {
namespace {

template <class T, int MaxThreads, bool General, Norms F>
__global__ void __launch_bounds__(MaxThreads, 1) normalise_rows(const RowsArgs args) {
  constexpr int V = 16 / sizeof(T);
  constexpr int kColumns = columns_of_thread(MaxThreads);
  constexpr int C = kColumns / V;
  constexpr int R = rows_per_step<T, MaxThreads, General>();
  constexpr int kLanes = kWarp / R;  // lanes that share the statistics of a row
  constexpr bool kNorms = F != Norms::kNothing;
  // Whether the next rows are loaded before this step's are done with: wide rows lack the
  // registers.
  constexpr bool kAhead = MaxThreads != kWideThreads;
  __shared__ RowShared<R> shared;
  const LayerNormArgs& norm = args.norm;
  const int width = args.warps * kWarp;  // threads per row
  float* const gamma = dynamic_shared<float>();
  float* const beta = gamma + width * kColumns;

  const int lane = threadIdx.x % kWarp, group = threadIdx.x / width, t = threadIdx.x % width,
            warp = t / kWarp;
  const int d = static_cast<int>(norm.d);
  const OwnColumns<V, C> own(t, width, d, args.aligned);
  load_parameters(norm, width * kColumns, gamma, beta);
  count_columns<V, C>(shared.columns, args.warps, d);
  __syncthreads();

  Packet<T, V> next[R][C], next_residual[R][C];
  const auto load_step = [&](int64_t row) {
    load_rows(next, norm.x, norm.x_stride, row, norm.n, own);
    if (General && norm.residual)
      load_rows(next_residual, norm.residual, norm.residual_stride, row, norm.n, own);
  };

  const int64_t block_rows = args.row_groups * R;
  int64_t base = blockIdx.x * block_rows;
  int64_t before = norm.n;  // row of the step before; n: none
  int parity = 0;
  const auto write_norms = [&]() {  // of the step before, behind a barrier
    if (t < R)
      write_norm(args, before + t, &shared.squares[parity ^ 1][(group * R + t) * args.warps]);
  };
  if (kAhead) load_step(base + group * R);
  for (; base < norm.n; base += gridDim.x * block_rows, parity ^= 1) {
    const int64_t row = base + group * R;
    if (!kAhead) load_step(row);
    float h[R][kColumns];
#pragma unroll
    for (int r = 0; r < R; ++r) {
#pragma unroll
      for (int j = 0; j < C; ++j) unpack<T, V>(next[r][j], h[r] + j * V);
    }
    if (General && norm.residual) add_residual(h, next_residual);
    if (kAhead) load_step(row + gridDim.x * block_rows);
    if (General && (norm.residual || norm.sum)) round_sum<T>(h, norm, row, own);

    const float2 of_warp = warp_moments<R, V, C>(h, shared.columns[warp].y, norm.rms, lane, own);
    if (lane % kLanes == 0)
      shared.warp[parity][(group * R + lane / kLanes) * args.warps + warp] = of_warp;
    // The only barrier of a step: what it separates is double buffered by parity. Groups of warps
    // go their own pace.
    group_barrier<max_row_groups(MaxThreads)>(group, width);
    if constexpr (kNorms) write_norms();
    const float2 of_row =
        row_moments<kLanes>(&shared.warp[parity][(group * R + lane / kLanes) * args.warps],
                            shared.columns, args.warps, lane, 1.0f / d);
    const float inverse_std = rsqrtf(of_row.y + static_cast<float>(norm.eps));
    float centre[R], factor[R];
#pragma unroll
    for (int r = 0; r < R; ++r) {
      centre[r] = __shfl_sync(kAllLanes, of_row.x, r * kLanes);
      factor[r] = __shfl_sync(kAllLanes, inverse_std, r * kLanes);
    }

    // h stays as it is for every variant there may be. (Wide rows lack the registers for that:
    // they are launched once a variant.)
    constexpr bool kEach = General && !kNorms && MaxThreads != kWideThreads;
    const int64_t each_count = kEach && norm.each ? norm.variants : 1;
    for (int64_t each = 0; each < each_count; ++each) {
#pragma unroll
      for (int j = 0; j < C; ++j) {
        const int column = own.first + j * own.step;
        float g[V], b[V];
        load_shared<V>(gamma + column, g);
        load_shared<V>(beta + column, b);
        Packet<T, V> y[R];
#pragma unroll
        for (int r = 0; r < R; ++r) {
          float z[V];
#pragma unroll
          for (int i = 0; i < V; ++i)
            z[i] = (h[r][j * V + i] - centre[r]) * factor[r] * g[i] + b[i];
          if (General && norm.scale && row + r < norm.n)
            edit_values<V>(norm, row + r, each, column, own.valid(j), z);
          y[r] = pack<T, V>(z);
          if (F == Norms::kOutput) unpack<T, V>(y[r], h[r] + j * V);  // as it was stored
        }
        T* const to = static_cast<T*>(norm.y) + each * norm.n * norm.y_stride;
        store_run(y, j, to, norm.y_stride, row, norm.n, own);
      }
    }
    if constexpr (kNorms) {
      const double squares = warp_squares<R, V, C>(h, lane, own);
      if (lane % kLanes == 0)
        shared.squares[parity][(group * R + lane / kLanes) * args.warps + warp] = squares;
      before = row;
    }
  }
  if constexpr (kNorms) {
    group_barrier<max_row_groups(MaxThreads)>(group, width);
    write_norms();
  }
}

int warps_per_row(int64_t d) {
  return static_cast<int>(ceil_div<int64_t>(
      d, kWarp * columns_of_thread(d > kNarrowWidth ? kWideThreads : kNarrowThreads)));
}

template <class T, int MaxThreads, bool General, Norms F>
void launch_rows(RowsArgs args, int sms, void* stream) {
  constexpr int R = rows_per_step<T, MaxThreads, General>();
  constexpr auto kKernel = &normalise_rows<T, MaxThreads, General, F>;
  const size_t shared_bytes = rows_shared_bytes(args.warps, MaxThreads);
  const int row_groups = MaxThreads == kWideThreads ? 1 : std::max(1, kBlockWarps / args.warps);
  const int64_t blocks =
      int64_t{sms} * resident_blocks<kKernel>(args.warps * row_groups * kWarp, shared_bytes);
  // Few rows: rather more blocks than more rows per block.
  const int64_t wanted = args.norm.n / (blocks * R);
  args.row_groups = static_cast<int>(std::max<int64_t>(1, std::min<int64_t>(row_groups, wanted)));
  const int64_t steps = ceil_div<int64_t>(args.norm.n, args.row_groups * R);
  launch<kKernel>(dim3(static_cast<unsigned>(std::min(blocks, steps))),
                  dim3(args.warps * args.row_groups * kWarp), shared_bytes, stream, args);
}

template <class T, Norms F>
void launch_width(const RowsArgs& args, int sms, void* stream) {
  const LayerNormArgs& norm = args.norm;
  if (norm.d > kNarrowWidth) {
    launch_rows<T, kWideThreads, true, F>(args, sms, stream);
  } else if (norm.residual || norm.sum || norm.scale) {
    launch_rows<T, kNarrowThreads, true, F>(args, sms, stream);
  } else if constexpr (F != Norms::kInput) {  // of the input with a residual alone
    launch_rows<T, kNarrowThreads, false, F>(args, sms, stream);
  }
}

void launch_norm(RowsArgs args, Norms norms, int device, void* stream) {
  const LayerNormArgs& norm = args.norm;
  const int64_t item = item_size(norm.dtype);
  args.warps = warps_per_row(norm.d);
  args.aligned = rows_aligned(norm.x, norm.x_stride, item, 16) &&
                 rows_aligned(norm.y, norm.y_stride, item, 16) &&
                 rows_aligned(norm.residual, norm.residual_stride, item, 16) &&
                 rows_aligned(norm.sum, norm.sum ? norm.d : 0, item, 16);
  const int sms = device_attribute(cudaDevAttrMultiProcessorCount, device);
  with_dtype(norm.dtype, [&](auto type) {
    using T = decltype(type);
    if (norms == Norms::kInput) return launch_width<T, Norms::kInput>(args, sms, stream);
    if (norms == Norms::kOutput) return launch_width<T, Norms::kOutput>(args, sms, stream);
    return launch_width<T, Norms::kNothing>(args, sms, stream);
  });
}

/// One variant of all rows, out of every variant of them.
LayerNormArgs variant_alone(const LayerNormArgs& norm, int64_t m) {
  LayerNormArgs one = norm;
  one.each = false;
  one.variants = 1;
  one.scale += m * norm.d;
  one.shift += m * norm.d;
  if (one.clip) one.clip += m * norm.d;
  one.y = static_cast<char*>(norm.y) + m * norm.n * norm.y_stride * item_size(norm.dtype);
  if (m > 0) one.sum = nullptr;  // x is read anew, and the sum is there
  return one;
}

}  // namespace

int64_t max_norm_width(int device) {
  const int64_t available = device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  const int64_t columns_of_warp = kWarp * columns_of_thread(kWideThreads);
  int64_t warps = kWideThreads / kWarp;
  while (warps > 0 && static_cast<int64_t>(rows_shared_bytes(warps, kWideThreads) +
                                           sizeof(RowShared<1>)) > available) {
    --warps;
  }
  return warps * columns_of_warp;
}

void layer_norm(const LayerNormArgs& norm, const MomentsArgs* stats, Observed observed,
                const Context& context) {
  if (norm.d < 1 || norm.d > max_norm_width(context.device))
    throw std::invalid_argument("layer_norm: expected 1 <= D <= max_norm_width");
  const bool of_input = observed == Observed::kInput;
  if (stats && of_input && norm.residual && !norm.sum) {
    throw std::invalid_argument("layer_norm: statistics of the input with a residual need the sum");
  }
  const DeviceGuard guard(context.device);
  // The input before y is written: y may lie in its place.
  const bool before = stats && of_input && !norm.residual;
  if (before) moments({norm.x, norm.dtype, norm.n, norm.d, norm.x_stride}, *stats, context);
  RowsArgs args;
  args.norm = norm;
  Norms norms = Norms::kNothing;
  if (stats && !before && stats->shape) {
    norms = of_input ? Norms::kInput : Norms::kOutput;
    args.exact = stats->exact;
    args.inverse_norm = MomentsWorkspace(norm.n, norm.d, *stats, 0, context.workspace).inverse_norm;
  }
  if (norm.n > 0 && norm.each && norm.d > kNarrowWidth) {
    for (int64_t m = 0; m < norm.variants; ++m) {
      args.norm = variant_alone(norm, m);
      launch_norm(args, Norms::kNothing, context.device, context.stream);
    }
  } else if (norm.n > 0) {
    launch_norm(args, norms, context.device, context.stream);
  }
  if (!stats || before) return;
  const HiddenView stored = of_input
                                ? HiddenView{norm.sum, norm.dtype, norm.n, norm.d, norm.d}
                                : HiddenView{norm.y, norm.dtype, norm.n, norm.d, norm.y_stride};
  moments_of(stored, *stats, context, norms != Norms::kNothing);
}

}  // namespace outdim::cuda
