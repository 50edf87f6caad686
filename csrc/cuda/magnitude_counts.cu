// Histograms of |h| of every dimension (core/magnitude_counts.h): atomic additions of integers, in
// any order the same. A warp takes neighbouring dimensions of a row: s N D bytes read, and 4 bytes
// of bins a value added in L2. Which lines were written is not noted: a GPU moves all of them.

#include <algorithm>

#include "core/magnitude_counts.h"
#include "cuda/common.cuh"
#include "cuda/kernels.h"

namespace outdim::cuda {
namespace {

constexpr int kRowsPerBlock = 8;

template <class T>
__global__ void __launch_bounds__(kWarp* kRowsPerBlock)
    count_magnitudes(const HiddenView hidden, const MagnitudeCountsArgs args) {
  const int64_t dim = static_cast<int64_t>(blockIdx.x) * kWarp + threadIdx.x;
  if (dim >= hidden.d) return;
  const T* const column = static_cast<const T*>(hidden.data) + dim;
  const int64_t step = static_cast<int64_t>(gridDim.y) * kRowsPerBlock;
  for (int64_t row = static_cast<int64_t>(blockIdx.y) * kRowsPerBlock + threadIdx.y; row < hidden.n;
       row += step) {
    const int group = args.group ? args.group[row] : 1;
    if (group == 0 || group > args.groups) continue;
    const float h = static_cast<float>(column[row * hidden.stride]);
    const int code = static_cast<int>((__float_as_uint(h) & 0x7fffffffu) >> kMagnitudeShift);
    const int bin = min(max(code - kMagnitudeFirst, 0), kMagnitudeBins - 1);
    atomicAdd(args.fresh + ((group - 1) * hidden.d + dim) * kMagnitudeRoom + bin, 1);
  }
}

}  // namespace

void magnitude_counts_add(const HiddenView& hidden, const MagnitudeCountsArgs& args,
                          const Context& context) {
  const DeviceGuard guard(context.device);
  const int64_t columns = ceil_div<int64_t>(hidden.d, kWarp);
  const int64_t wanted = ceil_div<int64_t>(
      8 * device_attribute(cudaDevAttrMultiProcessorCount, context.device), columns);
  const int64_t rows = std::min(ceil_div<int64_t>(hidden.n, kRowsPerBlock), wanted);
  const dim3 grid(static_cast<unsigned>(columns), static_cast<unsigned>(rows));
  with_dtype(hidden.dtype, [&](auto type) {
    launch<&count_magnitudes<decltype(type)>>(grid, dim3(kWarp, kRowsPerBlock), 0, context.stream,
                                              hidden, args);
  });
}

}  // namespace outdim::cuda
