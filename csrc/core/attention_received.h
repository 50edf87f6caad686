#pragma once

// How much attention each key receives, without storing the attention matrix.
//
//   s_ij = cap(scale q_i . k_j) + bias_ij        cap(s) = softcap tanh(s / softcap), or s
//   p_ij = exp(s_ij - m_i) / (sum over the visible j of exp(s_ij - m_i) + exp(sink - m_i))
//   sums[g][j] = sum over the queries i of group g of p_ij
//   seen[g][j] = number of queries of group g that can see key j
//   entropy[i] = -sum over j (and the sink) of p_ij log p_ij
//
// A key is visible to a query where mask, causality and window all say so. The mean that a key
// receives is sums / seen: in a causal model the first key is seen by every query, the last by one,
// and a mean over all of them would favour the early ones (Gu et al. 2025).
//
// Queries of group 0 are left out and cost nothing: padding is never multiplied by zero. Heads of
// queries share heads of keys in runs (grouped queries): head h reads keys h / (Hq / Hkv).

#include <cstdint>

#include "core/types.h"

namespace outdim {

// Scores are in units of log 2 while they are worked on: exp is a power of two then, which takes one
// multiplication that scaling the products makes anyway.
constexpr float kLog2OfE = 1.4426950408889634f;
constexpr float kLogOf2 = 0.6931471805599453f;

/// Strides in elements; a dimension that is broadcast has stride 0, the last one is contiguous.
struct AttentionStrides {
  int64_t batch = 0;
  int64_t head = 0;
  int64_t row = 0;
};

struct AttentionReceivedArgs {
  DType dtype = DType::kFloat32;  // of query and key
  int64_t batch = 0, query_heads = 0, key_heads = 0, queries = 0, keys = 0, d = 0;
  const void* query = nullptr;  // [batch, query_heads, queries, d]
  AttentionStrides query_strides;
  const void* key = nullptr;  // [batch, key_heads, keys, d]
  AttentionStrides key_strides;

  float scale = 1;
  float softcap = 0;              // 0: none
  bool causal = false;            // query i sees keys up to i
  int64_t window = 0;             // ... and from i - window + 1 on; 0: none
  const uint8_t* mask = nullptr;  // [batch, query_heads, queries, keys] 1: visible
  AttentionStrides mask_strides;
  int64_t mask_heads = 1;       // 1: one mask for all heads, or query_heads
  const float* bias = nullptr;  // [batch, query_heads, queries, keys]
  AttentionStrides bias_strides;
  const float* sinks = nullptr;    // [query_heads]
  const uint8_t* group = nullptr;  // [batch, queries] in [0, groups]; null: all 1
  int64_t groups = 1;

  double* sums = nullptr;     // [batch, groups, query_heads, keys] zeros, written
  int64_t* seen = nullptr;    // [batch, groups, mask_heads, keys] zeros, added to
  double* entropy = nullptr;  // [batch, query_heads, queries] NaN, written where defined; or null
};

namespace cpu {
/// Throws std::out_of_range for a group above `groups`.
void attention_received(const AttentionReceivedArgs& args, int threads);
}  // namespace cpu

}  // namespace outdim
