// Attention received (core/attention_received.h): flash attention with its roles swapped.
//
// First pass: a block owns the queries of one tile of a head and streams the keys, keeping for each
// query the running maximum and the sum of exponentials (and, for the entropy, of e log e). Second
// pass: a block owns a tile of keys and streams the queries; with both numbers of a query at hand
// every share is exp(s - max) / sum at once, and nothing is rescaled. Third: counts of who sees
// whom.
//
// Bytes: queries and keys once a pass and tile of the other, from L2 mostly; 8 a query and head of
// workspace. Mapping: attention_products.cuh; float16 and bfloat16 go to tensor cores, float32 and
// rows too wide for shared memory to FMAs. Deterministic: a tile is summed over the values of a
// thread, then over the lanes of a row by a fixed tree, in float32; tiles in their order in float64;
// no atomics.
//
// Float32 stays with FMAs: TF32 keeps 11 bits, which moves a score by 2^-11 sum |q k|, 5e-4 of it,
// where attention itself is to be equal to 1e-5. Split in three such products (hi hi, hi lo, lo hi)
// it is as good as float32, at a sixth of the rate of bfloat16's: 1.7 times FMAs at best on an H100,
// for fragments of another shape and twice the registers.

#include "core/attention_received.h"
#include "cuda/attention_products.cuh"
#include "cuda/kernels.h"

namespace outdim::cuda {
namespace {

constexpr int kSeenThreads = 256;

/// Turns the products of a thread into scores; `query(a, b)` and `key(a, b)` are their places. Rows
/// with a visible one are marked.
template <int kRows, int kColumns, class Query, class Key>
__device__ __forceinline__ void make_scores(const Scores& scores, bool simple,
                                            float (&product)[kRows][kColumns], const Query& query,
                                            const Key& key, bool (&sees)[kRows]) {
  if (simple) {
#pragma unroll
    for (int a = 0; a < kRows; ++a) {
      sees[a] = true;
#pragma unroll
      for (int b = 0; b < kColumns; ++b) product[a][b] = scores.simple_score(product[a][b]);
    }
  } else {
#pragma unroll
    for (int a = 0; a < kRows; ++a)
#pragma unroll
      for (int b = 0; b < kColumns; ++b)
        product[a][b] = scores.score(query(a, b), key(a, b), product[a][b], sees[a]);
  }
}

template <class Products>
__global__ void __launch_bounds__(Products::kThreads, Products::kBlocks)
    attention_rows(const AttentionReceivedArgs args, float2* statistics) {
  using T = typename Products::Type;
  constexpr int kLanes = Products::kLanes;
  const int64_t batch = blockIdx.z, head = blockIdx.y;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * Products::kDown;
  const int64_t key_head = head / (args.query_heads / args.key_heads);
  const auto query = rows_of<T>(args.query, args.query_strides, batch, head, args.queries, args.d);
  const auto key = rows_of<T>(args.key, args.key_strides, batch, key_head, args.keys, args.d);
  const Span keys = keys_of(args, first, Products::kDown, Products::kAlong);
  const Scores scores(args, batch, head);
  Products products(dynamic_shared<unsigned char>(), query, first, key, keys);
  Row rows[Products::kRows];
  bool sees[Products::kRows] = {};
  for (int64_t tile = keys.from; tile < keys.to; tile += Products::kAlong) {
    float score[Products::kRows][Products::kColumns];
    products.multiply(tile, score);
    make_scores(
        scores, scores.simple(first, Products::kDown, tile, Products::kAlong), score,
        [&](int a, int) { return first + products.row(a); },
        [&](int, int b) { return tile + products.column(b); }, sees);
#pragma unroll
    for (int a = 0; a < Products::kRows; ++a) {
      float most = kHidden;
#pragma unroll
      for (int b = 0; b < Products::kColumns; ++b) most = fmaxf(most, score[a][b]);
      rows[a].rescale(max_along<kLanes>(most));
#pragma unroll
      for (int b = 0; b < Products::kColumns; ++b) rows[a].add(score[a][b]);
    }
  }
#pragma unroll
  for (int a = 0; a < Products::kRows; ++a) {
    const int64_t i = first + products.row(a);
    Row& row = rows[a];
    row.sum = sum_along<kLanes>(row.sum);
    row.weighted = sum_along<kLanes>(row.weighted);
    const bool counts =
        max_along<kLanes>(static_cast<int>(sees[a])) > 0 && group_of(args, batch, i) > 0;
    if (args.sinks != nullptr) {
      row.rescale(args.sinks[head] * kLog2OfE);
      row.add(args.sinks[head] * kLog2OfE);
    }
    if (threadIdx.x % kLanes != 0 || i >= args.queries) continue;
    const int64_t at = (batch * args.query_heads + head) * args.queries + i;
    statistics[at] = make_float2(row.base(), counts ? 1 / row.sum : kLeftOut);
    if (args.entropy != nullptr && counts)
      args.entropy[at] = static_cast<double>(logf(row.sum) - kLogOf2 * (row.weighted / row.sum));
  }
}

template <class Products>
__global__ void __launch_bounds__(Products::kThreads, Products::kBlocks)
    attention_columns(const AttentionReceivedArgs args, const float2* statistics) {
  using T = typename Products::Type;
  constexpr int kLanes = Products::kLanes;
  const int64_t batch = blockIdx.z, head = blockIdx.y;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * Products::kDown;
  const int64_t key_head = head / (args.query_heads / args.key_heads);
  const auto query = rows_of<T>(args.query, args.query_strides, batch, head, args.queries, args.d);
  const auto key = rows_of<T>(args.key, args.key_strides, batch, key_head, args.keys, args.d);
  const Span queries = queries_of(args, first, Products::kDown, Products::kAlong);
  const Scores scores(args, batch, head);
  double* const sums = dynamic_shared<double>();  // [groups, kDown], then the tiles
  for (int e = threadIdx.x; e < args.groups * Products::kDown; e += Products::kThreads) sums[e] = 0;
  Products products(sums + args.groups * Products::kDown, key, first, query, queries);
  statistics += (batch * args.query_heads + head) * args.queries;
  for (int64_t tile = queries.from; tile < queries.to; tile += Products::kAlong) {
    float share[Products::kRows][Products::kColumns];
    products.multiply(tile, share);
    bool ignored[Products::kRows];
    make_scores(
        scores, scores.simple(tile, Products::kAlong, first, Products::kDown), share,
        [&](int, int b) { return tile + products.column(b); },
        [&](int a, int) { return first + products.row(a); }, ignored);
    int group[Products::kColumns];
    int low = args.groups + 1, high = 0;  // of the groups in the tile
#pragma unroll
    for (int b = 0; b < Products::kColumns; ++b) {
      const int64_t i = tile + products.column(b);
      group[b] = group_of(args, batch, i);
      const float2 row = group[b] > 0 ? statistics[i] : make_float2(0, kLeftOut);
      if (row.y == kLeftOut) group[b] = 0;
      if (group[b] > 0) low = min(low, group[b]);
      high = max(high, group[b]);
#pragma unroll
      for (int a = 0; a < Products::kRows; ++a)
        share[a][b] = power_of_two(share[a][b] - row.x) * row.y;
    }
    low = -max_along<kLanes>(-low);
    high = max_along<kLanes>(high);
    for (int g = low; g <= high; ++g) {
#pragma unroll
      for (int a = 0; a < Products::kRows; ++a) {
        float sum = 0;
#pragma unroll
        for (int b = 0; b < Products::kColumns; ++b)
          if (group[b] == g) sum += share[a][b];
        sum = sum_along<kLanes>(sum);
        if (threadIdx.x % kLanes == 0)
          sums[(g - 1) * Products::kDown + products.row(a)] += static_cast<double>(sum);
      }
    }
  }
  __syncthreads();
  for (int e = threadIdx.x; e < args.groups * Products::kDown; e += Products::kThreads) {
    const int64_t g = e / Products::kDown, j = first + e % Products::kDown;
    if (j < args.keys)
      args.sums[((batch * args.groups + g) * args.query_heads + head) * args.keys + j] = sums[e];
  }
}

__global__ void __launch_bounds__(kSeenThreads) attention_seen(const AttentionReceivedArgs args) {
  const int64_t key = static_cast<int64_t>(blockIdx.x) * kSeenThreads + threadIdx.x;
  const int64_t group = blockIdx.y;
  const int64_t batch = blockIdx.z / args.mask_heads, head = blockIdx.z % args.mask_heads;
  if (key >= args.keys) return;
  int64_t count = 0;
  for (int64_t i = 0; i < args.queries; ++i)
    if (group_of(args, batch, i) == group + 1) count += visible(args, batch, head, i, key);
  args.seen[((batch * args.groups + group) * args.mask_heads + head) * args.keys + key] = count;
}

unsigned tiles(int64_t length, int64_t tile) {
  return static_cast<unsigned>(ceil_div(length, tile));
}

/// Shared memory of the second pass, which needs more of it.
template <class Products>
int64_t column_bytes(const AttentionReceivedArgs& args) {
  const int64_t of_tiles = Products::shared_bytes(args.d);
  return of_tiles + args.groups * Products::kDown * static_cast<int64_t>(sizeof(double));
}

template <class Products>
void launch_passes(const AttentionReceivedArgs& args, const Context& context) {
  const auto batch = static_cast<unsigned>(args.batch);
  const auto heads = static_cast<unsigned>(args.query_heads);
  auto* statistics = static_cast<float2*>(context.workspace);
  launch<&attention_rows<Products>>(dim3(tiles(args.queries, Products::kDown), heads, batch),
                                    dim3(Products::kThreads), Products::shared_bytes(args.d),
                                    context.stream, args, statistics);
  launch<&attention_columns<Products>>(
      dim3(tiles(args.keys, Products::kDown), heads, batch), dim3(Products::kThreads),
      column_bytes<Products>(args), context.stream, args, static_cast<const float2*>(statistics));
}

}  // namespace

int64_t attention_workspace_bytes(const AttentionReceivedArgs& args) {
  return args.batch * args.query_heads * args.queries * static_cast<int64_t>(sizeof(float2));
}

void attention_received(const AttentionReceivedArgs& args, const Context& context) {
  const DeviceGuard guard(context.device);
  if (args.queries == 0) return;
  with_dtype(args.dtype, [&](auto type) {
    using T = decltype(type);
    if constexpr (sizeof(T) == 2) {
      const int64_t most =
          device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, context.device);
      if (column_bytes<TensorProducts<T>>(args) <= most)
        return launch_passes<TensorProducts<T>>(args, context);
    }
    launch_passes<PlainProducts<T>>(args, context);
  });
  const auto groups = static_cast<unsigned>(args.groups);
  const auto masks = static_cast<unsigned>(args.batch * args.mask_heads);
  launch<&attention_seen>(dim3(tiles(args.keys, kSeenThreads), groups, masks), dim3(kSeenThreads),
                          0, context.stream, args);
}

}  // namespace outdim::cuda
