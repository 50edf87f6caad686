#pragma once

// Vectors of the instruction set a unit is compiled for (OUTDIM_ISA), as GCC/Clang vector
// extensions; intrinsics only where those do not reach. Included by the per-ISA units alone, which
// use no std:: templates: the linker keeps one copy of an inline function, and it might be the one
// with AVX-512 in it.
//
// Columns are handled in groups of 2 kWidth, in "layout order". For float32 and float16 that is the
// natural order. For bfloat16 a group is read as kWidth 32-bit words, the even columns are `word <<
// 16` and the odd ones `word & 0xffff0000`: no permutation, which made moments 1.5-2x faster than
// zero-extending loads. Everything per column (parameters, pivots, sums) is kept in layout order
// and put right once a call (dispatch.h: layout_position).

#include <cstdint>
#include <cstring>

#include "core/types.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define OUTDIM_INLINE static inline __attribute__((always_inline))

namespace outdim::cpu::OUTDIM_ISA {

#if defined(__AVX512F__)
constexpr int kWidth = 16;
#elif defined(__AVX2__)
constexpr int kWidth = 8;
#else
constexpr int kWidth = 4;
#endif
constexpr int kGroup = 2 * kWidth;
constexpr int kRegisters = kWidth == 16 ? 32 : 16;

typedef float VecF __attribute__((vector_size(kWidth * 4)));
typedef uint32_t VecU __attribute__((vector_size(kWidth * 4)));
typedef double VecD __attribute__((vector_size(kWidth * 4)));
typedef uint64_t VecQ __attribute__((vector_size(kWidth * 4)));
typedef float HalfF __attribute__((vector_size(kWidth * 2)));
typedef uint16_t VecH __attribute__((vector_size(kWidth * 2)));

template <class V>
OUTDIM_INLINE V load(const void* from) {
  V value;
  memcpy(&value, from, sizeof value);
  return value;
}
template <class V>
OUTDIM_INLINE void store(void* to, V value) {
  memcpy(to, &value, sizeof value);
}
OUTDIM_INLINE VecF splat(float value) { return value - VecF{}; }
OUTDIM_INLINE VecD splat(double value) { return value - VecD{}; }

// ---- the same operation on float32 and float64 vectors

OUTDIM_INLINE VecF absolute(VecF v) { return (VecF)((VecU)v & 0x7fffffffu); }
OUTDIM_INLINE VecD absolute(VecD v) { return (VecD)((VecQ)v & 0x7fffffffffffffffull); }

// a < b ? a : b and a > b ? a : b: the second operand where either is NaN, as the x86 instructions
// have it.
#if defined(__AVX512F__)
OUTDIM_INLINE VecF smaller(VecF a, VecF b) { return (VecF)_mm512_min_ps((__m512)a, (__m512)b); }
OUTDIM_INLINE VecF larger(VecF a, VecF b) { return (VecF)_mm512_max_ps((__m512)a, (__m512)b); }
#elif defined(__AVX2__)
OUTDIM_INLINE VecF smaller(VecF a, VecF b) { return (VecF)_mm256_min_ps((__m256)a, (__m256)b); }
OUTDIM_INLINE VecF larger(VecF a, VecF b) { return (VecF)_mm256_max_ps((__m256)a, (__m256)b); }
#elif defined(__x86_64__)
OUTDIM_INLINE VecF smaller(VecF a, VecF b) { return (VecF)_mm_min_ps((__m128)a, (__m128)b); }
OUTDIM_INLINE VecF larger(VecF a, VecF b) { return (VecF)_mm_max_ps((__m128)a, (__m128)b); }
#else
OUTDIM_INLINE VecF smaller(VecF a, VecF b) { return a < b ? a : b; }
OUTDIM_INLINE VecF larger(VecF a, VecF b) { return a > b ? a : b; }
#endif

/// Whether any lane is not zero.
OUTDIM_INLINE bool any(VecU v) {
#if defined(__AVX512F__)
  return _mm512_test_epi32_mask((__m512i)v, (__m512i)v) != 0;
#else
  uint32_t all = 0;
  for (int i = 0; i < kWidth; ++i) all |= v[i];
  return all != 0;
#endif
}

// ---- float32 to float64, sums across a vector

#if defined(__AVX512F__)
OUTDIM_INLINE VecD widen(HalfF v) { return (VecD)_mm512_cvtps_pd((__m256)v); }
OUTDIM_INLINE HalfF low_half(VecF v) { return (HalfF)_mm512_castps512_ps256((__m512)v); }
OUTDIM_INLINE HalfF high_half(VecF v) { return (HalfF)_mm512_extractf32x8_ps((__m512)v, 1); }
OUTDIM_INLINE float sum_across(VecF v) { return _mm512_reduce_add_ps((__m512)v); }
OUTDIM_INLINE double sum_across(VecD v) { return _mm512_reduce_add_pd((__m512d)v); }
OUTDIM_INLINE float largest_across(VecF v) { return _mm512_reduce_max_ps((__m512)v); }
#else
OUTDIM_INLINE VecD widen(HalfF v) { return __builtin_convertvector(v, VecD); }
OUTDIM_INLINE HalfF low_half(VecF v) {
  HalfF half;
  memcpy(&half, &v, sizeof half);
  return half;
}
OUTDIM_INLINE HalfF high_half(VecF v) {
  HalfF half;
  memcpy(&half, (const char*)&v + sizeof half, sizeof half);
  return half;
}
OUTDIM_INLINE float sum_across(VecF v) {
  float sum = 0;
  for (int i = 0; i < kWidth; ++i) sum += v[i];
  return sum;
}
OUTDIM_INLINE double sum_across(VecD v) {
  double sum = 0;
  for (int i = 0; i < kWidth / 2; ++i) sum += v[i];
  return sum;
}
OUTDIM_INLINE float largest_across(VecF v) {
  float largest = v[0];
  for (int i = 1; i < kWidth; ++i) largest = v[i] > largest ? v[i] : largest;
  return largest;
}
#endif

// ---- transposing

/// a0 b0 a1 b1 ... of the lower or of the upper halves.
#if defined(__AVX512F__)
OUTDIM_INLINE VecF interleave_low(VecF a, VecF b) {
  const __m512i from = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  return (VecF)_mm512_permutex2var_ps((__m512)a, from, (__m512)b);
}
OUTDIM_INLINE VecF interleave_high(VecF a, VecF b) {
  const __m512i from =
      _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
  return (VecF)_mm512_permutex2var_ps((__m512)a, from, (__m512)b);
}
#elif defined(__AVX2__)
OUTDIM_INLINE VecF interleave_low(VecF a, VecF b) {
  const __m256 low = _mm256_unpacklo_ps((__m256)a, (__m256)b);
  return (VecF)_mm256_permute2f128_ps(low, _mm256_unpackhi_ps((__m256)a, (__m256)b), 0x20);
}
OUTDIM_INLINE VecF interleave_high(VecF a, VecF b) {
  const __m256 low = _mm256_unpacklo_ps((__m256)a, (__m256)b);
  return (VecF)_mm256_permute2f128_ps(low, _mm256_unpackhi_ps((__m256)a, (__m256)b), 0x31);
}
#else
OUTDIM_INLINE VecF interleave_low(VecF a, VecF b) { return VecF{a[0], b[0], a[1], b[1]}; }
OUTDIM_INLINE VecF interleave_high(VecF a, VecF b) { return VecF{a[2], b[2], a[3], b[3]}; }
#endif

/// Rows become columns: each round interleaves the first half of the rows with the second.
OUTDIM_INLINE void transpose(VecF (&row)[kWidth]) {
  for (int round = 1; round < kWidth; round *= 2) {
    VecF mixed[kWidth];
    for (int i = 0; i < kWidth / 2; ++i) {
      mixed[2 * i] = interleave_low(row[i], row[i + kWidth / 2]);
      mixed[2 * i + 1] = interleave_high(row[i], row[i + kWidth / 2]);
    }
    for (int i = 0; i < kWidth; ++i) row[i] = mixed[i];
  }
}

// ---- stores past the cache; the address must be aligned to the vector

#if defined(__AVX512F__)
OUTDIM_INLINE void stream(void* to, VecU v) { _mm512_stream_si512((__m512i*)to, (__m512i)v); }
#elif defined(__AVX2__)
OUTDIM_INLINE void stream(void* to, VecU v) { _mm256_stream_si256((__m256i*)to, (__m256i)v); }
#elif defined(__x86_64__)
OUTDIM_INLINE void stream(void* to, VecU v) { _mm_stream_si128((__m128i*)to, (__m128i)v); }
#else
OUTDIM_INLINE void stream(void* to, VecU v) { store(to, v); }
#endif
/// Makes streamed stores visible to the threads that wait for this one.
OUTDIM_INLINE void stream_fence() {
#if defined(__x86_64__)
  _mm_sfence();
#endif
}

// ---- float16

#if defined(__AVX512F__)
OUTDIM_INLINE VecF from_half(VecH h) { return (VecF)_mm512_cvtph_ps((__m256i)h); }
OUTDIM_INLINE VecH to_half(VecF v) { return (VecH)_mm512_cvtps_ph((__m512)v, 0); }
#elif defined(__F16C__)
OUTDIM_INLINE VecF from_half(VecH h) { return (VecF)_mm256_cvtph_ps((__m128i)h); }
OUTDIM_INLINE VecH to_half(VecF v) { return (VecH)_mm256_cvtps_ph((__m256)v, 0); }
#else
OUTDIM_INLINE VecU choose(VecU condition, VecU yes, VecU no) {
  return (yes & condition) | (no & ~condition);
}
/// Scaling by 2^112 rebiases the exponent and normalises subnormals; infinity and NaN get theirs
/// back by an or.
OUTDIM_INLINE VecF from_half(VecH h) {
  const VecU bits = __builtin_convertvector(h, VecU);
  const VecU magnitude = (bits & 0x7fffu) << 13;
  const VecU special = (VecU)(magnitude >= 0x0f800000u) & 0x7f800000u;
  const VecF scaled = (VecF)magnitude * 0x1p112f;
  return (VecF)((VecU)scaled | special | ((bits & 0x8000u) << 16));
}
/// Round to nearest even (F. Giesen, float_to_half_fast3_rtne): subnormals by adding 0.5, whose
/// last bit is theirs.
OUTDIM_INLINE VecH to_half(VecF v) {
  const VecU sign = (VecU)v & 0x80000000u;
  const VecU bits = (VecU)v ^ sign;
  const VecU special = choose((VecU)(bits > 0x7f800000u), VecU{} + 0x7e00u, VecU{} + 0x7c00u);
  const VecU subnormal = (VecU)((VecF)bits + 0.5f) - 0x3f000000u;
  const VecU normal = (bits + 0xc8000fffu + ((bits >> 13) & 1u)) >> 13;
  const VecU finite = choose((VecU)(bits < 0x38800000u), subnormal, normal);
  const VecU half = choose((VecU)(bits >= 0x47800000u), special, finite);
  return __builtin_convertvector(half | (sign >> 16), VecH);
}
#endif

// ---- a group of 2 kWidth columns of a stored row <-> two vectors in layout order

template <DType T>
constexpr int kItemSize = T == DType::kFloat32 ? 4 : 2;

struct Group {
  VecF a;
  VecF b;
};

template <DType T>
OUTDIM_INLINE Group load_group(const void* from) {
  const char* p = static_cast<const char*>(from);
  if constexpr (T == DType::kFloat32) {
    return {load<VecF>(p), load<VecF>(p + sizeof(VecF))};
  } else if constexpr (T == DType::kFloat16) {
    return {from_half(load<VecH>(p)), from_half(load<VecH>(p + sizeof(VecH)))};
  } else {
    const VecU words = load<VecU>(p);
    return {(VecF)(words << 16), (VecF)(words & 0xffff0000u)};
  }
}

/// A group in natural order. For bfloat16 that is twice the work of load_group, which is
/// less than what putting sums in order would cost where they are added up in natural order.
template <DType T>
OUTDIM_INLINE Group load_natural(const void* from) {
  if constexpr (T == DType::kBFloat16) {
    const char* p = static_cast<const char*>(from);
    return {(VecF)(__builtin_convertvector(load<VecH>(p), VecU) << 16),
            (VecF)(__builtin_convertvector(load<VecH>(p + sizeof(VecH)), VecU) << 16)};
  } else {
    return load_group<T>(from);
  }
}

/// The first `count` columns of a group in natural order; the rest is zero.
template <DType T>
OUTDIM_INLINE Group load_natural_part(const void* from, int64_t count) {
  alignas(64) char bytes[kGroup * kItemSize<T>] = {};
  memcpy(bytes, from, count * kItemSize<T>);
  return load_natural<T>(bytes);
}

/// The first `count` columns of a group; the rest is zero. `count` is in natural order.
template <DType T>
OUTDIM_INLINE Group load_group_part(const void* from, int64_t count) {
  alignas(64) char bytes[kGroup * kItemSize<T>] = {};
  memcpy(bytes, from, count * kItemSize<T>);
  return load_group<T>(bytes);
}

/// bfloat16 in the high half of each word, rounded to nearest even; the low half is left over. A
/// NaN whose low 16 bits are nonzero could turn into infinity or zero: callers see to it that none
/// comes (NaN of parameters is made canonical beforehand).
OUTDIM_INLINE VecU round_bfloat16(VecF v) {
  const VecU bits = (VecU)v;
#if defined(__AVX512F__)  // one operation less
  const __mmask16 odd = _mm512_test_epi32_mask((__m512i)bits, _mm512_set1_epi32(0x10000));
  return (VecU)_mm512_mask_add_epi32((__m512i)(bits + 0x7fffu), odd, (__m512i)bits,
                                     _mm512_set1_epi32(0x8000));
#else
  return bits + 0x7fffu + ((bits >> 16) & 1u);
#endif
}

/// The bytes of a group as it is stored: one vector for 16-bit types, two for float32.
template <DType T>
struct Stored {
  VecU words[kItemSize<T> / 2];
};

template <DType T>
OUTDIM_INLINE Stored<T> rounded(Group g) {
  if constexpr (T == DType::kFloat32) {
    return {{(VecU)g.a, (VecU)g.b}};
  } else if constexpr (T == DType::kFloat16) {
    const VecH halves[2] = {to_half(g.a), to_half(g.b)};
    Stored<T> stored;
    memcpy(&stored, halves, sizeof stored);
    return stored;
  } else {
    return {{(round_bfloat16(g.a) >> 16) | (round_bfloat16(g.b) & 0xffff0000u)}};
  }
}

/// The values of a group as they were stored.
template <DType T>
OUTDIM_INLINE Group unpacked(Stored<T> stored) {
  if constexpr (T == DType::kFloat32)
    return {(VecF)stored.words[0], (VecF)stored.words[1]};
  else if constexpr (T == DType::kBFloat16)
    return {(VecF)(stored.words[0] << 16), (VecF)(stored.words[0] & 0xffff0000u)};
  else
    return load_group<T>(&stored);
}

template <DType T>
OUTDIM_INLINE void store_group(void* to, Stored<T> stored) {
  memcpy(to, &stored, sizeof stored);
}
template <DType T>
OUTDIM_INLINE void store_group_part(void* to, Stored<T> stored, int64_t count) {
  memcpy(to, &stored, count * kItemSize<T>);
}
template <DType T>
OUTDIM_INLINE void stream_group(void* to, Stored<T> stored) {
  for (int i = 0; i < kItemSize<T> / 2; ++i)
    stream(static_cast<char*>(to) + i * sizeof(VecU), stored.words[i]);
}

// ---- rows in float64

constexpr int kLanes = kWidth / 2;              // of a float64 vector
constexpr int kGroupVectors = kGroup / kLanes;  // of a group

/// A stored group of columns in float64.
template <DType T>
OUTDIM_INLINE void widen_group(const char* from, VecD* values) {
  if constexpr (T == DType::kFloat32) {  // straight from memory, which saves the shuffles
    for (int i = 0; i < kGroupVectors; ++i)
      values[i] = widen(load<HalfF>(from + i * static_cast<int>(sizeof(HalfF))));
  } else {
    const Group group = load_group<T>(from);
    values[0] = widen(low_half(group.a));
    values[1] = widen(high_half(group.a));
    values[2] = widen(low_half(group.b));
    values[3] = widen(high_half(group.b));
  }
}

/// Sum of the squares of a row in float64, which squares of float32 values cannot overflow. `tail`:
/// the columns after the last whole group, zero-padded; null where there are none.
template <DType T>
OUTDIM_INLINE double sum_of_squares(const char* row, int64_t d, const char* tail) {
  VecD sums[kGroupVectors] = {};
  const auto add = [&](const char* from) __attribute__((always_inline)) {
    VecD values[kGroupVectors];
    widen_group<T>(from, values);
    for (int i = 0; i < kGroupVectors; ++i) sums[i] += values[i] * values[i];
  };
  for (int64_t column = 0; column + kGroup <= d; column += kGroup) add(row + column * kItemSize<T>);
  if (tail != nullptr) add(tail);
  return sum_across((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

}  // namespace outdim::cpu::OUTDIM_ISA
