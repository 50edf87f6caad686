#pragma once

// Scores of a block of queries by AMX: tiles of 16 x 32 bfloat16, summed in float32. Included by
// attention_received_kernels.cpp alone; the names are those of attention_products.h.
//
// A value is the exact sum of bfloat16 parts, each the first eight bits of what the parts before it
// have left: three of float32, two of float16, bfloat16 itself. Of float32 the six largest of nine
// products are taken. What is left out is below 2^-21 of |q k| and 2^-24 of it on average, less than
// rounding the sum of 64 float32 products. Values of float32 that are not finite give NaN, where
// vectors may give the 0 of a score of -inf; those below 2^-126 count as 0.
//
// A pack is whole tiles, 1 KiB each: of queries [queries / 16][parts][d / 32][16 rows][32 values], of
// keys [keys / 16][parts][d / 32][16 pairs][16 keys][2], d padded with zeros. Two tiles of queries
// and two of keys make four of scores, which hides the latency of a product; each tile that is
// loaded serves two products at least. Instructions a tile of 16 x 16 scores: d / 32 products a
// term, 16 cycles each; so 64 dimensions take 0.75 cycles a score in float32, 0.125 in bfloat16,
// where vectors take 2.

#include "core/attention_received.h"
#include "cpu/dispatch.h"
#include "cpu/simd.h"

namespace outdim::cpu::OUTDIM_ISA {
namespace {

constexpr int kRows = 16, kDepth = 32;  // of a tile
constexpr int kTile = 1024;             // its bytes
constexpr int kLine = 64;
constexpr int kQueries = kRows;
constexpr int kKeys = 2 * kRows;

template <DType T>
constexpr int kParts = T == DType::kFloat32   ? 3
                       : T == DType::kFloat16 ? 2
                                              : 1;

constexpr int64_t chunks_of(int64_t d) { return (d + kDepth - 1) / kDepth; }

/// Of a packed query or key.
template <DType T>
int64_t packed_bytes(int64_t d) {
  return kParts<T> * chunks_of(d) * kLine;
}

/// Pairs of bfloat16: those of a in the low halves, of b in the high ones, cut off.
OUTDIM_INLINE VecU pairs(VecF a, VecF b) { return ((VecU)a >> 16) | ((VecU)b & 0xffff0000u); }
OUTDIM_INLINE VecF cut_off(VecF v) { return (VecF)((VecU)v & 0xffff0000u); }

/// The parts of 32 values, in an order that queries and keys share.
template <DType T>
OUTDIM_INLINE void split(const void* from, VecU* parts) {
  if constexpr (T == DType::kBFloat16) {
    parts[0] = load<VecU>(from);
  } else {
    Group group = load_group<T>(from);
    for (int p = 0; p < kParts<T>; ++p) {
      parts[p] = pairs(group.a, group.b);
      group.a -= cut_off(group.a);
      group.b -= cut_off(group.b);
    }
  }
}

/// The parts of `count` columns at most.
template <DType T>
OUTDIM_INLINE void split(const char* from, int64_t count, VecU* parts) {
  if (count >= kDepth) return split<T>(from, parts);
  alignas(kLine) char bytes[kDepth * kItemSize<T>] = {};
  memcpy(bytes, from, count * kItemSize<T>);
  split<T>(bytes, parts);
}

template <DType T>
void pack_queries(const void* const* rows, int64_t count, int64_t d, void* packed) {
  auto* to = static_cast<char*>(packed);
  const int64_t chunks = chunks_of(d), part = chunks * kTile;
  for (int64_t i = 0; i < (count + kRows - 1) / kRows * kRows; ++i) {
    char* tile = to + i / kRows * (kParts<T> * part) + i % kRows * kLine;
    for (int64_t c = 0; c < chunks; ++c) {
      VecU parts[kParts<T>] = {};
      if (i < count)
        split<T>(static_cast<const char*>(rows[i]) + c * kDepth * kItemSize<T>, d - c * kDepth,
                 parts);
      for (int p = 0; p < kParts<T>; ++p) store(tile + p * part + c * kTile, parts[p]);
    }
  }
}

template <DType T>
void pack_keys(const void* from, int64_t stride, int64_t keys, int64_t d, float*, void* packed) {
  const auto* rows = static_cast<const char*>(from);
  auto* to = static_cast<char*>(packed);
  const int64_t chunks = chunks_of(d), part = chunks * kTile;
  for (int64_t key = 0; key < (keys + kKeys - 1) / kKeys * kKeys; key += kRows) {
    for (int64_t c = 0; c < chunks; ++c) {
      VecF square[kParts<T>][kRows];
      for (int r = 0; r < kRows; ++r) {
        VecU parts[kParts<T>] = {};
        if (key + r < keys)
          split<T>(rows + ((key + r) * stride + c * kDepth) * kItemSize<T>, d - c * kDepth, parts);
        for (int p = 0; p < kParts<T>; ++p) square[p][r] = (VecF)parts[p];
      }
      for (int p = 0; p < kParts<T>; ++p) {
        transpose(square[p]);
        for (int r = 0; r < kRows; ++r) store(to + p * part + c * kTile + r * kLine, square[p][r]);
      }
    }
    to += kParts<T> * part;
  }
}

/// Which part of the queries is multiplied by which of the keys, so that few tiles are loaded anew.
struct Term {
  int query, key;
};
template <DType T>
struct Terms {
  static constexpr Term kAll[6] = {{0, 2}, {0, 1}, {0, 0}, {1, 0}, {1, 1}, {2, 0}};
  static constexpr int kCount = 6;
};
template <>
struct Terms<DType::kFloat16> {
  static constexpr Term kAll[4] = {{0, 1}, {0, 0}, {1, 0}, {1, 1}};
  static constexpr int kCount = 4;
};
template <>
struct Terms<DType::kBFloat16> {
  static constexpr Term kAll[1] = {{0, 0}};
  static constexpr int kCount = 1;
};

/// Scores of 16 queries, or of 32, with 32 keys.
template <DType T, bool kTwo>
OUTDIM_INLINE void score_tiles(const char* query, const char* keys, int64_t chunks, float* scores,
                               int64_t stride) {
  const int64_t part = chunks * kTile, next = kParts<T> * part;
  _tile_zero(0);
  _tile_zero(1);
  if (kTwo) {
    _tile_zero(2);
    _tile_zero(3);
  }
  for (int64_t c = 0; c < part; c += kTile) {
    Term loaded = {-1, -1};
    for (int t = 0; t < Terms<T>::kCount; ++t) {
      const Term term = Terms<T>::kAll[t];
      if (term.query != loaded.query) {
        _tile_loadd(4, query + term.query * part + c, kLine);
        if (kTwo) _tile_loadd(5, query + next + term.query * part + c, kLine);
      }
      if (term.key != loaded.key) {
        _tile_loadd(6, keys + term.key * part + c, kLine);
        _tile_loadd(7, keys + next + term.key * part + c, kLine);
      }
      loaded = term;
      _tile_dpbf16ps(0, 4, 6);
      _tile_dpbf16ps(1, 4, 7);
      if (kTwo) {
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
      }
    }
  }
  const int64_t bytes = stride * static_cast<int64_t>(sizeof(float));
  _tile_stored(0, scores, bytes);
  _tile_stored(1, scores + kRows, bytes);
  if (kTwo) {
    _tile_stored(2, scores + kRows * stride, bytes);
    _tile_stored(3, scores + kRows * stride + kRows, bytes);
  }
}

/// What _tile_loadconfig reads: all eight tiles have 16 rows of 64 bytes.
struct TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t bytes[16] = {kLine, kLine, kLine, kLine, kLine, kLine, kLine, kLine};
  uint8_t rows[16] = {kRows, kRows, kRows, kRows, kRows, kRows, kRows, kRows};
};
static_assert(sizeof(TileConfig) == 64, "as the processor has it");
// Not a local variable: of it GCC's _tile_loadconfig asks for eight bytes only, and the rest might
// never be written.
alignas(kLine) const TileConfig kTileConfig;

/// Scores of all rows of a block with the keys [first, last), multiples of kKeys.
template <DType T>
OUTDIM_INLINE void multiply(const AttentionBlock& block, int64_t first, int64_t last) {
  _tile_loadconfig(&kTileConfig);
  const int64_t chunks = chunks_of(block.d), bytes = packed_bytes<T>(block.d);
  for (int64_t key = first; key < last; key += kKeys) {
    const char* keys = static_cast<const char*>(block.keys) + key * bytes;
    for (int64_t i = 0; i < block.count; i += 2 * kRows) {
      const char* query = static_cast<const char*>(block.query) + i * bytes;
      float* scores = block.scores + i * block.stride + key;
      if (i + kRows < block.count)
        score_tiles<T, true>(query, keys, chunks, scores, block.stride);
      else
        score_tiles<T, false>(query, keys, chunks, scores, block.stride);
    }
  }
  _tile_release();
}

}  // namespace
}  // namespace outdim::cpu::OUTDIM_ISA
