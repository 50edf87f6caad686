// LayerNorm, RMSNorm, residual, edit, and moments while the row is in registers.
//
//   bytes      2 s D per row (s bytes an element), 4 s D with residual and sum; statistics add 5
//   bytes per row and
//              48 D bytes of partial state per SM
//   threads    blocks stay for the whole call and take steps of row_groups x R rows; thread t of a
//   group of warps owns
//              columns (j threads + t) V + i: 16-byte accesses, the next step's loads in flight
//              during this one
//   mean, var  each warp: its mean, then the squared deviations from it; one barrier; then Chan's
//   sum over the warps,
//              all terms positive. No E[x^2] - E[x]^2, no second barrier.
//   moments    float32 sums in registers, flushed to float64 in shared memory every 32 rows, groups
//   of warps added up in
//              order at the end: one partial state per block, and the grid is one block per SM
//   order      the rows of a thread depend on N and the number of SMs alone; no atomics
//
// Lost: E[x^2] - E[x]^2 with a second pass where it cancels (a rare, block-wide branch that costs
// registers); gamma and beta in registers (16 of them; from shared memory they cost 1/8 of an
// instruction per element).

#include <algorithm>

#include "cuda/kernels.h"
#include "cuda/layer_norm.cuh"
#include "cuda/moments_steps.cuh"

namespace outdim::cuda {
namespace {

constexpr int kFlushRows = 32;
constexpr int kMaxWarps = 32;  // per block

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

/// y of one value: clamp(z, -clip, clip) * scale + shift, and shift alone where scale is 0. NaN
/// stays NaN.
__device__ __forceinline__ float edited(float z, float scale, float shift, const float* clip) {
  if (clip) {
    const float bound = *clip;
    z = z < -bound ? -bound : z > bound ? bound : z;
  }
  return scale == 0.0f ? shift : z * scale + shift;
}

/// Sums of warps over one row, and the weights to combine them with.
template <int R>
struct RowShared {
  float2 warp[2][kMaxWarps * R];  // (sum, squared deviations from the warp's mean), by step parity
  float2 row[2][kMaxWarps * R];   // (deviation of the covariate, 1 if the row counts)
  float columns[kMaxWarps];       // of a warp of a row
  double count[kMaxWarps * R];
  double covariate[kMaxWarps * R];
};

/// Takes the pivots from the first three counted rows of a step, by way of shared memory, and
/// clears the totals that lie there; false if no row of the step counts. All threads of the block
/// call it and get the same answer.
template <int R, int kColumns>
__device__ __forceinline__ bool choose_pivot(const float2* rows, int row_groups, int group, int t,
                                             int width, const float (&h)[R][kColumns],
                                             double* totals, float (&pivot)[kColumns]) {
  int found = 0, slot[3] = {0, 0, 0};
  for (int s = 0; s < row_groups * R; ++s) {
    if (rows[s].y == 0.0f) continue;
    if (found == 0) slot[0] = s;
    if (found == 1) slot[1] = s;
    if (found == 2) slot[2] = s;
    ++found;
  }
  if (found == 0) return false;
  float* const candidate = reinterpret_cast<float*>(totals);  // [3, kColumns, width]
#pragma unroll
  for (int c = 0; c < 3; ++c) {
#pragma unroll
    for (int r = 0; r < R; ++r) {
      if (c >= found || slot[c] != group * R + r) continue;
#pragma unroll
      for (int i = 0; i < kColumns; ++i) candidate[(c * kColumns + i) * width + t] = h[r][i];
    }
  }
  __syncthreads();
#pragma unroll
  for (int i = 0; i < kColumns; ++i) {
    const float a = candidate[i * width + t];
    const float b = found > 1 ? candidate[(kColumns + i) * width + t] : a;
    // Of two rows the smaller: a spike is large.
    const float c = found > 2             ? candidate[(2 * kColumns + i) * width + t]
                    : fabsf(b) < fabsf(a) ? b
                                          : a;
    pivot[i] = median_pivot(a, b, c);
  }
  __syncthreads();
  for (int q = 0; q < FusedSums::kCount * kColumns; ++q) totals[q * blockDim.x + threadIdx.x] = 0.0;
  return true;
}

/// Leaves the block's partial state: its groups of warps added up in order.
template <int R, int kColumns, int V>
__device__ __forceinline__ void write_partial(const RowsArgs& args, RowShared<R>& shared,
                                              bool has_pivot, int group, int t, int width,
                                              double count, double covariate, const double* totals,
                                              const float (&pivot)[kColumns]) {
  if (t < R) {
    shared.count[group * R + t] = count;
    shared.covariate[group * R + t] = covariate;
  }
  __syncthreads();
  if (threadIdx.x < 2) {
    const double* of = threadIdx.x == 0 ? shared.count : shared.covariate;
    double sum = 0.0;
    for (int s = 0; s < args.row_groups * R; ++s) sum += of[s];
    args.scalars[blockIdx.x * kPartialScalars + threadIdx.x] = sum;
  }
  if (!has_pivot) return;  // n is 0, which says that there is no partial state
  const int64_t d = args.norm.d;
  double* const partial = args.partial + blockIdx.x * (partial_rows(1, false) * d);
  for (int item = threadIdx.x; item < FusedSums::kCount * kColumns * width; item += blockDim.x) {
    const int plane = item / width, owner = item % width, i = plane % kColumns;
    double sum = 0.0;
    for (int g = 0; g < args.row_groups; ++g) sum += totals[plane * blockDim.x + g * width + owner];
    const int64_t column = (i / V * width + owner) * V + i % V;
    if (column < d) partial[(1 + plane / kColumns) * d + column] = sum;
  }
  if (group == 0) {
#pragma unroll
    for (int i = 0; i < kColumns; ++i) {
      const int64_t column = (i / V * width + t) * V + i % V;
      if (column < d) partial[column] = pivot[i];
    }
  }
}

template <class T, int MaxThreads, bool General, Fused F>
__global__ void __launch_bounds__(MaxThreads, 1) normalise_rows(const RowsArgs args) {
  constexpr int V = 16 / sizeof(T);
  constexpr int kColumns = columns_of_thread(MaxThreads);
  constexpr int C = kColumns / V;
  constexpr int R = rows_per_step<T, MaxThreads, General, F>();
  constexpr int kLanes = kWarp / R;  // lanes that share the statistics of a row
  constexpr bool kStats = F != Fused::kNothing;
  // Whether the next rows are loaded before this step's are done with: the widest float32 rows lack
  // the registers.
  constexpr bool kAhead = MaxThreads != kWideThreads || sizeof(T) == 2;
  using Chunk = Packet<T, V>;
  __shared__ RowShared<R> shared;
  float* const gamma = dynamic_shared<float>();
  const LayerNormArgs& norm = args.norm;
  const int width = args.warps * kWarp;  // threads per row
  const int columns = width * kColumns;
  float* const beta = gamma + columns;
  double* const totals =
      reinterpret_cast<double*>(beta + columns);  // [kCount, kColumns, blockDim.x]

  const int lane = threadIdx.x % kWarp;
  const int group = threadIdx.x / width, t = threadIdx.x % width, warp = t / kWarp;
  const int d = static_cast<int>(norm.d);
  int column[C], valid[C];
#pragma unroll
  for (int j = 0; j < C; ++j) {
    column[j] = (j * width + t) * V;
    valid[j] = max(0, min(V, d - column[j]));
  }
  load_parameters(norm, columns, gamma, beta);
  if (threadIdx.x < args.warps) {
    int count = 0;
    for (int j = 0; j < C; ++j) {
      count += max(0, min(kWarp * V, d - (j * width + static_cast<int>(threadIdx.x) * kWarp) * V));
    }
    shared.columns[threadIdx.x] = count;
  }
  __syncthreads();
  const float warp_share = 1.0f / fmaxf(shared.columns[warp], 1.0f);
  const float row_share = 1.0f / d;

  const auto load_chunk = [&](const void* data, int64_t stride, int64_t row, int j) {
    const T* p = static_cast<const T*>(data) + row * stride + column[j];
    if (row >= norm.n || valid[j] == 0) return zero_packet<T, V>();
    return args.aligned && valid[j] == V ? load_aligned<T, V>(p) : load_guarded<T, V>(p, valid[j]);
  };
  Chunk next[R][C];
  float2 next_row = make_float2(0.0f, 0.0f);  // in lane r of warp 0 of a group: of its row r
  const auto load_step = [&](int64_t row) {
#pragma unroll
    for (int r = 0; r < R; ++r) {
#pragma unroll
      for (int j = 0; j < C; ++j) next[r][j] = load_chunk(norm.x, norm.x_stride, row + r, j);
    }
    if (kStats && t < R) {
      const bool counts = row + t < norm.n && (!args.group || args.group[row + t] == 1);
      next_row = make_float2(counts && args.covariate ? args.covariate[row + t] : 0.0f,
                             counts ? 1.0f : 0.0f);
    }
  };

  FusedSums sums[kColumns];
  float pivot[kColumns];
  double count = 0.0, covariate = 0.0;
  bool has_pivot = false;  // the same in all threads of the block
  int unflushed = 0;
  if constexpr (kStats) {
#pragma unroll
    for (int i = 0; i < kColumns; ++i) sums[i].clear();
  }
  const auto flush = [&] {
#pragma unroll
    for (int q = 0; q < FusedSums::kCount; ++q) {
#pragma unroll
      for (int i = 0; i < kColumns; ++i) {
        totals[(q * kColumns + i) * blockDim.x + threadIdx.x] +=
            static_cast<double>(sums[i].sum[q]);
      }
    }
#pragma unroll
    for (int i = 0; i < kColumns; ++i) sums[i].clear();
    unflushed = 0;
  };

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
      for (int j = 0; j < C; ++j) {
        unpack<T, V>(next[r][j], h[r] + j * V);
        if (General && norm.residual) {
          float other[V];
          unpack<T, V>(load_chunk(norm.residual, norm.residual_stride, row + r, j), other);
#pragma unroll
          for (int i = 0; i < V; ++i) other[i] += h[r][j * V + i];
          unpack<T, V>(pack<T, V>(other), h[r] + j * V);
        }
        if (General && norm.sum && row + r < norm.n) {
          store<T, V>(static_cast<T*>(norm.sum) + (row + r) * norm.d + column[j],
                      pack<T, V>(h[r] + j * V), valid[j], args.aligned);
        }
      }
    }
    if (kStats && t < R) {
      shared.row[parity][group * R + t] = next_row;
      if (next_row.y != 0.0f) {
        count += 1.0;
        covariate += static_cast<double>(next_row.x);
      }
    }
    if (kAhead) load_step(row + gridDim.x * block_rows);

    // The warp's part of each row: its sum and the squared deviations from its mean.
    float part[R];
#pragma unroll
    for (int r = 0; r < R; ++r) {
      part[r] = 0.0f;
#pragma unroll
      for (int i = 0; i < kColumns; ++i) part[r] += h[r][i];  // zero beyond D
    }
    const float warp_total = norm.rms ? 0.0f : warp_sums<R>(part, lane);
    const float warp_mean = warp_total * warp_share;
#pragma unroll
    for (int r = 0; r < R; ++r) {
      const float centre = __shfl_sync(kAllLanes, warp_mean, r * kLanes);
      part[r] = 0.0f;
#pragma unroll
      for (int j = 0; j < C; ++j) {
        if (valid[j] == V) {
#pragma unroll
          for (int i = 0; i < V; ++i) {
            const float deviation = h[r][j * V + i] - centre;
            part[r] += deviation * deviation;
          }
        } else {
#pragma unroll
          for (int i = 0; i < V; ++i) {
            const float deviation = i < valid[j] ? h[r][j * V + i] - centre : 0.0f;
            part[r] += deviation * deviation;
          }
        }
      }
    }
    const float warp_squares = warp_sums<R>(part, lane);
    if (lane % kLanes == 0) {
      shared.warp[parity][(group * R + lane / kLanes) * args.warps + warp] =
          make_float2(warp_total, warp_squares);
    }
    // The only barrier of a step: what it separates is double buffered by parity. Groups of warps
    // go their own pace, but for the steps up to the one that gives the pivots.
    if (kStats && !has_pivot) {
      __syncthreads();
    } else {
      named_barrier(1 + group, width);
    }

    // Lane l: row l / kLanes, with its warps dealt to the kLanes lanes.
    const float2* const warps = &shared.warp[parity][(group * R + lane / kLanes) * args.warps];
    float total = 0.0f;
    for (int w = lane % kLanes; w < args.warps; w += kLanes) total += warps[w].x;
#pragma unroll
    for (int offset = kLanes / 2; offset >= 1; offset /= 2)
      total += __shfl_xor_sync(kAllLanes, total, offset);
    const float mean = total * row_share;
    float squares = 0.0f;
    for (int w = lane % kLanes; w < args.warps; w += kLanes) {
      const float size = shared.columns[w];
      const float deviation = warps[w].x / fmaxf(size, 1.0f) - mean;
      squares += warps[w].y + size * deviation * deviation;
    }
#pragma unroll
    for (int offset = kLanes / 2; offset >= 1; offset /= 2)
      squares += __shfl_xor_sync(kAllLanes, squares, offset);
    const float inverse_std = rsqrtf(squares * row_share + static_cast<float>(norm.eps));

#pragma unroll
    for (int r = 0; r < R; ++r) {
      const float centre = __shfl_sync(kAllLanes, mean, r * kLanes);
      const float factor = __shfl_sync(kAllLanes, inverse_std, r * kLanes);
      int64_t edit = 0;  // offset of the row's edit in the tables
      bool edit_known = true;
      if (General && norm.scale && norm.variant && row + r < norm.n) {
        const int32_t variant = norm.variant[row + r];
        edit_known = variant >= 0 && variant < norm.variants;
        edit = edit_known ? variant * norm.d : 0;
      }
#pragma unroll
      for (int j = 0; j < C; ++j) {
        float z[V];
#pragma unroll
        for (int i = 0; i < V; ++i) {
          const int c = column[j] + i;
          z[i] = (h[r][j * V + i] - centre) * factor * gamma[c] + beta[c];
          if (General && norm.scale && i < valid[j]) {
            const int64_t e = edit + c;
            z[i] = edited(z[i], norm.scale[e], norm.shift[e], norm.clip ? norm.clip + e : nullptr);
            if (!edit_known) z[i] = NAN;  // a variant that the tables do not have
          }
        }
        const Chunk y = pack<T, V>(z);
        if (row + r < norm.n) {
          store<T, V>(static_cast<T*>(norm.y) + (row + r) * norm.y_stride + column[j], y, valid[j],
                      args.aligned);
        }
        if (F == Fused::kOutput)
          unpack<T, V>(y, h[r] + j * V);  // statistics are of what was stored
      }
    }
    if constexpr (kStats) {
      if (!has_pivot) {
        has_pivot = choose_pivot<R, kColumns>(shared.row[parity], args.row_groups, group, t, width,
                                              h, totals, pivot);
      }
#pragma unroll
      for (int r = 0; r < R; ++r) {
        const float2 of_row = shared.row[parity][group * R + r];
        if (of_row.y != 0.0f) {
#pragma unroll
          for (int i = 0; i < kColumns; ++i) sums[i].add(h[r][i], pivot[i], &of_row.x, 0.0f);
        }
      }
      unflushed += R;
      if (unflushed == kFlushRows) {
        if (has_pivot) flush();
        unflushed = 0;
      }
    }
  }
  if constexpr (kStats) {
    if (has_pivot) flush();
    write_partial<R, kColumns, V>(args, shared, has_pivot, group, t, width, count, covariate,
                                  totals, pivot);
  }
}

template <class T, int MaxThreads, bool General, Fused F>
int launch_rows(RowsArgs& args, int row_groups, int blocks, void* stream) {
  constexpr int R = rows_per_step<T, MaxThreads, General, F>();
  // Few rows: rather more blocks than more rows per block.
  const int64_t wanted = args.norm.n / (int64_t{blocks} * R);
  args.row_groups = static_cast<int>(std::max<int64_t>(1, std::min<int64_t>(row_groups, wanted)));
  const int64_t steps = ceil_div<int64_t>(args.norm.n, args.row_groups * R);
  const int grid = static_cast<int>(std::min<int64_t>(blocks, steps));
  launch(&normalise_rows<T, MaxThreads, General, F>, dim3(grid),
         dim3(args.warps * args.row_groups * kWarp),
         rows_shared_bytes(args.warps, args.row_groups, MaxThreads, F), stream, args);
  return grid;
}

template <class T>
int launch_alone(RowsArgs& args, bool general, int sms, void* stream) {
  // Blocks of 8 warps or one row, and as many as the registers of an SM let run, or a few more.
  const int row_groups = std::max(1, 8 / args.warps);
  const int blocks = sms * std::max(1, 24 / (args.warps * row_groups));
  if (args.norm.d > kNarrowWidth) {
    return launch_rows<T, kWideThreads, true, Fused::kNothing>(
        args, 1, sms * std::max(1, 32 / args.warps), stream);
  }
  return general ? launch_rows<T, kNarrowThreads, true, Fused::kNothing>(args, row_groups, blocks,
                                                                         stream)
                 : launch_rows<T, kNarrowThreads, false, Fused::kNothing>(args, row_groups, blocks,
                                                                          stream);
}

template <class T, Fused F>
int launch_fused(RowsArgs& args, bool general, int row_groups, int sms, void* stream) {
  if (args.warps * kWarp > kFusedThreads) {
    return launch_rows<T, kNarrowThreads, false, F>(args, row_groups, sms, stream);
  }
  return general ? launch_rows<T, kFusedThreads, true, F>(args, row_groups, sms, stream)
                 : launch_rows<T, kFusedThreads, false, F>(args, row_groups, sms, stream);
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
    prepare(norm.n, *stats, workspace, context.stream);
    args.group = stats->group;
    args.covariate =
        stats->covariates() ? static_cast<const float*>(workspace.covariates) : nullptr;
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
  if (norm.n > 0) run_rows(args, Fused::kNothing, context.device, context.stream);
  if (stats && of_input && norm.residual) {
    moments({norm.sum, norm.dtype, norm.n, norm.d, norm.d}, *stats, context);
  }
  if (stats && !of_input)
    moments({norm.y, norm.dtype, norm.n, norm.d, norm.y_stride}, *stats, context);
}

}  // namespace outdim::cuda
