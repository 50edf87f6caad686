// Places of the extremes and the kurtosis of tokens (core/token_shape.h). A warp takes a row: s D
// bytes read. Deterministic: which lane takes a column depends on the column alone, and the lanes
// are put together in a fixed order.

#include <cmath>

#include "core/token_shape.h"
#include "cuda/common.cuh"
#include "cuda/kernels.h"

namespace outdim::cuda {
namespace {

constexpr int kRowsPerBlock = 4;

/// The first of the smallest values that a lane has seen, or the first NaN.
struct First {
  float value;
  int64_t column;

  __device__ __forceinline__ void see(float other, int64_t at) {
    const bool mine = value != value, its = other != other;
    const bool before = at < column;
    if (its ? !mine || before : !mine && (other < value || (other == value && before))) {
      value = other;
      column = at;
    }
  }

  /// The first over the lanes of a warp, in every lane.
  __device__ __forceinline__ void across() {
#pragma unroll
    for (int offset = kWarp / 2; offset >= 1; offset /= 2) {
      const float other = __shfl_xor_sync(kAllLanes, value, offset);
      const int64_t at = __shfl_xor_sync(kAllLanes, column, offset);
      see(other, at);
    }
  }
};

template <class T>
__global__ void __launch_bounds__(kWarp* kRowsPerBlock)
    shape_tokens(const HiddenView hidden, const TokenShapeArgs args) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kRowsPerBlock + threadIdx.y;
  if (row >= hidden.n) return;  // the whole warp
  const bool first_lane = threadIdx.x == 0;
  if (args.group && args.group[row] == 0) {
    if (first_lane) {
      args.smallest[row] = args.largest[row] = -1;
      args.kurtosis[row] = NAN;
    }
    return;
  }
  const T* const values = static_cast<const T*>(hidden.data) + row * hidden.stride;
  First smallest = {INFINITY, hidden.d}, largest = {INFINITY, hidden.d};  // of h and of -h
  double second = 0, fourth = 0;
  for (int64_t column = threadIdx.x; column < hidden.d; column += kWarp) {
    const float h = static_cast<float>(values[column]);
    smallest.see(h, column);
    largest.see(-h, column);
    const double square = static_cast<double>(h) * h;
    second += square;
    fourth += square * square;
  }
  smallest.across();
  largest.across();
  second = warp_sum(second);
  fourth = warp_sum(fourth);
  if (!first_lane) return;
  args.smallest[row] = smallest.column;
  args.largest[row] = largest.column;
  args.kurtosis[row] = static_cast<double>(hidden.d) * fourth / (second * second) - 3.0;
}

}  // namespace

void token_shape(const HiddenView& hidden, const TokenShapeArgs& args, const Context& context) {
  const DeviceGuard guard(context.device);
  const auto blocks = static_cast<unsigned>(ceil_div<int64_t>(hidden.n, kRowsPerBlock));
  with_dtype(hidden.dtype, [&](auto type) {
    launch<&shape_tokens<decltype(type)>>(dim3(blocks), dim3(kWarp, kRowsPerBlock), 0,
                                          context.stream, hidden, args);
  });
}

}  // namespace outdim::cuda
