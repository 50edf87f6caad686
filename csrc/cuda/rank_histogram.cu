// Histogram of 16-bit patterns: counts and sums of doubled ranks, both int64, so that atomic
// additions in any order give the same bytes. A warp takes neighbouring dimensions of a row; 2 S
// bytes per row read, 16 bytes per value added in L2.

#include <algorithm>

#include "cuda/common.cuh"
#include "cuda/kernels.h"

namespace outdim::cuda {
namespace {

constexpr int kRowsPerBlock = 8;
constexpr int kPage = 256;

/// Calls `use(s, row, pattern)` for every selected row and dimension that there is.
template <class Use>
__device__ __forceinline__ void for_each_pattern(const HiddenView& hidden,
                                                 const RankHistogramArgs& args, Use&& use) {
  const int64_t s = static_cast<int64_t>(blockIdx.x) * kWarp + threadIdx.x;
  if (s >= args.s || args.dims[s] < 0 || args.dims[s] >= hidden.d) return;
  const uint16_t* const column = static_cast<const uint16_t*>(hidden.data) + args.dims[s];
  const int64_t step = static_cast<int64_t>(gridDim.y) * kRowsPerBlock;
  for (int64_t row = static_cast<int64_t>(blockIdx.y) * kRowsPerBlock + threadIdx.y; row < hidden.n;
       row += step) {
    if (!args.mask || args.mask[row]) use(s, row, column[row * hidden.stride]);
  }
}

__global__ void __launch_bounds__(kWarp* kRowsPerBlock)
    touch_pages(const HiddenView hidden, const RankHistogramArgs args, uint8_t* touched) {
  for_each_pattern(hidden, args, [&](int64_t s, int64_t, uint16_t pattern) {
    uint8_t* const flag = touched + s * kPage + pattern / kPage;
    if (*flag == 0) *flag = 1;  // every writer writes the same
  });
}

__device__ __forceinline__ void atomic_add(int64_t* address, int64_t value) {
  atomicAdd(reinterpret_cast<unsigned long long*>(address), static_cast<unsigned long long>(value));
}

__global__ void __launch_bounds__(kWarp* kRowsPerBlock)
    add_patterns(const HiddenView hidden, const RankHistogramArgs args) {
  for_each_pattern(hidden, args, [&](int64_t s, int64_t row, uint16_t pattern) {
    const int64_t id = args.ids[row];
    const int64_t page = args.page_index[s * kPage + pattern / kPage];
    if (id < 0 || id >= args.vocab || page < 0 || page >= args.pages) return;
    const int64_t bin = page * kPage + pattern % kPage;
    atomic_add(args.count + bin, 1);
    atomic_add(args.rank_sum + bin, args.double_rank[id]);
  });
}

dim3 grid_of(const HiddenView& hidden, const RankHistogramArgs& args, int device) {
  const int64_t columns = ceil_div<int64_t>(args.s, kWarp);
  const int64_t wanted = ceil_div<int64_t>(
      8 * device_attribute(cudaDevAttrMultiProcessorCount, device), std::max<int64_t>(columns, 1));
  const int64_t rows = std::min(ceil_div<int64_t>(hidden.n, kRowsPerBlock), wanted);
  return dim3(static_cast<unsigned>(columns), static_cast<unsigned>(rows));
}

}  // namespace

void rank_histogram_touch(const HiddenView& hidden, const RankHistogramArgs& args, uint8_t* touched,
                          const Context& context) {
  const DeviceGuard guard(context.device);
  launch<&touch_pages>(grid_of(hidden, args, context.device), dim3(kWarp, kRowsPerBlock), 0,
                       context.stream, hidden, args, touched);
}

void rank_histogram_add(const HiddenView& hidden, const RankHistogramArgs& args,
                        const Context& context) {
  const DeviceGuard guard(context.device);
  launch<&add_patterns>(grid_of(hidden, args, context.device), dim3(kWarp, kRowsPerBlock), 0,
                        context.stream, hidden, args);
}

}  // namespace outdim::cuda
