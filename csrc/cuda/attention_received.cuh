#pragma once

// What attention_received asks of a query and a key: whether it sees it, its score, the softmax of
// its row.

#include "core/attention_received.h"
#include "cuda/common.cuh"
#include "cuda/mma.cuh"

namespace outdim::cuda {

constexpr float kHidden = -INFINITY;
constexpr float kLeftOut = -1;  // in the place of 1 / sum

/// Rows of T, `count` of them, `stride` elements apart, d long.
template <class T>
struct Rows {
  const T* data;
  int64_t stride, count;
  int d;
};

template <class T>
__device__ __forceinline__ Rows<T> rows_of(const void* data, const AttentionStrides& strides,
                                           int64_t batch, int64_t head, int64_t count, int64_t d) {
  return {static_cast<const T*>(data) + batch * strides.batch + head * strides.head, strides.row,
          count, static_cast<int>(d)};
}

/// From `from`, where a tile starts, up to `to`.
struct Span {
  int64_t from, to;
};

/// The keys that any of `count` queries from `query` on can see by causality and window.
__device__ __forceinline__ Span keys_of(const AttentionReceivedArgs& args, int64_t query,
                                        int64_t count, int64_t of_tile) {
  Span keys{0, args.keys};
  if (args.causal) keys.to = min(keys.to, query + count);
  if (args.window > 0) keys.from = max(keys.from, query - args.window + 1) / of_tile * of_tile;
  return keys;
}

/// The queries that can see any of `count` keys from `key` on by causality and window.
__device__ __forceinline__ Span queries_of(const AttentionReceivedArgs& args, int64_t key,
                                           int64_t count, int64_t of_tile) {
  Span queries{0, args.queries};
  if (args.causal) queries.from = key / of_tile * of_tile;
  if (args.window > 0) queries.to = min(queries.to, key + count - 1 + args.window);
  return queries;
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

/// What turns products of one head into scores, in units of log 2, so that exp is a power of two.
class Scores {
 public:
  __device__ __forceinline__ Scores(const AttentionReceivedArgs& args, int64_t batch, int64_t head)
      : args_(args),
        batch_(batch),
        head_(head),
        plain_(args.softcap == 0 && args.bias == nullptr),
        factor_(args.softcap > 0 ? args.scale : args.scale * kLog2OfE) {}

  /// Whether every query of a tile sees every key of another, and scores are products, scaled.
  __device__ __forceinline__ bool simple(int64_t query, int64_t queries, int64_t key,
                                         int64_t keys) const {
    if (!plain_ || args_.mask != nullptr) return false;
    if (query + queries > args_.queries || key + keys > args_.keys) return false;
    if (args_.causal && key + keys - 1 > query) return false;
    return args_.window == 0 || key > query + queries - 1 - args_.window;
  }
  __device__ __forceinline__ float simple_score(float product) const { return product * factor_; }

  /// Hidden keys are chosen out, whatever the product is.
  __device__ __forceinline__ float score(int64_t query, int64_t key, float product,
                                         bool& sees) const {
    if (!visible(args_, batch_, head_, query, key)) return kHidden;
    sees = true;
    float value = product * factor_;
    if (args_.softcap > 0) value = tanhf(value / args_.softcap) * (args_.softcap * kLog2OfE);
    const AttentionStrides& strides = args_.bias_strides;
    if (args_.bias != nullptr)
      value +=
          kLog2OfE *
          args_.bias[batch_ * strides.batch + head_ * strides.head + query * strides.row + key];
    return value;
  }

 private:
  const AttentionReceivedArgs& args_;
  int64_t batch_, head_;
  bool plain_;
  float factor_;
};

/// What a thread knows of the softmax of one query.
struct Row {
  float most = kHidden;
  float sum = 0;       // of e = 2^(s - most), of this thread's keys
  float weighted = 0;  // of e (s - most)

  __device__ __forceinline__ float base() const { return most == kHidden ? 0.0f : most; }

  __device__ __forceinline__ void rescale(float now) {
    if (!(now > most)) return;
    if (most != kHidden) {
      const float step = most - now, factor = power_of_two(step);
      weighted = (weighted + sum * step) * factor;
      sum *= factor;
    }
    most = now;
  }

  __device__ __forceinline__ void add(float score) {
    const float x = score - base(), e = power_of_two(x);
    sum += e;
    weighted += e * fmaxf(x, -127.0f);  // below it e is 0, and x may be -inf
  }
};

/// Of kLanes neighbouring lanes, the same bits in each.
template <int kLanes>
__device__ __forceinline__ float sum_along(float value) {
#pragma unroll
  for (int offset = kLanes / 2; offset >= 1; offset /= 2)
    value += __shfl_xor_sync(kAllLanes, value, offset);
  return value;
}
template <int kLanes, class A>
__device__ __forceinline__ A max_along(A value) {
#pragma unroll
  for (int offset = kLanes / 2; offset >= 1; offset /= 2)
    value = max(value, __shfl_xor_sync(kAllLanes, value, offset));
  return value;
}

}  // namespace outdim::cuda
