// One block of queries of one head against all its keys (core/attention_received.h).
//
// Products come from vectors or from AMX (attention_products.h, attention_tiles.h). The scores of a
// block stay in L2, where each row becomes exp(s - max) and then the rows of a group together, each
// over its sum, are added up by columns: float32 down the rows of a block, float64 from block to
// block, always in the order of the queries.
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
#if defined(__AMX_BF16__)
#include "cpu/attention_tiles.h"
#else
#include "cpu/attention_products.h"
#endif

namespace outdim::cpu::OUTDIM_ISA {
namespace {

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

/// Scaled scores of a row with soft-cap, bias and what is hidden.
void finish_scores(const AttentionBlock& block, const AttentionRow& row, float* scores) {
  const float inverse = block.softcap > 0 ? 1.0f / block.softcap : 0;
  const float most = block.softcap * kLog2OfE;
  for (int64_t j = row.from / kWidth * kWidth; j < row.to; j += kWidth) {
    const VecF s = load<VecF>(scores + j) * block.scale;
    store(scores + j, block.softcap > 0 ? hyperbolic_tangent(s * inverse) * most : s);
  }
  if (row.bias != nullptr)
    for (int64_t j = row.from; j < row.to; ++j) scores[j] += row.bias[j] * kLog2OfE;
  if (row.mask != nullptr)
    for (int64_t j = row.from; j < row.to; ++j) scores[j] = row.mask[j] ? scores[j] : kHidden;
}

/// Whether products need only be scaled, which is done as they are read.
OUTDIM_INLINE bool is_plain(const AttentionBlock& block, const AttentionRow& row) {
  return row.mask == nullptr && row.bias == nullptr && block.softcap == 0 && block.scale > 0;
}

/// Finishes the scores of a row, 0 from `first` to `last` where the row sees nothing, and returns
/// the largest.
OUTDIM_INLINE float largest(const AttentionBlock& block, const AttentionRow& row, int64_t first,
                            int64_t last, float* scores) {
  const int64_t from = row.from / kWidth * kWidth, to = (row.to + kWidth - 1) / kWidth * kWidth;
  const bool plain = is_plain(block, row);
  if (!plain) finish_scores(block, row, scores);
  for (int64_t j = from; j < row.from; ++j) scores[j] = kHidden;
  for (int64_t j = row.to; j < to; ++j) scores[j] = kHidden;
  for (int64_t j = first; j < from; ++j) scores[j] = 0;
  for (int64_t j = to; j < last; ++j) scores[j] = 0;
  VecF most = splat(kHidden), other = most;
  int64_t j = from;
  for (; j + 2 * kWidth <= to; j += 2 * kWidth) {
    most = larger(most, load<VecF>(scores + j));
    other = larger(other, load<VecF>(scores + j + kWidth));
  }
  if (j < to) most = larger(most, load<VecF>(scores + j));
  const float found = largest_across(larger(most, other)) * (plain ? block.scale : 1);
  return found > block.sink || found != found ? found : block.sink;
}

/// Of a row of 2^(s - largest).
struct RowSums {
  double sum, weighted;  // of them, and of each times s - largest
};

/// Turns the scores of a row into 2^(s - largest).
OUTDIM_INLINE RowSums exponentials(const AttentionBlock& block, const AttentionRow& row,
                                   float largest, float* scores) {
  const float scale = is_plain(block, row) ? block.scale : 1;
  VecF total = {}, weighted = {};
  for (int64_t j = row.from / kWidth * kWidth; j < row.to; j += kWidth) {
    const VecF x = load<VecF>(scores + j) * scale - largest, inside = larger(splat(kLeast), x);
    const VecF e = power_of_two(x, inside);
    store(scores + j, e);
    total += e;
    weighted += e * inside;
  }
  RowSums sums = {sum_across(total), sum_across(weighted)};
  if (block.sink > kHidden) {
    const float x = block.sink - largest, e = power_of_two(splat(x))[0];
    sums.sum += e;
    sums.weighted += e > 0 ? e * x : 0;
  }
  return sums;
}

/// Adds the rows [begin, end) of a block, which are of one group.
template <int kSpan>
OUTDIM_INLINE void add_columns(const AttentionBlock& block, int64_t begin, int64_t end,
                               const float* weight, int64_t j) {
  VecF sum[kSpan] = {};
  for (int64_t i = begin; i < end; ++i) {
    const float* p = block.scores + i * block.stride + j;
    for (int v = 0; v < kSpan; ++v) sum[v] += load<VecF>(p + v * kWidth) * weight[i];
  }
  for (int v = 0; v < kSpan; ++v) {
    double* to = block.rows[begin].sums + j + v * kWidth;
    store(to, load<VecD>(to) + widen(low_half(sum[v])));
    store(to + kWidth / 2, load<VecD>(to + kWidth / 2) + widen(high_half(sum[v])));
  }
}

template <DType T>
void add_block(const AttentionBlock& block) {
  const int64_t first = block.first / kKeys * kKeys;
  const int64_t last = (block.last + kKeys - 1) / kKeys * kKeys;
  multiply<T>(block, first, last);
  // In loops of their own, so that the ends of one row are worked on beside the next.
  float most[kMaxAttentionRows], weight[kMaxAttentionRows];
  RowSums sums[kMaxAttentionRows];
  for (int64_t i = 0; i < block.count; ++i)
    most[i] = largest(block, block.rows[i], first, last, block.scores + i * block.stride);
  for (int64_t i = 0; i < block.count; ++i) {
    const AttentionRow& row = block.rows[i];
    if (row.next[0] != nullptr)
      for (int64_t byte = 0; byte < block.row_bytes; byte += 64)
        for (const char* next : row.next) __builtin_prefetch(next + byte, 0, 2);
    sums[i] = exponentials(block, row, most[i], block.scores + i * block.stride);
  }
  for (int64_t i = 0; i < block.count; ++i) {
    const RowSums& of_row = sums[i];
    weight[i] = static_cast<float>(1 / of_row.sum);
    if (double* entropy = block.rows[i].entropy)
      *entropy = __builtin_log(of_row.sum) - 0.69314718055994531 * (of_row.weighted / of_row.sum);
  }
  for (int64_t begin = 0, end = 0; begin < block.count; begin = end) {
    while (end < block.count && block.rows[end].sums == block.rows[begin].sums) ++end;
    int64_t j = first;
    for (; j + 4 * kWidth <= last; j += 4 * kWidth) add_columns<4>(block, begin, end, weight, j);
    for (; j < last; j += kWidth) add_columns<1>(block, begin, end, weight, j);
  }
}

template <DType T>
constexpr AttentionKernels::OfType kOfType = {packed_bytes<T>, pack_queries<T>, pack_keys<T>,
                                              add_block<T>};

}  // namespace

extern const AttentionKernels kAttentionKernels;
const AttentionKernels kAttentionKernels = {
    kKeys,
    kQueries,
    {kOfType<DType::kFloat32>, kOfType<DType::kFloat16>, kOfType<DType::kBFloat16>}};

}  // namespace outdim::cpu::OUTDIM_ISA
