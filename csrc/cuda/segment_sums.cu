// Sums of h, |h| and h^2 by segment (core/segment_sums.h).
//
// Bytes: s N D read, and for every segment with rows 24 D read and 24 D written. Mapping: a block
// is one segment and a tile of columns, a word (one float32, two 16-bit values) a lane; its kLanes
// warps take every kLanes-th row of the segment and keep kAhead loads under way, so that the rows
// of the most frequent type, a twentieth of all, do not queue behind one another. Deterministic:
// which warp sums a row depends on its place in the segment alone, and the warps' sums are added in
// their order. (On the CPU a segment is one chain of additions; the last bits differ from these.)

#include "core/segment_sums.h"
#include "cuda/common.cuh"
#include "cuda/kernels.h"

namespace outdim::cuda {
namespace {

constexpr int kLanes = 8;  // warps of a block, each with rows of its own
constexpr int kAhead = 4;

template <class T>
constexpr int kColumns = 4 / static_cast<int>(sizeof(T));  // of a word

template <class T>
struct Sums {
  double row[kSegmentRows][kColumns<T>] = {};

  __device__ __forceinline__ void add(const Packet<T, kColumns<T>>& packet) {
    float h[kColumns<T>];
    unpack<T, kColumns<T>>(packet, h);
#pragma unroll
    for (int i = 0; i < kColumns<T>; ++i) {
      const double value = h[i];
      row[kSumH][i] += value;
      row[kSumAbs][i] += value < 0 ? -value : value;
      row[kSumSquares][i] += value * value;
    }
  }
};

template <class T, bool kAligned>
__device__ __forceinline__ Packet<T, kColumns<T>> load_word(const HiddenView& hidden, int64_t row,
                                                            int64_t column) {
  const T* p = static_cast<const T*>(hidden.data) + row * hidden.stride + column;
  const int64_t left = hidden.d - column;
  if (left <= 0 || row < 0 || row >= hidden.n) return zero_packet<T, kColumns<T>>();
  if (kAligned && left >= kColumns<T>) return load_aligned<T, kColumns<T>>(p);
  return load_guarded<T, kColumns<T>>(p, left < kColumns<T> ? static_cast<int>(left) : kColumns<T>);
}

template <class T, bool kAligned>
__global__ void __launch_bounds__(kWarp* kLanes)
    add_segments(const HiddenView hidden, const SegmentSumsArgs args) {
  constexpr int kWord = kColumns<T>;
  __shared__ double partial[kLanes][kSegmentRows][kWarp * kWord];
  const int64_t segment = blockIdx.y;
  const int64_t begin = args.starts[segment], end = args.starts[segment + 1];
  const int64_t from = args.read[segment], to = args.write[segment];
  if (begin >= end || begin < 0 || end > args.ordered) return;
  if (from < -1 || from >= args.table_rows || to < 0 || to >= args.table_rows) return;

  const int64_t tile = static_cast<int64_t>(blockIdx.x) * kWarp * kWord;
  const int64_t column = tile + threadIdx.x * kWord;
  Sums<T> sums;
  int64_t i = begin + threadIdx.y;
  for (; i + (kAhead - 1) * kLanes < end; i += kAhead * kLanes) {
    Packet<T, kWord> ahead[kAhead];
#pragma unroll
    for (int k = 0; k < kAhead; ++k)
      ahead[k] = load_word<T, kAligned>(hidden, args.order[i + k * kLanes], column);
#pragma unroll
    for (int k = 0; k < kAhead; ++k) sums.add(ahead[k]);
  }
  for (; i < end; i += kLanes) sums.add(load_word<T, kAligned>(hidden, args.order[i], column));

#pragma unroll
  for (int r = 0; r < kSegmentRows; ++r) {
#pragma unroll
    for (int k = 0; k < kWord; ++k)
      partial[threadIdx.y][r][threadIdx.x * kWord + k] = sums.row[r][k];
  }
  __syncthreads();
  const int thread = static_cast<int>(threadIdx.y) * kWarp + static_cast<int>(threadIdx.x);
  for (int j = thread; j < kSegmentRows * kWarp * kWord; j += kWarp * kLanes) {
    const int r = j / (kWarp * kWord), c = j % (kWarp * kWord);
    if (tile + c >= hidden.d) continue;
    double total = from < 0 ? 0.0 : args.sums[(from * kSegmentRows + r) * hidden.d + tile + c];
    for (int lane = 0; lane < kLanes; ++lane) total += partial[lane][r][c];
    args.sums[(to * kSegmentRows + r) * hidden.d + tile + c] = total;
  }
}

/// Segments of a launch: a grid has at most 65,535 blocks along y.
constexpr int64_t kMaxSegments = 65535;

template <class T, bool kAligned>
void add_all(const HiddenView& hidden, SegmentSumsArgs args, void* stream) {
  const auto tiles = static_cast<unsigned>(ceil_div<int64_t>(hidden.d, kWarp * kColumns<T>));
  for (int64_t left = args.segments; left > 0; left -= kMaxSegments) {
    const auto segments = static_cast<unsigned>(left < kMaxSegments ? left : kMaxSegments);
    launch<&add_segments<T, kAligned>>(dim3(tiles, segments), dim3(kWarp, kLanes), 0, stream,
                                       hidden, args);
    args.starts += segments;
    args.read += segments;
    args.write += segments;
  }
}

}  // namespace

void segment_sums(const HiddenView& hidden, const SegmentSumsArgs& args, const Context& context) {
  const DeviceGuard guard(context.device);
  with_dtype(hidden.dtype, [&](auto type) {
    using T = decltype(type);
    rows_aligned(hidden.data, hidden.stride, sizeof(T), 4)
        ? add_all<T, true>(hidden, args, context.stream)
        : add_all<T, false>(hidden, args, context.stream);
  });
}

}  // namespace outdim::cuda
