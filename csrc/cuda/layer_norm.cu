// LayerNorm, RMSNorm, residual, edit, and moments while the row is in registers.
//
//   bytes      2 s D per row (s bytes an element), 4 s D with residual and sum; statistics add 5
//              bytes per row and 48 D bytes of partial state per SM
//   threads    blocks stay for the whole call and take steps of row_groups x R rows; thread t of a
//              group of warps owns columns (j threads + t) V + i: 16-byte accesses, the next step's
//              loads in flight during this one
//   mean, var  each warp: its mean, then the squared deviations from it; one barrier; then Chan's
//              sum over the warps, all terms positive. No E[x^2] - E[x]^2, no second barrier.
//   moments    float32 sums in registers, flushed to float64 in shared memory every 32 rows, groups
//              of warps added up in order at the end: one partial state per block, and the grid is
//              one block per SM
//   order      the rows of a thread depend on N and the number of SMs alone; no atomics
//
// Lost: E[x^2] - E[x]^2 with a second pass where it cancels (a rare, block-wide branch that costs
// registers); gamma and beta in registers (16 of them; from shared memory they cost 1/8 of an
// instruction per element).

#include <algorithm>

#include "cuda/kernels.h"
#include "cuda/layer_norm_parts.cuh"
#include "cuda/moments_steps.cuh"

namespace outdim::cuda {
namespace {

constexpr int kFlushRows = 32;

template <class T, int MaxThreads, bool General, Fused F>
__global__ void __launch_bounds__(MaxThreads, 1) normalise_rows(const RowsArgs args) {
  constexpr int V = 16 / sizeof(T);
  constexpr int kColumns = columns_of_thread(MaxThreads);
  constexpr int C = kColumns / V;
  constexpr int R = rows_per_step<T, MaxThreads, General, F>();
  constexpr int kLanes = kWarp / R;  // lanes that share the statistics of a row
  constexpr bool kStats = F != Fused::kNothing;
  // Whether the next rows are loaded before this step's are done with: wide rows lack the
  // registers.
  constexpr bool kAhead = MaxThreads != kWideThreads;
  __shared__ RowShared<R> shared;
  const LayerNormArgs& norm = args.norm;
  const int width = args.warps * kWarp;  // threads per row
  float* const gamma = dynamic_shared<float>();
  float* const beta = gamma + width * kColumns;
  double* const totals =
      reinterpret_cast<double*>(beta + width * kColumns);  // [kCount, kColumns, blockDim.x]

  const int lane = threadIdx.x % kWarp, group = threadIdx.x / width, t = threadIdx.x % width,
            warp = t / kWarp;
  const int d = static_cast<int>(norm.d);
  const OwnColumns<V, C> own(t, width, d, args.aligned);
  load_parameters(norm, width * kColumns, gamma, beta);
  count_columns<V, C>(shared.columns, args.warps, d);
  __syncthreads();

  Packet<T, V> next[R][C], next_residual[R][C];
  float2 next_row = make_float2(0.0f, 0.0f);  // in lane r of warp 0 of a group: of its row r
  const auto load_step = [&](int64_t row) {
    load_rows(next, norm.x, norm.x_stride, row, norm.n, own);
    if (General && norm.residual)
      load_rows(next_residual, norm.residual, norm.residual_stride, row, norm.n, own);
    if (kStats && t < R) {
      const bool counts = row + t < norm.n && (!args.group || args.group[row + t] == 1);
      next_row = make_float2(counts && args.covariate ? args.covariate[row + t] : 0.0f,
                             counts ? 1.0f : 0.0f);
    }
  };

  FusedSums sums[kColumns];
  float pivot[kColumns];
  if (kStats && t < R) shared.clear(group * R + t);
  bool has_pivot = false;  // the same in all threads of the block
  int unflushed = 0;       // rows
  if constexpr (kStats) {
#pragma unroll
    for (int i = 0; i < kColumns; ++i) sums[i].clear();
  }

  const int64_t block_rows = args.row_groups * R;
  int64_t base = blockIdx.x * block_rows;
  if (kAhead) load_step(base + group * R);
  for (int parity = 0; base < norm.n; base += gridDim.x * block_rows, parity ^= 1) {
    const int64_t row = base + group * R;
    if (!kAhead) load_step(row);
    float h[R][kColumns];
#pragma unroll
    for (int r = 0; r < R; ++r) {
#pragma unroll
      for (int j = 0; j < C; ++j) unpack<T, V>(next[r][j], h[r] + j * V);
    }
    if (kStats && t < R) {
      shared.row[parity][group * R + t] = next_row;
      if (next_row.y != 0.0f) shared.count_row(group * R + t, next_row.x);
    }
    if (General && norm.residual) add_residual(h, next_residual);
    if (kAhead) load_step(row + gridDim.x * block_rows);
    if (General && (norm.residual || norm.sum)) round_sum<T>(h, norm, row, own);

    const float2 of_warp = warp_moments<R, V, C>(h, shared.columns[warp].y, norm.rms, lane, own);
    if (lane % kLanes == 0)
      shared.warp[parity][(group * R + lane / kLanes) * args.warps + warp] = of_warp;
    // The only barrier of a step: what it separates is double buffered by parity. Groups of warps
    // go their own pace, but for the steps up to the one that gives the pivots.
    if (kStats && !has_pivot) {
      __syncthreads();
    } else {
      group_barrier<max_row_groups(MaxThreads)>(group, width);
    }
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

    // Without statistics h stays as it is, for every variant there may be.
    // (Wide rows lack the registers for that: they are launched once a variant.)
    constexpr bool kEach = General && F == Fused::kNothing && MaxThreads != kWideThreads;
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
          if (F == Fused::kOutput)
            unpack<T, V>(y[r], h[r] + j * V);  // statistics are of what was stored
        }
        T* const to = static_cast<T*>(norm.y) + each * norm.n * norm.y_stride;
        store_run(y, j, to, norm.y_stride, row, norm.n, own);
      }
    }
    if constexpr (kStats) {
      if (!has_pivot) {
        has_pivot = choose_pivot<R, kColumns>(shared.row[parity], args.row_groups, group, t, width,
                                              h, totals, pivot);
      }
#pragma unroll
      for (int r = 0; r < R; ++r) {
        const float2 counted = shared.row[parity][group * R + r];
        if (counted.y != 0.0f) {
#pragma unroll
          for (int i = 0; i < kColumns; ++i) sums[i].add(h[r][i], pivot[i], &counted.x, 0.0f);
        }
      }
      unflushed += R;
      if (unflushed == kFlushRows) {
        if (has_pivot) flush(sums, totals);
        unflushed = 0;
      }
    }
  }
  if constexpr (kStats) {
    if (has_pivot) flush(sums, totals);
    write_partial<R, kColumns, V>(args, shared, has_pivot, group, t, width, totals, pivot);
  }
}

/// `blocks`: at most so many; 0: as many as the device runs at a time.
template <class T, int MaxThreads, bool General, Fused F>
int launch_rows(RowsArgs& args, int row_groups, int blocks, int sms, void* stream) {
  constexpr int R = rows_per_step<T, MaxThreads, General, F>();
  constexpr auto kKernel = &normalise_rows<T, MaxThreads, General, F>;
  if (blocks == 0) {
    const int threads = args.warps * row_groups * kWarp;
    blocks = sms * resident_blocks<kKernel>(
                       threads, rows_shared_bytes(args.warps, row_groups, MaxThreads, F));
  }
  // Few rows: rather more blocks than more rows per block.
  const int64_t wanted = args.norm.n / (int64_t{blocks} * R);
  args.row_groups = static_cast<int>(std::max<int64_t>(1, std::min<int64_t>(row_groups, wanted)));
  const int64_t steps = ceil_div<int64_t>(args.norm.n, args.row_groups * R);
  const int grid = static_cast<int>(std::min<int64_t>(blocks, steps));
  launch<kKernel>(dim3(grid), dim3(args.warps * args.row_groups * kWarp),
                  rows_shared_bytes(args.warps, args.row_groups, MaxThreads, F), stream, args);
  return grid;
}

template <class T>
int launch_alone(RowsArgs& args, bool general, int sms, void* stream) {
  // Blocks of 8 warps, or of one row.
  const int row_groups = std::max(1, 8 / args.warps);
  if (args.norm.d > kNarrowWidth)
    return launch_rows<T, kWideThreads, true, Fused::kNothing>(args, 1, 0, sms, stream);
  return general ? launch_rows<T, kNarrowThreads, true, Fused::kNothing>(args, row_groups, 0, sms,
                                                                         stream)
                 : launch_rows<T, kNarrowThreads, false, Fused::kNothing>(args, row_groups, 0, sms,
                                                                          stream);
}

template <class T, Fused F>
int launch_fused(RowsArgs& args, bool general, int row_groups, int sms, void* stream) {
  if (args.warps * kWarp > kFusedThreads) {
    return launch_rows<T, kNarrowThreads, false, F>(args, row_groups, sms, sms, stream);
  }
  return general ? launch_rows<T, kFusedThreads, true, F>(args, row_groups, sms, sms, stream)
                 : launch_rows<T, kFusedThreads, false, F>(args, row_groups, sms, sms, stream);
}

int warps_per_row(int64_t d) {
  return static_cast<int>(ceil_div<int64_t>(
      d, kWarp * columns_of_thread(d > kNarrowWidth ? kWideThreads : kNarrowThreads)));
}

bool is_general(const LayerNormArgs& norm) { return norm.residual || norm.sum || norm.scale; }

/// Groups of warps of a fused block: a full block, as far as the shared memory of an SM goes; 0 if
/// not even one fits.
int fused_row_groups(int64_t d, int device) {
  if (d > kNarrowWidth) return 0;
  const size_t available = device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  const int warps = warps_per_row(d);
  int groups = std::max(1, kFusedThreads / kWarp / warps);
  while (groups > 0 &&
         rows_shared_bytes(warps, groups, kNarrowThreads, Fused::kOutput) + sizeof(RowShared<4>) >
             available) {
    --groups;
  }
  return groups;
}

/// Launches the row kernel and returns its number of blocks. `fused` needs the statistics' part of
/// `args`.
int run_rows(RowsArgs& args, Fused fused, int device, void* stream) {
  const LayerNormArgs& norm = args.norm;
  const int64_t item = item_size(norm.dtype);
  args.warps = warps_per_row(norm.d);
  args.aligned = rows_aligned(norm.x, norm.x_stride, item, 16) &&
                 rows_aligned(norm.y, norm.y_stride, item, 16) &&
                 rows_aligned(norm.residual, norm.residual_stride, item, 16) &&
                 rows_aligned(norm.sum, norm.sum ? norm.d : 0, item, 16);
  const int sms = device_attribute(cudaDevAttrMultiProcessorCount, device);
  const int row_groups = fused == Fused::kNothing ? 0 : fused_row_groups(norm.d, device);
  return with_dtype(norm.dtype, [&](auto type) {
    using T = decltype(type);
    const bool general = is_general(norm);
    if (fused == Fused::kInput)
      return launch_fused<T, Fused::kInput>(args, general, row_groups, sms, stream);
    if (fused == Fused::kOutput)
      return launch_fused<T, Fused::kOutput>(args, general, row_groups, sms, stream);
    return launch_alone<T>(args, general, sms, stream);
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

int fused_blocks(int64_t d, const MomentsArgs& args, int device) {
  if (args.covariates() > 1 || args.groups != 1 || args.shape || args.exact) return 0;
  return fused_row_groups(d, device) > 0 ? device_attribute(cudaDevAttrMultiProcessorCount, device)
                                         : 0;
}

void layer_norm(const LayerNormArgs& norm, const MomentsArgs* stats, Observed observed,
                const Context& context) {
  if (norm.d < 1 || norm.d > kMaxNormWidth)
    throw std::invalid_argument("layer_norm: expected 1 <= D <= 16384");
  const bool of_input = observed == Observed::kInput;
  if (stats && of_input && norm.residual && !norm.sum) {
    throw std::invalid_argument("layer_norm: statistics of the input with a residual need the sum");
  }
  const DeviceGuard guard(context.device);
  RowsArgs args;
  args.norm = norm;
  const bool registers =
      !is_general(norm) || norm.d <= int64_t{kFusedThreads} * columns_of_thread(kFusedThreads);
  const int splits =
      stats && norm.n > 0 && registers ? fused_blocks(norm.d, *stats, context.device) : 0;
  if (splits > 0) {
    MomentsWorkspace workspace(norm.n, norm.d, *stats, splits, context.workspace);
    args.group = stats->group;
    if (stats->covariates()) {
      deviations(norm.n, *stats, workspace, context.stream);
      args.covariate = workspace.deviation;
      args.pivot = workspace.pivot;
    }
    args.partial = workspace.partial;
    args.scalars = workspace.scalars;
    workspace.splits =
        run_rows(args, of_input ? Fused::kInput : Fused::kOutput, context.device, context.stream);
    finalize(norm.d, *stats, workspace, 0, context.stream);
    return;
  }
  // The input before y is written: y may lie in its place.
  const HiddenView x{norm.x, norm.dtype, norm.n, norm.d, norm.x_stride};
  if (stats && of_input && !norm.residual) moments(x, *stats, context);
  if (norm.n > 0 && norm.each && norm.d > kNarrowWidth) {
    for (int64_t m = 0; m < norm.variants; ++m) {
      args.norm = variant_alone(norm, m);
      run_rows(args, Fused::kNothing, context.device, context.stream);
    }
  } else if (norm.n > 0) {
    run_rows(args, Fused::kNothing, context.device, context.stream);
  }
  if (stats && of_input && norm.residual) {
    moments({norm.sum, norm.dtype, norm.n, norm.d, norm.d}, *stats, context);
  }
  if (stats && !of_input)
    moments({norm.y, norm.dtype, norm.n, norm.d, norm.y_stride}, *stats, context);
}

}  // namespace outdim::cuda
