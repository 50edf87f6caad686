#pragma once

// Scores of a block of queries by multiplying vectors. Included by attention_received_kernels.cpp
// alone.
//
// Keys are packed beforehand as [keys / kKeys][d][kKeys]: a tile of kQueries x kKeys scores is d
// steps of outer products in registers, and the packed block stays in L1 while all queries of the
// block pass.

#include "core/attention_received.h"
#include "cpu/dispatch.h"
#include "cpu/simd.h"

namespace outdim::cpu::OUTDIM_ISA {
namespace {

constexpr int kVectors = kWidth == 16 ? 3 : 2;  // of keys in a tile
constexpr int kQueries = kWidth == 16 ? 8 : 6;  // accumulators and operands fill the registers
constexpr int kKeys = kVectors * kWidth;

/// Of a packed query or key.
template <DType T>
int64_t packed_bytes(int64_t d) {
  return d * static_cast<int64_t>(sizeof(float));
}

template <DType T>
OUTDIM_INLINE void load_row(const void* from, int64_t d, float* to) {
  if constexpr (T == DType::kFloat32) {
    memcpy(to, from, d * sizeof(float));
  } else if constexpr (T == DType::kFloat16) {
    const char* p = static_cast<const char*>(from);
    int64_t c = 0;
    for (; c + kWidth <= d; c += kWidth)
      store(to + c, from_half(load<VecH>(p + c * sizeof(uint16_t))));
    if (c < d) {
      VecH part = {};
      memcpy(&part, p + c * sizeof(uint16_t), (d - c) * sizeof(uint16_t));
      const VecF values = from_half(part);
      memcpy(to + c, &values, (d - c) * sizeof(float));
    }
  } else {
    const uint16_t* p = static_cast<const uint16_t*>(from);
    for (int64_t c = 0; c < d; ++c) {
      const uint32_t bits = static_cast<uint32_t>(p[c]) << 16;
      memcpy(to + c, &bits, sizeof bits);
    }
  }
}

template <DType T>
void pack_queries(const void* const* rows, int64_t count, int64_t d, void* packed) {
  auto* to = static_cast<float*>(packed);
  for (int64_t i = 0; i < count; ++i) load_row<T>(rows[i], d, to + i * d);
  const int64_t padded = (count + kQueries - 1) / kQueries * kQueries;
  memset(to + count * d, 0, (padded - count) * d * sizeof(float));
}

template <DType T>
void pack_keys(const void* from, int64_t stride, int64_t keys, int64_t d, float* rows,
               void* packed) {
  const char* p = static_cast<const char*>(from);
  auto* to = static_cast<float*>(packed);
  for (int64_t key = 0; key < keys; key += kKeys) {
    const int64_t count = keys - key < kKeys ? keys - key : kKeys;
    for (int64_t r = 0; r < count; ++r)
      load_row<T>(p + (key + r) * stride * kItemSize<T>, d, rows + r * d);
    memset(rows + count * d, 0, (kKeys - count) * d * sizeof(float));
    int64_t c = 0;
    for (; c + kWidth <= d; c += kWidth) {
      for (int64_t v = 0; v < kKeys; v += kWidth) {
        VecF square[kWidth];
        for (int i = 0; i < kWidth; ++i) square[i] = load<VecF>(rows + (v + i) * d + c);
        transpose(square);
        for (int i = 0; i < kWidth; ++i) store(to + (c + i) * kKeys + v, square[i]);
      }
    }
    for (; c < d; ++c)
      for (int64_t r = 0; r < kKeys; ++r) to[c * kKeys + r] = rows[r * d + c];
    to += kKeys * d;
  }
}

OUTDIM_INLINE void score_tile(const float* query, const float* keys, int64_t d, float* scores,
                              int64_t stride) {
  VecF sum[kQueries][kVectors] = {};
  for (int64_t c = 0; c < d; ++c) {
    VecF key[kVectors];
    for (int v = 0; v < kVectors; ++v) key[v] = load<VecF>(keys + c * kKeys + v * kWidth);
    for (int i = 0; i < kQueries; ++i) {
      const VecF value = splat(query[i * d + c]);
      for (int v = 0; v < kVectors; ++v) sum[i][v] += value * key[v];
    }
  }
  for (int i = 0; i < kQueries; ++i)
    for (int v = 0; v < kVectors; ++v) store(scores + i * stride + v * kWidth, sum[i][v]);
}

/// Scores of all rows of a block with the keys [first, last), multiples of kKeys.
template <DType T>
OUTDIM_INLINE void multiply(const AttentionBlock& block, int64_t first, int64_t last) {
  const auto *query = static_cast<const float*>(block.query),
             *keys = static_cast<const float*>(block.keys);
  for (int64_t key = first; key < last; key += kKeys)
    for (int64_t i = 0; i < block.count; i += kQueries)
      score_tile(query + i * block.d, keys + key * block.d, block.d,
                 block.scores + i * block.stride + key, block.stride);
}

}  // namespace
}  // namespace outdim::cpu::OUTDIM_ISA
