// Attention received (core/attention_received.h): flash attention with its roles swapped.
//
// First pass: a block owns kTile queries of a head and streams the keys, keeping for each query the
// running maximum and the sum of exponentials (and, for the entropy, of e log e). Second pass: a
// block owns kTile keys and streams the queries; with both numbers of a query at hand every share
// is exp(s - max) / sum at once, and nothing is rescaled. Third: counts of who sees whom.
//
// Bytes: queries and keys once a pass and tile of the other, from L2 mostly; 8 a query and head of
// workspace. Mapping: 256 threads, 4 x 4 products each, 16 threads side by side along the axis that
// is summed. Deterministic: a tile is summed over four values of a thread, then over 16 lanes by a
// fixed tree, in float32; tiles in their order in float64; no atomics.
//
// Products are FMAs of float32, also for 16-bit inputs. Tensor cores (mma) are worth about four
// times as much on this shape; the emulator would need a stand-in for them.

#include "core/attention_received.h"
#include "cuda/common.cuh"
#include "cuda/kernels.h"

namespace outdim::cuda {
namespace {

constexpr int kTile = 64;  // queries or keys
constexpr int kSide = 16;  // threads along either axis of a tile
constexpr int kEach = kTile / kSide;
constexpr int kChunk = 16;  // of the d products of a score
constexpr int kThreads = kSide * kSide;
constexpr float kHidden = -INFINITY;
constexpr float kLeftOut = -1;  // in the place of 1 / sum

/// Rows of T, `count` of them, `stride` elements apart, d long.
template <class T>
struct Rows {
  const T* data;
  int64_t stride, count, d;
};

template <class T>
__device__ __forceinline__ Rows<T> rows_of(const void* data, const AttentionStrides& strides,
                                           int64_t batch, int64_t head, int64_t count, int64_t d) {
  return {static_cast<const T*>(data) + batch * strides.batch + head * strides.head, strides.row,
          count, d};
}

struct Tiles {
  float down[kChunk][kTile + 1];
  float along[kChunk][kTile + 1];
};

template <class T>
__device__ __forceinline__ void load_chunk(const Rows<T>& rows, int64_t first, int64_t column,
                                           float (&to)[kChunk][kTile + 1]) {
  const int thread = static_cast<int>(threadIdx.y) * kSide + static_cast<int>(threadIdx.x);
  for (int e = thread; e < kTile * kChunk; e += kThreads) {
    const int64_t row = first + e / kChunk, c = column + e % kChunk;
    const bool inside = row < rows.count && c < rows.d;
    to[e % kChunk][e / kChunk] =
        inside ? static_cast<float>(rows.data[row * rows.stride + c]) : 0.0f;
  }
}

/// Products of kEach rows `down`, those of threadIdx.y, with kEach rows `along`, of threadIdx.x.
template <class T>
__device__ __forceinline__ void multiply(const Rows<T>& down, int64_t first_down,
                                         const Rows<T>& along, int64_t first_along, Tiles& tiles,
                                         float (&product)[kEach][kEach]) {
#pragma unroll
  for (int a = 0; a < kEach; ++a)
#pragma unroll
    for (int b = 0; b < kEach; ++b) product[a][b] = 0;
  for (int64_t column = 0; column < down.d; column += kChunk) {
    __syncthreads();
    load_chunk(down, first_down, column, tiles.down);
    load_chunk(along, first_along, column, tiles.along);
    __syncthreads();
#pragma unroll
    for (int c = 0; c < kChunk; ++c) {
      float x[kEach], y[kEach];
#pragma unroll
      for (int a = 0; a < kEach; ++a) {
        x[a] = tiles.down[c][threadIdx.y + a * kSide];
        y[a] = tiles.along[c][threadIdx.x + a * kSide];
      }
#pragma unroll
      for (int a = 0; a < kEach; ++a)
#pragma unroll
        for (int b = 0; b < kEach; ++b) product[a][b] += x[a] * y[b];
    }
  }
}

__device__ __forceinline__ int group_of(const AttentionReceivedArgs& args, int64_t batch,
                                        int64_t query) {
  if (query >= args.queries) return 0;
  const int group = args.group == nullptr ? 1 : args.group[batch * args.queries + query];
  return group > args.groups ? 0 : group;
}

__device__ __forceinline__ bool visible(const AttentionReceivedArgs& args, int64_t batch,
                                        int64_t head, int64_t query, int64_t key) {
  if (query >= args.queries || key >= args.keys) return false;
  if (args.causal && key > query) return false;
  if (args.window > 0 && key <= query - args.window) return false;
  if (args.mask == nullptr) return true;
  const AttentionStrides& strides = args.mask_strides;
  return args.mask[batch * strides.batch + head * strides.head + query * strides.row + key] != 0;
}

/// The score of a product; hidden keys are chosen out, whatever it is.
__device__ __forceinline__ float score_of(const AttentionReceivedArgs& args, int64_t batch,
                                          int64_t head, int64_t query, int64_t key, float product) {
  if (!visible(args, batch, head, query, key)) return kHidden;
  float score = product * args.scale;
  if (args.softcap > 0) score = args.softcap * tanhf(score / args.softcap);
  const AttentionStrides& strides = args.bias_strides;
  if (args.bias != nullptr)
    score += args.bias[batch * strides.batch + head * strides.head + query * strides.row + key];
  return score;
}

/// Whether causality or the window hides every key of a tile from every query of another.
__device__ __forceinline__ bool apart(const AttentionReceivedArgs& args, int64_t query_first,
                                      int64_t key_first) {
  if (args.causal && key_first > query_first + kTile - 1) return true;
  return args.window > 0 && key_first + kTile - 1 <= query_first - args.window;
}

/// Sum over the 16 lanes of a row of threads, the same bits in each.
__device__ __forceinline__ float sum_along(float value) {
#pragma unroll
  for (int offset = kSide / 2; offset >= 1; offset /= 2)
    value += __shfl_xor_sync(kAllLanes, value, offset);
  return value;
}
__device__ __forceinline__ float max_along(float value) {
#pragma unroll
  for (int offset = kSide / 2; offset >= 1; offset /= 2)
    value = fmaxf(value, __shfl_xor_sync(kAllLanes, value, offset));
  return value;
}

/// What a thread knows of one query.
struct Row {
  float most = kHidden;
  float sum = 0;       // of e = exp(s - most), of this thread's keys
  float weighted = 0;  // of e (s - most)
  float sees = 0;

  __device__ __forceinline__ float base() const { return most == kHidden ? 0.0f : most; }

  __device__ __forceinline__ void rescale(float now) {
    if (!(now > most)) return;
    if (most != kHidden) {
      const float step = most - now, factor = expf(step);
      weighted = (weighted + sum * step) * factor;
      sum *= factor;
    }
    most = now;
  }

  __device__ __forceinline__ void add(float score) {
    const float x = score - base(), e = expf(x);
    sum += e;
    if (e != 0) weighted += e * x;
  }
};

template <class T>
__global__ void __launch_bounds__(kThreads)
    attention_rows(const AttentionReceivedArgs args, float2* statistics) {
  __shared__ Tiles tiles;
  const int64_t batch = blockIdx.z, head = blockIdx.y;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kTile;
  const int64_t key_head = head / (args.query_heads / args.key_heads);
  const auto query = rows_of<T>(args.query, args.query_strides, batch, head, args.queries, args.d);
  const auto key = rows_of<T>(args.key, args.key_strides, batch, key_head, args.keys, args.d);
  Row rows[kEach];
  for (int64_t keys = 0; keys < args.keys; keys += kTile) {
    if (apart(args, first, keys)) continue;
    float product[kEach][kEach];
    multiply(query, first, key, keys, tiles, product);
#pragma unroll
    for (int a = 0; a < kEach; ++a) {
      const int64_t i = first + threadIdx.y + a * kSide;
      float most = kHidden;
#pragma unroll
      for (int b = 0; b < kEach; ++b) {
        const int64_t j = keys + threadIdx.x + b * kSide;
        if (visible(args, batch, head, i, j)) rows[a].sees = 1;
        product[a][b] = score_of(args, batch, head, i, j, product[a][b]);
        most = fmaxf(most, product[a][b]);
      }
      rows[a].rescale(max_along(most));
#pragma unroll
      for (int b = 0; b < kEach; ++b) rows[a].add(product[a][b]);
    }
  }
#pragma unroll
  for (int a = 0; a < kEach; ++a) {
    const int64_t i = first + threadIdx.y + a * kSide;
    Row& row = rows[a];
    row.sum = sum_along(row.sum);
    row.weighted = sum_along(row.weighted);
    const bool counts = max_along(row.sees) > 0 && group_of(args, batch, i) > 0;
    if (args.sinks != nullptr) {
      row.rescale(args.sinks[head]);
      row.add(args.sinks[head]);
    }
    if (threadIdx.x != 0 || i >= args.queries) continue;
    const int64_t at = (batch * args.query_heads + head) * args.queries + i;
    statistics[at] = make_float2(row.base(), counts ? 1 / row.sum : kLeftOut);
    if (args.entropy != nullptr && counts)
      args.entropy[at] = static_cast<double>(logf(row.sum) - row.weighted / row.sum);
  }
}

// Two blocks a multiprocessor: left to itself ptxas aims at three, and spills a register.
template <class T>
__global__ void __launch_bounds__(kThreads, 2)
    attention_columns(const AttentionReceivedArgs args, const float2* statistics) {
  __shared__ Tiles tiles;
  double* sums = dynamic_shared<double>();  // [groups, kTile]
  const int64_t batch = blockIdx.z, head = blockIdx.y;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kTile;
  const int64_t key_head = head / (args.query_heads / args.key_heads);
  const auto query = rows_of<T>(args.query, args.query_strides, batch, head, args.queries, args.d);
  const auto key = rows_of<T>(args.key, args.key_strides, batch, key_head, args.keys, args.d);
  const int thread = static_cast<int>(threadIdx.y) * kSide + static_cast<int>(threadIdx.x);
  for (int e = thread; e < args.groups * kTile; e += kThreads) sums[e] = 0;
  for (int64_t queries = 0; queries < args.queries; queries += kTile) {
    if (apart(args, queries, first)) continue;
    float share[kEach][kEach];
    int group[kEach];
    multiply(key, first, query, queries, tiles, share);
#pragma unroll
    for (int b = 0; b < kEach; ++b) {
      const int64_t i = queries + threadIdx.x + b * kSide;
      group[b] = group_of(args, batch, i);
      float2 row = make_float2(0, kLeftOut);
      if (group[b] > 0) row = statistics[(batch * args.query_heads + head) * args.queries + i];
      if (row.y == kLeftOut) group[b] = 0;
#pragma unroll
      for (int a = 0; a < kEach; ++a) {
        const int64_t j = first + threadIdx.y + a * kSide;
        share[a][b] = expf(score_of(args, batch, head, i, j, share[a][b]) - row.x) * row.y;
      }
    }
    for (int g = 1; g <= args.groups; ++g) {
#pragma unroll
      for (int a = 0; a < kEach; ++a) {
        float sum = 0;
#pragma unroll
        for (int b = 0; b < kEach; ++b) sum += group[b] == g ? share[a][b] : 0.0f;
        sum = sum_along(sum);
        if (threadIdx.x == 0)
          sums[(g - 1) * kTile + threadIdx.y + a * kSide] += static_cast<double>(sum);
      }
    }
  }
  __syncthreads();
  for (int e = thread; e < args.groups * kTile; e += kThreads) {
    const int64_t g = e / kTile, j = first + e % kTile;
    if (j < args.keys)
      args.sums[((batch * args.groups + g) * args.query_heads + head) * args.keys + j] = sums[e];
  }
}

__global__ void __launch_bounds__(kThreads) attention_seen(const AttentionReceivedArgs args) {
  const int64_t key = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const int64_t group = blockIdx.y;
  const int64_t batch = blockIdx.z / args.mask_heads, head = blockIdx.z % args.mask_heads;
  if (key >= args.keys) return;
  int64_t count = 0;
  for (int64_t i = 0; i < args.queries; ++i)
    if (group_of(args, batch, i) == group + 1) count += visible(args, batch, head, i, key);
  args.seen[((batch * args.groups + group) * args.mask_heads + head) * args.keys + key] = count;
}

}  // namespace

int64_t attention_workspace_bytes(const AttentionReceivedArgs& args) {
  return args.batch * args.query_heads * args.queries * static_cast<int64_t>(sizeof(float2));
}

void attention_received(const AttentionReceivedArgs& args, const Context& context) {
  const DeviceGuard guard(context.device);
  const auto tiles = [](int64_t length, int64_t tile) {
    return static_cast<unsigned>(ceil_div(length, tile));
  };
  const auto batch = static_cast<unsigned>(args.batch);
  const auto heads = static_cast<unsigned>(args.query_heads);
  const auto groups = static_cast<unsigned>(args.groups);
  if (args.queries == 0) return;
  with_dtype(args.dtype, [&](auto type) {
    using T = decltype(type);
    auto* statistics = static_cast<float2*>(context.workspace);
    const dim3 threads(kSide, kSide);
    launch<&attention_rows<T>>(dim3(tiles(args.queries, kTile), heads, batch), threads, 0,
                               context.stream, args, statistics);
    launch<&attention_columns<T>>(dim3(tiles(args.keys, kTile), heads, batch), threads,
                                  args.groups * kTile * sizeof(double), context.stream, args,
                                  static_cast<const float2*>(statistics));
  });
  const auto masks = static_cast<unsigned>(args.batch * args.mask_heads);
  launch<&attention_seen>(dim3(tiles(args.keys, kThreads), groups, masks), dim3(kThreads), 0,
                          context.stream, args);
}

}  // namespace outdim::cuda
