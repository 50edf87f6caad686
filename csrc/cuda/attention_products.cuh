#pragma once

// Products of the rows of one tile, `down`, with those of the tiles of a span, `along`, one after
// the other: with FMAs, and with tensor cores. Both say which rows and columns of a tile a thread
// has; kLanes neighbouring lanes share a row.

#include "cuda/attention_received.cuh"

namespace outdim::cuda {

/// Float32 products of any type and width: kRows x kColumns a thread, d in chunks.
template <class T>
class PlainProducts {
  static constexpr int kSide = 16;   // threads along either axis of a tile
  static constexpr int kChunk = 16;  // of the d products of a score

 public:
  using Type = T;
  static constexpr int kDown = 64, kAlong = 64;
  static constexpr int kThreads = kSide * kSide, kBlocks = 2;
  static constexpr int kLanes = kSide;
  static constexpr int kRows = kDown / kSide, kColumns = kAlong / kSide;

  static constexpr size_t shared_bytes(int64_t) { return sizeof(Tiles); }

  __device__ __forceinline__ PlainProducts(void* shared, const Rows<T>& down, int64_t first,
                                           const Rows<T>& along, const Span&)
      : tiles_(*static_cast<Tiles*>(shared)), down_(down), along_(along), first_(first) {}

  __device__ __forceinline__ int row(int a) const { return threadIdx.x / kSide + a * kSide; }
  __device__ __forceinline__ int column(int b) const { return threadIdx.x % kSide + b * kSide; }

  __device__ __forceinline__ void multiply(int64_t tile, float (&product)[kRows][kColumns]) {
#pragma unroll
    for (int a = 0; a < kRows; ++a)
#pragma unroll
      for (int b = 0; b < kColumns; ++b) product[a][b] = 0;
    for (int chunk = 0; chunk < down_.d; chunk += kChunk) {
      __syncthreads();
      load<kDown>(down_, first_, chunk, tiles_.down);
      load<kAlong>(along_, tile, chunk, tiles_.along);
      __syncthreads();
#pragma unroll
      for (int c = 0; c < kChunk; ++c) {
        float x[kRows], y[kColumns];
#pragma unroll
        for (int a = 0; a < kRows; ++a) x[a] = tiles_.down[c][row(a)];
#pragma unroll
        for (int b = 0; b < kColumns; ++b) y[b] = tiles_.along[c][column(b)];
#pragma unroll
        for (int a = 0; a < kRows; ++a)
#pragma unroll
          for (int b = 0; b < kColumns; ++b) product[a][b] += x[a] * y[b];
      }
    }
  }

 private:
  struct Tiles {
    float down[kChunk][kDown + 1];
    float along[kChunk][kAlong + 1];
  };

  template <int kTile>
  __device__ __forceinline__ void load(const Rows<T>& rows, int64_t first, int chunk,
                                       float (&to)[kChunk][kTile + 1]) {
    for (int e = threadIdx.x; e < kTile * kChunk; e += kThreads) {
      const int64_t row = first + e / kChunk;
      const int c = chunk + e % kChunk;
      const bool inside = row < rows.count && c < rows.d;
      to[e % kChunk][e / kChunk] =
          inside ? static_cast<float>(rows.data[row * rows.stride + c]) : 0.0f;
    }
  }

  Tiles& tiles_;
  Rows<T> down_, along_;
  int64_t first_;
};

/// Products of 16-bit values by mma.m16n8k16, float32 sums. A warp has 32 rows and all columns of a
/// tile: A is loaded once for four pairs of B, 6 ldmatrix to 16 mma. `down` stays in shared memory;
/// the next tile along is copied while this one is worked on. The 8 values between rows put the
/// eight rows of an ldmatrix on different banks for every d.
template <class T>
class TensorProducts {
  static constexpr int kWarps = 4;
  static constexpr int kStrips = 2;  // of 16 rows, of a warp

 public:
  using Type = T;
  static constexpr int kDown = kWarps * kStrips * 16, kAlong = 64;
  static constexpr int kThreads = kWarps * kWarp, kBlocks = 3;
  static constexpr int kLanes = 4;
  static constexpr int kRows = kStrips * 2, kColumns = kAlong / 4;

  static constexpr size_t shared_bytes(int64_t d) {
    return (kDown + 2 * kAlong) * pitch_of(d) * sizeof(uint16_t);
  }

  __device__ __forceinline__ TensorProducts(void* shared, const Rows<T>& down, int64_t first,
                                            const Rows<T>& along, const Span& span)
      : along_(along), to_(span.to), pitch_(static_cast<int>(pitch_of(down.d))) {
    down_tile_ = static_cast<uint16_t*>(shared);
    along_tile_ = down_tile_ + kDown * pitch_;
    spare_tile_ = along_tile_ + kAlong * pitch_;
    if (span.from >= span.to) return;
    load<kDown>(down, first, down_tile_);
    load<kAlong>(along, span.from, along_tile_);
  }

  __device__ __forceinline__ int row(int a) const {
    return warp() * kStrips * 16 + a * 8 + lane() / 4;
  }
  __device__ __forceinline__ int column(int b) const { return b / 2 * 8 + lane() % 4 * 2 + b % 2; }

  __device__ __forceinline__ void multiply(int64_t tile, float (&product)[kRows][kColumns]) {
    wait_for_copies();
    __syncthreads();  // the copies of all are here, and all are done with the tile before
    if (tile + kAlong < to_) load<kAlong>(along_, tile + kAlong, spare_tile_);
    float sum[kStrips][kAlong / 8][4];
#pragma unroll
    for (int s = 0; s < kStrips; ++s)
#pragma unroll
      for (int n = 0; n < kAlong / 8; ++n)
#pragma unroll
        for (int i = 0; i < 4; ++i) sum[s][n][i] = 0;
    // A: the matrices of ldmatrix are its four quarters, down first. B, whose columns are rows
    // here: the two halves of eight columns, then of the next eight.
    const uint16_t* a_row = down_tile_ + (warp() * kStrips * 16 + lane() % 16) * pitch_;
    const uint16_t* b_row = along_tile_ + (lane() % 8 + lane() / 16 * 8) * pitch_;
    a_row += lane() / 16 * 8;
    b_row += lane() / 8 % 2 * 8;
    for (int k = 0; k < pitch_ - kPad; k += 16) {
      uint32_t a[kStrips][4];
#pragma unroll
      for (int s = 0; s < kStrips; ++s) load_matrices(a[s], a_row + s * 16 * pitch_ + k);
#pragma unroll
      for (int n = 0; n < kAlong / 8; n += 2) {
        uint32_t b[4];
        load_matrices(b, b_row + n * 8 * pitch_ + k);
#pragma unroll
        for (int s = 0; s < kStrips; ++s) {
          multiply_add(sum[s][n], a[s], b[0], b[1], T{});
          multiply_add(sum[s][n + 1], a[s], b[2], b[3], T{});
        }
      }
    }
#pragma unroll
    for (int a = 0; a < kRows; ++a)
#pragma unroll
      for (int b = 0; b < kColumns; ++b) product[a][b] = sum[a / 2][b / 2][a % 2 * 2 + b % 2];
    uint16_t* const done = along_tile_;
    along_tile_ = spare_tile_;
    spare_tile_ = done;
  }

 private:
  static constexpr int kPad = 8;
  static constexpr int kPacket = 8;  // values of one copy

  __host__ __device__ static constexpr int64_t pitch_of(int64_t d) {
    return ceil_div<int64_t>(d, 16) * 16 + kPad;
  }
  __device__ __forceinline__ static int lane() { return threadIdx.x % kWarp; }
  __device__ __forceinline__ static int warp() { return threadIdx.x / kWarp; }

  /// What is not there is zero.
  template <int kTile>
  __device__ __forceinline__ void load(const Rows<T>& rows, int64_t first, uint16_t* to) const {
    const auto* data = reinterpret_cast<const uint16_t*>(rows.data);
    const bool aligned = reinterpret_cast<uintptr_t>(data) % 16 == 0 && rows.stride % kPacket == 0;
    const int packets = (pitch_ - kPad) / kPacket;
    for (int e = threadIdx.x; e < kTile * packets; e += kThreads) {
      const int r = e / packets, c = e % packets * kPacket;
      const bool inside = first + r < rows.count;
      const uint16_t* const from = data + (inside ? (first + r) * rows.stride + c : 0);
      uint16_t* const goal = to + r * pitch_ + c;
      if (aligned && c + kPacket <= rows.d) {
        start_copy(goal, from, inside);
      } else {
        for (int v = 0; v < kPacket; ++v)
          goal[v] = inside && c + v < rows.d ? from[v] : uint16_t{0};
      }
    }
  }

  Rows<T> along_;
  int64_t to_;
  int pitch_;
  uint16_t *down_tile_, *along_tile_, *spare_tile_;  // [rows][pitch]
};

}  // namespace outdim::cuda
