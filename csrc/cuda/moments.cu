// `moments` on the device: prepare, [norms of the rows,] the column kernel (moments_columns.cu),
// finalize; and once more the column kernel and finalize for every further four covariates. With
// shape the rows are read twice, first for their norms: a tensor of a usual batch stays in the L2
// cache between the two.

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
constexpr int kMaxRowBlocks = 128;

/// The value of covariate k at a row; NaN for an id outside the table.
__device__ __forceinline__ double covariate(const MomentsArgs& args, int64_t n, int k,
                                            int64_t row) {
  if (k >= args.table_covariates) return args.rows[(k - args.table_covariates) * n + row];
  const int64_t id = args.ids[row];
  return id >= 0 && id < args.vocab ? args.table[k * args.vocab + id] : NAN;
}

/// A finite value of the covariate near the bulk: the median of three rows, selected or not; 0 if
/// there is none.
__device__ __forceinline__ double covariate_pivot(const MomentsArgs& args, int64_t n, int k) {
  double value[3] = {covariate(args, n, k, 0), covariate(args, n, k, n / 2),
                     covariate(args, n, k, n - 1)};
  double finite = 0.0;
  bool all = true;
#pragma unroll
  for (int i = 0; i < 3; ++i) {
    if (isfinite(value[i])) {
      finite = value[i];
    } else {
      all = false;
    }
  }
  return all ? fmax(fmin(value[0], value[1]), fmin(fmax(value[0], value[1]), value[2])) : finite;
}

/// Sum over the block, valid in thread 0.
__device__ __forceinline__ double block_sum(double value, double (&shared)[kWarps]) {
  value = warp_sum(value);
  __syncthreads();  // the last call's reads are over
  if (threadIdx.x % kWarp == 0) shared[threadIdx.x / kWarp] = value;
  __syncthreads();
  double sum = 0.0;
  if (threadIdx.x == 0) {
    for (int w = 0; w < kWarps; ++w) sum += shared[w];
  }
  return sum;
}

/// Block (b, g) takes the b-th run of rows for group g + 1; the blocks of the first group write the
/// deviations.
template <class A>
__global__ void __launch_bounds__(kThreads)
    prepare_rows(const MomentsArgs args, int64_t n, int64_t run, A* deviations, double* pivots,
                 double* row_sums) {
  __shared__ double shared[kWarps];
  const int k_count = args.covariates();
  const int64_t begin = blockIdx.x * run, end = begin + run < n ? begin + run : n;
  double* const out =
      row_sums + (static_cast<int64_t>(blockIdx.y) * gridDim.x + blockIdx.x) * head_size(k_count);
  const auto selected = [&](int64_t row) {
    return !args.group || args.group[row] == blockIdx.y + 1;
  };

  double count = 0.0;
  for (int64_t row = begin + threadIdx.x; row < end; row += kThreads) count += selected(row);
  count = block_sum(count, shared);
  if (threadIdx.x == 0) out[0] = count;
  for (int k = 0; k < k_count; ++k) {
    const double pivot = covariate_pivot(args, n, k);
    double sum = 0.0, squares = 0.0;
    for (int64_t row = begin + threadIdx.x; row < end; row += kThreads) {
      const double deviation = covariate(args, n, k, row) - pivot;
      if (blockIdx.y == 0) deviations[k * n + row] = static_cast<A>(deviation);
      if (selected(row)) {
        sum += deviation;
        squares += deviation * deviation;
      }
    }
    sum = block_sum(sum, shared);
    squares = block_sum(squares, shared);
    if (threadIdx.x == 0) {
      out[1 + k] = sum;
      out[1 + k_count + k] = squares;
      if (blockIdx.x == 0 && blockIdx.y == 0) pivots[k] = pivot;
    }
  }
}

/// 1 / ||h|| of the counted rows, 0 where the norm is zero or not finite; a warp per row, float64
/// throughout.
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
    if (lane == 0) {
      const A inverse = static_cast<A>(1.0 / sqrt(squares));
      inverse_norm[row] = squares > 0.0 && isfinite(squares) && isfinite(inverse) ? inverse : A(0);
    }
  }
}

constexpr int kSlices = 8;  // runs of partial states that a block merges side by side

/// Head of a group: n, means and M2 of the covariates. One thread per covariate.
__device__ void finalize_head(const MomentsArgs& args, const MomentsWorkspace& workspace, int g,
                              int thread, int threads) {
  const int k_count = args.covariates();
  const int64_t size = head_size(k_count);
  const double* const sums =
      workspace.row_sums + static_cast<int64_t>(g) * workspace.row_blocks * size;
  double* const head = args.head + g * size;
  double n = 0.0;
  for (int b = 0; b < workspace.row_blocks; ++b) n += sums[b * size];
  if (thread == 0) head[0] = n;
  for (int k = thread; k < k_count; k += threads) {
    double sum = 0.0, squares = 0.0;
    for (int b = 0; b < workspace.row_blocks; ++b) {
      sum += sums[b * size + 1 + k];
      squares += sums[b * size + 1 + k_count + k];
    }
    const double mean = sum / n;
    head[1 + k] = n > 0.0 ? workspace.pivots[k] + mean : 0.0;
    head[1 + k_count + k] = n > 0.0 ? central_m2(sum, squares, mean) : 0.0;
  }
}

/// Block (tile of 32 columns, group), thread (column, slice): each slice merges its run of partial
/// states in order, then the slices are merged two by two.
__global__ void __launch_bounds__(kWarp* kSlices)
    finalize_columns(const MomentsArgs args, const MomentsWorkspace workspace, int64_t d,
                     int first) {
  __shared__ ColumnState other[kSlices / 2][kWarp];
  const int g = blockIdx.y;
  const int64_t column = static_cast<int64_t>(blockIdx.x) * kWarp + threadIdx.x;
  const bool shape = args.shape && first == 0;
  if (first == 0 && blockIdx.x == 0) {
    finalize_head(args, workspace, g, threadIdx.y * kWarp + threadIdx.x, kWarp * kSlices);
  }
  const int64_t rows = partial_rows(workspace.k, shape);
  ColumnState state;
  state.clear();
  const int run = ceil_div(workspace.splits, kSlices);
  const int begin = threadIdx.y * run, end = min(begin + run, workspace.splits);
  for (int s = begin; s < end; ++s) {
    const int64_t index = static_cast<int64_t>(g) * workspace.splits + s;
    const double* const scalars = workspace.scalars + index * kPartialScalars;
    if (scalars[0] == 0.0 || column >= d) continue;  // no rows: nothing was written
    ColumnState next;
    next.read(workspace.partial + index * rows * d + column, d, scalars, workspace.k, shape);
    state.merge(next, shape);
  }
  for (int half = kSlices / 2; half >= 1; half /= 2) {
    if (threadIdx.y >= half && threadIdx.y < 2 * half)
      other[threadIdx.y - half][threadIdx.x] = state;
    __syncthreads();
    if (threadIdx.y < half) state.merge(other[threadIdx.y][threadIdx.x], shape);
    __syncthreads();
  }
  if (threadIdx.y != 0 || column >= d) return;

  const int k_count = args.covariates();
  const bool finite = isfinite(state.m2);  // otherwise there was a NaN or an infinity
  double* const body = args.body + g * body_rows(k_count, args.shape) * d + column;
  const auto moment = [&](double value) { return finite ? value : NAN; };
#pragma unroll
  for (int k = 0; k < kMaxCovariates; ++k) {
    if (k >= workspace.k || first + k >= k_count) continue;
    body[(kBaseRows + first + k) * d] = moment(state.c[k]);
    body[(kBaseRows + k_count + first + k) * d] = moment(state.c_abs[k]);
  }
  if (first > 0) return;
  body[kMean * d] = moment(state.mean);
  body[kM2 * d] = moment(state.m2);
  body[kMeanAbs * d] = moment(state.mean_abs);
  body[kM2Abs * d] = moment(state.m2_abs);
  if (shape) {
    double* const rest = body + (kBaseRows + 2 * k_count) * d;
    rest[kM3 * d] = moment(state.m3);
    rest[kM4 * d] = moment(state.m4);
    rest[kMin * d] = state.minimum;
    rest[kMax * d] = state.maximum;
    rest[kCountOver * d] = state.over;
    rest[kUnitSum * d] = state.unit;
    rest[kNonfinite * d] = state.nonfinite;
  }
}

/// Runs of rows per group: as many as fill the device once, of at least a stage each.
int column_splits(int64_t n, int64_t d, const MomentsArgs& args, int device) {
  const int k = args.covariates() <= 1 ? 1 : kMaxCovariates;
  const int64_t blocks = int64_t{device_attribute(cudaDevAttrMultiProcessorCount, device)} *
                         column_blocks_per_sm(k, args.shape);
  const int64_t tiles = ceil_div<int64_t>(d, tile_columns(args.exact));
  return static_cast<int>(
      std::max<int64_t>(1, std::min(blocks / tiles, ceil_div<int64_t>(n, kColumnThreads))));
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
  launch(&row_norms<T, A>, dim3(static_cast<unsigned>(blocks)), dim3(kThreads), 0, stream, hidden,
         args.group, rows_aligned(hidden.data, hidden.stride, sizeof(T), 16),
         static_cast<A*>(workspace.inverse_norm));
}

}  // namespace

MomentsWorkspace::MomentsWorkspace(int64_t n, int64_t d, const MomentsArgs& args, int splits_wanted,
                                   void* base)
    : k(args.covariates() <= 1 ? 1 : kMaxCovariates),
      splits(splits_wanted),
      row_blocks(
          static_cast<int>(std::min<int64_t>(kMaxRowBlocks, ceil_div<int64_t>(n, 4 * kThreads)))) {
  const auto take = [&](int64_t size) {
    char* const place = static_cast<char*>(base) + bytes;
    bytes += ceil_div<int64_t>(size, 256) * 256;
    return base ? place : nullptr;
  };
  const int64_t item = args.exact ? sizeof(double) : sizeof(float), k_count = args.covariates();
  covariates = take(item * k_count * n);
  inverse_norm = take(args.shape ? item * n : 0);
  const auto take_doubles = [&](int64_t count) {
    return reinterpret_cast<double*>(take(static_cast<int64_t>(sizeof(double)) * count));
  };
  pivots = take_doubles(k_count);
  row_sums = take_doubles(args.groups * row_blocks * head_size(args.covariates()));
  scalars = take_doubles(int64_t{args.groups} * splits * kPartialScalars);
  partial = take_doubles(int64_t{args.groups} * splits * partial_rows(k, args.shape) * d);
}

void prepare(int64_t n, const MomentsArgs& args, const MomentsWorkspace& workspace, void* stream) {
  if (n == 0) return;
  const dim3 grid(workspace.row_blocks, args.groups);
  const int64_t run = ceil_div<int64_t>(n, workspace.row_blocks);
  if (args.exact) {
    launch(&prepare_rows<double>, grid, dim3(kThreads), 0, stream, args, n, run,
           static_cast<double*>(workspace.covariates), workspace.pivots, workspace.row_sums);
  } else {
    launch(&prepare_rows<float>, grid, dim3(kThreads), 0, stream, args, n, run,
           static_cast<float*>(workspace.covariates), workspace.pivots, workspace.row_sums);
  }
}

void finalize(int64_t d, const MomentsArgs& args, const MomentsWorkspace& workspace, int first,
              void* stream) {
  launch(&finalize_columns, dim3(static_cast<unsigned>(ceil_div<int64_t>(d, kWarp)), args.groups),
         dim3(kWarp, kSlices), 0, stream, args, workspace, d, first);
}

int64_t workspace_bytes(int64_t n, int64_t d, const MomentsArgs& args, int device) {
  const int splits = std::max(column_splits(n, d, args, device), fused_blocks(d, args, device));
  return MomentsWorkspace(n, d, args, splits, nullptr).bytes;
}

void moments(const HiddenView& hidden, const MomentsArgs& args, const Context& context) {
  const DeviceGuard guard(context.device);
  MomentsWorkspace workspace(hidden.n, hidden.d, args,
                             column_splits(hidden.n, hidden.d, args, context.device),
                             context.workspace);
  if (hidden.n == 0) workspace.splits = 0;  // finalize writes the state of no rows
  prepare(hidden.n, args, workspace, context.stream);
  if (args.shape && hidden.n > 0) {
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
  columns.inverse_norm = workspace.inverse_norm;
  columns.group = args.group;
  columns.tau = float_threshold(args.tau);
  columns.splits = workspace.splits;
  columns.split_rows = workspace.splits ? ceil_div<int64_t>(hidden.n, workspace.splits) : 0;
  columns.partial = workspace.partial;
  columns.scalars = workspace.scalars;
  const int k_count = args.covariates();
  const int64_t item = args.exact ? sizeof(double) : sizeof(float);
  for (int first = 0; first == 0 || first < k_count; first += workspace.k) {
    columns.covariates = static_cast<const char*>(workspace.covariates) + first * item * hidden.n;
    columns.covariate_count = std::min(workspace.k, k_count - first);
    launch_column_sums(columns, hidden.dtype, args.exact, workspace.k, args.shape && first == 0,
                       args.groups, context.stream);
    finalize(hidden.d, args, workspace, first, context.stream);
  }
}

}  // namespace outdim::cuda
