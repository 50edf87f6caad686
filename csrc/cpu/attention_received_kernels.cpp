// One block of queries of one head against all its keys (core/attention_received.h).
//
// Keys are packed beforehand as [keys / kKeys][d][kKeys]: a tile of kQueries x kKeys scores is d
// steps of outer products in registers, and the packed block stays in L1 while all queries of the
// block pass. The scores of a block stay in L2, where each row becomes exp(s - max) and then all
// rows together, each over its sum, are added up by columns: float32 down the rows of a block,
// float64 from block to block, always in the order of the queries.
//
// Scores are in units of log 2. 2^x: x less the integer next to it, which is exact, and a polynomial
// of degree 6 (of least relative error, 2e-9); with its rounding the error over all float32 in
// [-126, 0] is at most 8.0e-8 (every seventh tried), and what lies below is exactly 0. tanh: Cephes' tanhf near 0, by the
// power elsewhere, 1.8e-7 (every seventh of [0, 20]). Both keep NaN.
//
// Lost: a softmax that keeps a running maximum, as flash attention has it, rescales the columns
// once a tile of keys; with all keys of a row at hand nothing is rescaled.

#include "core/attention_received.h"
#include "cpu/dispatch.h"
#include "cpu/simd.h"

namespace outdim::cpu::OUTDIM_ISA {
namespace {

constexpr int kVectors = kWidth == 16 ? 3 : 2;  // of keys in a tile
constexpr int kQueries = kWidth == 16 ? 8 : 6;  // accumulators and operands fill the registers
constexpr int kKeys = kVectors * kWidth;

constexpr float kLeast = -126.0f;  // two to it is the smallest normal number
constexpr float kHidden = -__builtin_inff();

OUTDIM_INLINE VecF select(VecU condition, VecF yes, VecF no) {
  return (VecF)(((VecU)yes & condition) | ((VecU)no & ~condition));
}

/// 2^x of x < 127, and 0 below kLeast; `inside` is the larger of x and kLeast, or NaN.
OUTDIM_INLINE VecF power_of_two(VecF x, VecF inside) {
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  const VecF shifted = inside + kRound;
  const VecF n = shifted - kRound;
  const VecF f = inside - n;  // exact
  VecF p = splat(1.5353361959569156e-4f);
  p = p * f + 1.3398875016719103e-3f;
  p = p * f + 9.61843691766262e-3f;
  p = p * f + 5.5503323674201965e-2f;
  p = p * f + 2.4022647738456726e-1f;
  p = p * f + 6.931471824645996e-1f;
  p = p * f + 1.0f;
#if defined(__AVX512F__)
  const __mmask16 normal = _mm512_cmp_ps_mask((__m512)x, (__m512)splat(kLeast), _CMP_NLT_UQ);
  return (VecF)_mm512_maskz_scalef_ps(normal, (__m512)p, (__m512)n);
#else
  // The low bits of `shifted` hold n.
  const VecF power = (VecF)(((VecU)shifted + 127u) << 23);
  return (VecF)((VecU)(p * power) & ~(VecU)(x < kLeast));
#endif
}
OUTDIM_INLINE VecF power_of_two(VecF x) { return power_of_two(x, larger(splat(kLeast), x)); }

OUTDIM_INLINE VecF hyperbolic_tangent(VecF z) {
  const VecF square = z * z;
  VecF p = splat(-5.70498872745e-3f);
  p = p * square + 2.06390887954e-2f;
  p = p * square - 5.37397155531e-2f;
  p = p * square + 1.33314422036e-1f;
  p = p * square - 3.33332819422e-1f;
  const VecF small = p * square * z + z;
  const VecF size = absolute(z);
  const VecF tail = power_of_two(size * (-2.0f * kLog2OfE));
  const VecF large = 1.0f - 2.0f * tail / (1.0f + tail);
  const VecF with_sign = (VecF)((VecU)large | ((VecU)z & 0x80000000u));
  return select((VecU)(size < 0.625f), small, with_sign);
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
void load_queries(const void* const* rows, int64_t count, int64_t d, float scale, float* to) {
  for (int64_t i = 0; i < count; ++i) {
    load_row<T>(rows[i], d, to + i * d);
    for (int64_t c = 0; c < d; ++c) to[i * d + c] *= scale;
  }
  const int64_t padded = (count + kQueries - 1) / kQueries * kQueries;
  memset(to + count * d, 0, (padded - count) * d * sizeof(float));
}

template <DType T>
void pack_keys(const void* from, int64_t stride, int64_t keys, int64_t d, float* rows, float* to) {
  const char* p = static_cast<const char*>(from);
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

OUTDIM_INLINE void add_bias_and_hide(const AttentionBlock& block, const AttentionRow& row,
                                     float* scores) {
  if (block.softcap > 0) {
    const float inverse = 1.0f / block.softcap, most = block.softcap * kLog2OfE;
    for (int64_t j = row.from / kWidth * kWidth; j < row.to; j += kWidth)
      store(scores + j, hyperbolic_tangent(load<VecF>(scores + j) * inverse) * most);
  }
  if (row.bias != nullptr)
    for (int64_t j = row.from; j < row.to; ++j) scores[j] += row.bias[j] * kLog2OfE;
  if (row.mask != nullptr)
    for (int64_t j = row.from; j < row.to; ++j) scores[j] = row.mask[j] ? scores[j] : kHidden;
}

/// Turns the scores of a row into 2^(s - max) and returns one over their sum; 0 from `first` to
/// `last` where the row sees nothing.
OUTDIM_INLINE float exponentials(const AttentionBlock& block, const AttentionRow& row, int64_t last,
                                 float* scores) {
  const int64_t from = row.from / kWidth * kWidth, to = (row.to + kWidth - 1) / kWidth * kWidth;
  add_bias_and_hide(block, row, scores);
  for (int64_t j = from; j < row.from; ++j) scores[j] = kHidden;
  for (int64_t j = row.to; j < to; ++j) scores[j] = kHidden;
  for (int64_t j = block.first; j < from; ++j) scores[j] = 0;
  for (int64_t j = to; j < last; ++j) scores[j] = 0;

  VecF most = splat(block.sink);
  for (int64_t j = from; j < to; j += kWidth) most = larger(most, load<VecF>(scores + j));
  const float maximum = largest_across(most);

  VecF total = {}, weighted = {};
  for (int64_t j = from; j < to; j += kWidth) {
    const VecF x = load<VecF>(scores + j) - maximum, inside = larger(splat(kLeast), x);
    const VecF e = power_of_two(x, inside);
    store(scores + j, e);
    total += e;
    weighted += e * inside;
  }
  double sum = sum_across(total), sum_weighted = sum_across(weighted);
  if (block.sink > kHidden) {
    const float x = block.sink - maximum, e = power_of_two(splat(x))[0];
    sum += e;
    sum_weighted += e > 0 ? e * x : 0;
  }
  if (row.entropy != nullptr)
    *row.entropy = __builtin_log(sum) - 0.69314718055994531 * sum_weighted / sum;
  return static_cast<float>(1 / sum);
}

template <int kSpan>
OUTDIM_INLINE void add_columns(const AttentionBlock& block, const float* weight, int64_t j) {
  VecF sum[kSpan] = {};
  for (int64_t i = 0; i < block.count; ++i) {
    const float* p = block.scores + i * block.stride + j;
    for (int v = 0; v < kSpan; ++v) sum[v] += load<VecF>(p + v * kWidth) * weight[i];
  }
  for (int v = 0; v < kSpan; ++v) {
    double* to = block.sums + j + v * kWidth;
    store(to, load<VecD>(to) + widen(low_half(sum[v])));
    store(to + kWidth / 2, load<VecD>(to + kWidth / 2) + widen(high_half(sum[v])));
  }
}

void add_block(const AttentionBlock& block) {
  const int64_t first = block.first / kKeys * kKeys;
  const int64_t last = (block.last + kKeys - 1) / kKeys * kKeys;
  for (int64_t key = first; key < last; key += kKeys)
    for (int64_t i = 0; i < block.count; i += kQueries)
      score_tile(block.query + i * block.d, block.keys + key * block.d, block.d,
                 block.scores + i * block.stride + key, block.stride);
  AttentionBlock whole = block;
  whole.first = first;
  float weight[kMaxAttentionRows];
  for (int64_t i = 0; i < block.count; ++i)
    weight[i] = exponentials(whole, block.rows[i], last, block.scores + i * block.stride);
  int64_t j = first;
  for (; j + 4 * kWidth <= last; j += 4 * kWidth) add_columns<4>(block, weight, j);
  for (; j < last; j += kWidth) add_columns<1>(block, weight, j);
}

}  // namespace

extern const AttentionKernels kAttentionKernels;
const AttentionKernels kAttentionKernels = {
    kKeys,
    kQueries,
    {load_queries<DType::kFloat32>, load_queries<DType::kFloat16>, load_queries<DType::kBFloat16>},
    {pack_keys<DType::kFloat32>, pack_keys<DType::kFloat16>, pack_keys<DType::kBFloat16>},
    add_block};

}  // namespace outdim::cpu::OUTDIM_ISA
