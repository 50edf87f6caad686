// `moments` on the device: [norms of the rows,] the column kernel (moments_columns.cu), finalize;
// and once more the column kernel and finalize for every further four covariates. With shape the
// rows are read twice, first for their norms, unless layer_norm has left them: a tensor of a usual
// batch stays in the L2 cache between the two.

#include <algorithm>
#include <cmath>
#include <limits>

#include "cuda/common.cuh"
#include "cuda/kernels.h"
#include "cuda/moments_columns.cuh"
#include "cuda/moments_steps.cuh"

namespace outdim::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;

/// 1 / ||h|| of the counted rows; a warp per row, float64 throughout.
template <class T, class A>
__global__ void __launch_bounds__(kThreads)
    row_norms(const HiddenView hidden, const uint8_t* group, bool aligned, A* inverse_norm) {
  constexpr int V = 16 / sizeof(T);
  const int lane = threadIdx.x % kWarp;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kWarps;
  for (int64_t row = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarp;
       row < hidden.n; row += step) {
    if (group && group[row] == 0) continue;
    const T* const data = static_cast<const T*>(hidden.data) + row * hidden.stride;
    double squares = 0.0;
    for (int64_t column = lane * V; column < hidden.d; column += kWarp * V) {
      const int valid = hidden.d - column < V ? static_cast<int>(hidden.d - column) : V;
      float h[V];
      unpack<T, V>(aligned && valid == V ? load_aligned<T, V, Use::kAgain>(data + column)
                                         : load_guarded<T, V>(data + column, valid),
                   h);
#pragma unroll
      for (int i = 0; i < V; ++i) squares += static_cast<double>(h[i]) * h[i];
    }
    squares = warp_sum(squares);
    if (lane == 0) inverse_norm[row] = inverse_root<A>(squares);
  }
}

constexpr int kSlices = 8;  // runs of partial states that a block merges side by side
constexpr int kRun = kMaxSplits / kSlices;

/// Head of a group: n, means and M2 of the covariates, then merged behind the one before. A warp a
/// covariate; the partial states are added up about the pivot of the first that has rows.
__device__ void finalize_head(const MomentsArgs& args, const MomentsWorkspace& workspace, int first,
                              int g, int warp, int lane) {
  const int k_count = args.covariates();
  const int64_t size = head_size(k_count);
  const double* const scalars =
      workspace.scalars + static_cast<int64_t>(g) * workspace.splits * kPartialScalars;
  double n = 0.0;
  int filled = workspace.splits;
  for (int s = lane; s < workspace.splits; s += kWarp) {
    const double rows = scalars[s * kPartialScalars];
    n += rows;
    if (rows > 0.0) filled = min(filled, s);
  }
  n = warp_sum(n);
#pragma unroll
  for (int offset = kWarp / 2; offset >= 1; offset /= 2)
    filled = min(filled, __shfl_xor_sync(kAllLanes, filled, offset));
  double* const head = args.head + g * size;
  const double* const before = args.before_head ? args.before_head + g * size : nullptr;
  const double earlier = before ? before[0] : 0.0;
  if (first == 0 && warp == 0 && lane == 0) head[0] = earlier + n;
  const MergeWeights w = MergeWeights::of(earlier, n);
  for (int k = warp; k < workspace.k && first + k < k_count; k += kSlices) {
    const double pivot = n > 0.0 ? scalars[filled * kPartialScalars + pivot_scalar(k)] : 0.0;
    double sum = 0.0, squares = 0.0;
    for (int s = lane; s < workspace.splits; s += kWarp) {
      const double* const of = scalars + s * kPartialScalars;
      if (of[0] == 0.0) continue;
      const double away = of[pivot_scalar(k)] - pivot;
      sum += of[sum_scalar(k)] + of[0] * away;
      squares += of[square_scalar(k)] + away * (2.0 * of[sum_scalar(k)] + of[0] * away);
    }
    sum = warp_sum(sum);
    squares = warp_sum(squares);
    if (lane != 0) continue;
    double mean = n > 0.0 ? pivot + sum / n : 0.0;
    double m2 = n > 0.0 ? central_m2(sum, squares, sum / n) : 0.0;
    if (earlier > 0.0) {
      const double mean_a = before[1 + first + k], m2_a = before[1 + k_count + first + k];
      const double delta = mean - mean_a;
      m2 = n > 0.0 ? merged_m2(w, m2_a, m2, delta) : m2_a;
      mean = n > 0.0 ? merged_mean(w, mean_a, delta) : mean_a;
    }
    head[1 + first + k] = mean;
    head[1 + k_count + first + k] = m2;
  }
}

/// Block (tile of 32 columns, group), thread (column, slice): each slice merges its run of partial
/// states in order, then the slices are merged two by two, and the whole behind the state before.
/// The weights of a slice's merges are those of every column: they are found once a block, so that
/// no partial state costs a division; the merges of slices and the last one cost four a column.
__global__ void __launch_bounds__(kWarp* kSlices)
    finalize_columns(const MomentsArgs args, const MomentsWorkspace workspace, int64_t d,
                     int first) {
  __shared__ ColumnState other[kSlices / 2][kWarp];
  __shared__ MergeWeights weights[kSlices][kRun];
  const int g = blockIdx.y, slice = threadIdx.y, lane = threadIdx.x;
  const int64_t column = static_cast<int64_t>(blockIdx.x) * kWarp + lane;
  const bool shape = args.shape && first == 0;
  const int k_count = args.covariates();
  if (blockIdx.x == 0) finalize_head(args, workspace, first, g, slice, lane);

  const int64_t rows = partial_rows(workspace.k, shape);
  const double* const group_scalars =
      workspace.scalars + static_cast<int64_t>(g) * workspace.splits * kPartialScalars;
  const int run = ceil_div(workspace.splits, kSlices);
  const int begin = slice * run, end = min(begin + run, workspace.splits);
  for (int s = begin + lane; s < end; s += kWarp) {
    double sum = 0.0;
    for (int t = begin; t < s; ++t) sum += group_scalars[t * kPartialScalars];
    weights[slice][s - begin] = MergeWeights::of(sum, group_scalars[s * kPartialScalars]);
  }
  __syncthreads();

  ColumnState state;
  state.clear();
  for (int s = begin; s < end; ++s) {
    const double* const scalars = group_scalars + s * kPartialScalars;
    if (scalars[0] == 0.0 || column >= d) continue;  // no rows: nothing was written
    const int64_t index = static_cast<int64_t>(g) * workspace.splits + s;
    ColumnState next;
    next.read(workspace.partial + index * rows * d + column, d, scalars, workspace.k, shape);
    state.merge(next, weights[slice][s - begin], shape);
  }
  for (int half = kSlices / 2; half >= 1; half /= 2) {
    if (slice >= half && slice < 2 * half) other[slice - half][lane] = state;
    __syncthreads();
    if (slice < half) state.merge(other[slice][lane], shape);
    __syncthreads();
  }
  if (slice != 0 || column >= d) return;

  state.poison();
  const int64_t size = body_rows(k_count, args.shape) * d;
  if (args.before_head) {
    ColumnState total;
    total.load(args.before_head + g * head_size(k_count), args.before_body + g * size + column, d,
               k_count, first, shape);
    total.merge(state, shape);
    state = total;
  }
  state.store(args.body + g * size + column, d, k_count, first, shape);
}

/// Runs of rows per group: as many as fill the device once, of at least a stage each.
int column_splits(int64_t n, int64_t d, const MomentsArgs& args, int blocks_per_sm, int device) {
  const int64_t blocks =
      int64_t{device_attribute(cudaDevAttrMultiProcessorCount, device)} * blocks_per_sm;
  const int64_t tiles = ceil_div<int64_t>(d, tile_columns(args.exact));
  const int64_t most =
      std::min({blocks / tiles, ceil_div<int64_t>(n, kColumnThreads), int64_t{kMaxSplits}});
  return static_cast<int>(std::max<int64_t>(1, most));
}

/// |h| >= tau in float32 exactly when |h| >= tau.
float float_threshold(double tau) {
  const float rounded = static_cast<float>(tau);
  return rounded < tau ? std::nextafter(rounded, std::numeric_limits<float>::infinity()) : rounded;
}

template <class T, class A>
void launch_row_norms(const HiddenView& hidden, const MomentsArgs& args,
                      const MomentsWorkspace& workspace, int device, void* stream) {
  const int64_t blocks =
      std::min<int64_t>(ceil_div<int64_t>(hidden.n, kWarps),
                        8 * device_attribute(cudaDevAttrMultiProcessorCount, device));
  launch<&row_norms<T, A>>(dim3(static_cast<unsigned>(blocks)), dim3(kThreads), 0, stream, hidden,
                           args.group, rows_aligned(hidden.data, hidden.stride, sizeof(T), 16),
                           static_cast<A*>(workspace.inverse_norm));
}

/// Writes the comoments of covariates [first, first + workspace.k), and with first == 0 all the
/// rest.
void finalize(int64_t d, const MomentsArgs& args, const MomentsWorkspace& workspace, int first,
              void* stream) {
  launch<&finalize_columns>(dim3(static_cast<unsigned>(ceil_div<int64_t>(d, kWarp)), args.groups),
                            dim3(kWarp, kSlices), 0, stream, args, workspace, d, first);
}

}  // namespace

MomentsWorkspace::MomentsWorkspace(int64_t n, int64_t d, const MomentsArgs& args, int splits_wanted,
                                   void* base)
    : k(args.covariates() <= 1 ? 1 : kMaxCovariates), splits(splits_wanted) {
  const auto take = [&](int64_t size) {
    char* const place = static_cast<char*>(base) + bytes;
    bytes += ceil_div<int64_t>(size, 256) * 256;
    return base ? place : nullptr;
  };
  const int64_t item = args.exact ? sizeof(double) : sizeof(float);
  inverse_norm = take(args.shape ? item * n : 0);
  const auto take_doubles = [&](int64_t count) {
    return reinterpret_cast<double*>(take(static_cast<int64_t>(sizeof(double)) * count));
  };
  scalars = take_doubles(int64_t{args.groups} * splits * kPartialScalars);
  partial = take_doubles(int64_t{args.groups} * splits * partial_rows(k, args.shape) * d);
}

int64_t workspace_bytes(int64_t n, int64_t d, const MomentsArgs& args, int device) {
  const int k = args.covariates() <= 1 ? 1 : kMaxCovariates;
  const int splits = column_splits(n, d, args, column_blocks_per_sm(k, args.shape), device);
  return MomentsWorkspace(n, d, args, splits, nullptr).bytes;
}

void moments(const HiddenView& hidden, const MomentsArgs& args, const Context& context) {
  moments_of(hidden, args, context, false);
}

void moments_of(const HiddenView& hidden, const MomentsArgs& args, const Context& context,
                bool has_norms) {
  const DeviceGuard guard(context.device);
  const int k_count = args.covariates(), k = k_count <= 1 ? 1 : kMaxCovariates;
  const int resident = resident_column_blocks(hidden.dtype, args.exact, k, args.shape);
  MomentsWorkspace workspace(hidden.n, hidden.d, args,
                             column_splits(hidden.n, hidden.d, args, resident, context.device),
                             context.workspace);
  if (hidden.n == 0) workspace.splits = 0;  // finalize writes the state of no rows
  if (args.shape && !has_norms && hidden.n > 0) {
    with_dtype(hidden.dtype, [&](auto type) {
      using T = decltype(type);
      args.exact
          ? launch_row_norms<T, double>(hidden, args, workspace, context.device, context.stream)
          : launch_row_norms<T, float>(hidden, args, workspace, context.device, context.stream);
    });
  }
  ColumnArgs columns;
  columns.data = hidden.data;
  columns.n = hidden.n;
  columns.d = hidden.d;
  columns.stride = hidden.stride;
  columns.aligned = rows_aligned(hidden.data, hidden.stride, item_size(hidden.dtype),
                                 columns_per_thread(args.exact) * item_size(hidden.dtype));
  columns.covariates = CovariateSource(args, hidden.n);
  columns.inverse_norm = workspace.inverse_norm;
  columns.group = args.group;
  columns.tau = float_threshold(args.tau);
  columns.splits = workspace.splits;
  columns.split_rows = workspace.splits ? ceil_div<int64_t>(hidden.n, workspace.splits) : 0;
  columns.partial = workspace.partial;
  columns.scalars = workspace.scalars;
  for (int first = 0; first == 0 || first < k_count; first += workspace.k) {
    columns.first = first;
    columns.covariate_count = std::min(workspace.k, k_count - first);
    launch_column_sums(columns, hidden.dtype, args.exact, workspace.k, args.shape && first == 0,
                       args.groups, context.stream);
    finalize(hidden.d, args, workspace, first, context.stream);
  }
}

}  // namespace outdim::cuda
