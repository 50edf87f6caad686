// Sums of moments over one panel of rows (core/moments.h has the formulas, core/moments_merge.h the
// algebra).
//
// Per element the sums of v = |h| - |c| and x = h - c for a pivot c: sum v, v^2, x, and per
// covariate f sum f v, f x. They carry the moments of both h and |h| (sum x^2 follows from v^2 and
// from v - x, moments_merge.h): five sums where two separate passes keep eight, and eight
// operations an element.
//
// Bytes a row: D elements read once from memory (the panel then stays in L2), 8 K for the
// covariates; the sums are read and written once a panel. Mapping: a strip of one to four vectors
// of columns is walked down the panel with its sums in registers (20-22 of 32 with AVX-512); while
// it is summed, rows of the next panel are prefetched. exact: everything after the load is float64.
// fast: float32 over kFlushRows rows, then added to the float64 sums; there |h - c| above 1.8e19
// (4e9 for the fourth power) overflows and makes the dimension NaN without a nonfinite count.
// Deterministic: a column is summed in row order by one thread, whatever the strips.
//
// Tried and lost (ns an element, float32, D = 768, exact, Cascade Lake; 0.60 as it is): no
// prefetch 1.9; prefetching the same strip of the next panel 0.95, because the hardware prefetcher
// does not follow a strided walk; 64 rows a panel 0.76; panels of 256 and 384 KiB at D = 4096: no
// faster. Prefetching every second line, or into L2 only: no faster; two rows of the next panel
// side by side: fast sums up to 6 % faster, exact ones up to 4 % slower. Sums of u = max(0,
// -sign(c) h) instead of x: one operation more, 0.34 instead of 0.30 in cache. Sum x^2 instead of
// v^2 cancels (moments_merge.h). Widening 16-bit values from memory saves a shuffle and made exact
// sums 2 to 5 % faster, but takes inline assembly to keep the compiler from undoing it.

#include "cpu/moments_shape.h"
#include "cpu/moments_strips.h"

namespace outdim::cpu::OUTDIM_ISA {
namespace {

// Covariates summed together with the base sums, and in each later pass over the panel.
constexpr int kBaseCovariates = kRegisters == 32 ? 4 : 1;
constexpr int kExtraCovariates = kRegisters == 32 ? 4 : 2;

/// Base sums (if kBase) and those of kCovariates covariates from `first` on. kCovariates is a
/// template parameter because the sums must live in registers.
template <DType T, bool kExact, int kFloats, int kSecond, int kCovariates, bool kBase>
void strip_sums(const MomentsPanel& panel, const Strip& strip, int first, Ahead* shared) {
  using A = Arithmetic<kExact>;
  using V = typename A::Vec;
  constexpr int kVecs = kFloats * A::kPerFloat;
  constexpr int kStored = kCovariates > 0 ? kCovariates : 1;
  const auto* f = static_cast<const typename A::Scalar*>(panel.covariates) + first * kMaxPanelRows;
  const int64_t from = strip.from;

  V pivot[kVecs], magnitude[kVecs];
  {
    VecF floats[kFloats];
    for (int i = 0; i < kFloats; ++i) floats[i] = load<VecF>(panel.pivot + strip.to + i * kWidth);
    convert(floats, kFloats, pivot);
    for (int i = 0; i < kVecs; ++i) magnitude[i] = absolute(pivot[i]);
  }
  Ahead ahead = *shared;

  for (int64_t row = 0; row < strip.count;) {
    const int64_t end = kExact || row + kFlushRows > strip.count ? strip.count : row + kFlushRows;
    V sum_v[kVecs] = {}, sum_vv[kVecs] = {}, sum_x[kVecs] = {}, lost[kVecs] = {};
    V sum_fv[kStored][kVecs] = {}, sum_fx[kStored][kVecs] = {};
    for (; row < end; ++row) {
      V h[kVecs];
      load_values<T, kExact, kFloats, kSecond>(static_cast<const char*>(strip.rows[row]) + from, h);
      if (kBase) ahead.fetch((kFloats * kWidth * kItemSize<T> + 63) / 64);
      for (int i = 0; i < kVecs; ++i) {
        const V v = absolute(h[i]) - magnitude[i];
        const V x = h[i] - pivot[i];
        if (kBase) {
          sum_v[i] += v;
          const V vv = sum_vv[i] + v * v;
          // Squares of values with few digits (float32 far from zero) tie when a float32 sum is
          // rounded, and ties go one way more often: M2 off by 1e-7 at mean / std = 1e4. So what
          // rounding loses is kept.
          if (!kExact) lost[i] += v * v - (vv - sum_vv[i]);
          sum_vv[i] = vv;
          sum_x[i] += x;
        }
        for (int k = 0; k < kCovariates; ++k) {
          const V weight = splat(f[k * kMaxPanelRows + row]);
          sum_fv[k][i] += weight * v;
          sum_fx[k][i] += weight * x;
        }
      }
    }
    double* sums = panel.sums + strip.to;
    if (kBase) {
      add_all(sums + kSumV * panel.padded, sum_v, kVecs);
      add_all(sums + kSumVV * panel.padded, sum_vv, kVecs);
      if (!kExact) add_all(sums + kSumVV * panel.padded, lost, kVecs);
      add_all(sums + kSumX * panel.padded, sum_x, kVecs);
    }
    sums += (kSumRows + 2 * first) * panel.padded;
    for (int k = 0; k < kCovariates; ++k) {
      add_all(sums + 2 * k * panel.padded, sum_fv[k], kVecs);
      add_all(sums + (2 * k + 1) * panel.padded, sum_fx[k], kVecs);
    }
  }
  *shared = ahead;
}

template <DType T, bool kExact, int kCovariates, bool kBase>
struct MomentSums {
  const MomentsPanel& panel;
  int first;
  Ahead* ahead;
  template <int kFloats, int kSecond>
  inline __attribute__((always_inline)) void run(const Strip& strip) const {
    strip_sums<T, kExact, kFloats, kSecond, kCovariates, kBase>(panel, strip, first, ahead);
  }
};

/// Float32 vectors a strip holds so that its sums fit the registers.
template <bool kExact>
constexpr int strip_floats(int covariates) {
  const int vectors = covariates <= 1 && kRegisters == 32 ? 4 : 2;
  return kExact ? vectors / 2 : vectors;
}

template <DType T, bool kExact>
void add_moments(const MomentsPanel& panel, const Rows<T>& rows) {
  Ahead ahead(panel, kItemSize<T>);
  switch (panel.covariate_count < kBaseCovariates ? panel.covariate_count : kBaseCovariates) {
    case 0:
      for_each_strip<strip_floats<kExact>(0)>(rows,
                                              MomentSums<T, kExact, 0, true>{panel, 0, &ahead});
      break;
    case 1:
      for_each_strip<strip_floats<kExact>(1)>(rows,
                                              MomentSums<T, kExact, 1, true>{panel, 0, &ahead});
      break;
    case 2:
      for_each_strip<strip_floats<kExact>(2)>(rows,
                                              MomentSums<T, kExact, 2, true>{panel, 0, &ahead});
      break;
    case 3:
      for_each_strip<strip_floats<kExact>(3)>(rows,
                                              MomentSums<T, kExact, 3, true>{panel, 0, &ahead});
      break;
    default:
      for_each_strip<strip_floats<kExact>(4)>(rows,
                                              MomentSums<T, kExact, 4, true>{panel, 0, &ahead});
  }
  for (int first = kBaseCovariates; first < panel.covariate_count; first += kExtraCovariates)
    for_each_strip<strip_floats<kExact>(kExtraCovariates)>(
        rows, MomentSums<T, kExact, kExtraCovariates, false>{panel, first, &ahead});
}

template <DType T, bool kExact>
void accumulate(const MomentsPanel& panel) {
  const Rows<T> rows(panel);
  add_moments<T, kExact>(panel, rows);
  if (panel.shape != nullptr) add_shape<T, kExact>(panel, rows);
}

OUTDIM_INLINE VecF finite_median(VecF a, VecF b, VecF c) {
  const VecF median = larger(smaller(a, b), smaller(larger(a, b), c));
  return (VecF)((VecU)(median - median == 0.0f) & (VecU)median);
}

template <DType T>
void choose_pivot(const void* const rows[3], int64_t d, float* pivot) {
  for (int64_t column = 0; column < d; column += kGroup) {
    Group group[3];
    for (int i = 0; i < 3; ++i) {
      const char* from = static_cast<const char*>(rows[i]) + column * kItemSize<T>;
      group[i] = column + kGroup <= d ? load_group<T>(from) : load_group_part<T>(from, d - column);
    }
    store(pivot + column, finite_median(group[0].a, group[1].a, group[2].a));
    store(pivot + column + kWidth, finite_median(group[0].b, group[1].b, group[2].b));
  }
}

int covariates_padded(int covariates) {
  if (covariates <= kBaseCovariates) return covariates;
  const int extra = covariates - kBaseCovariates;
  return kBaseCovariates + (extra + kExtraCovariates - 1) / kExtraCovariates * kExtraCovariates;
}

}  // namespace

extern const MomentsKernels kMomentsKernels;
const MomentsKernels kMomentsKernels = {
    kWidth,
    covariates_padded,
    {choose_pivot<DType::kFloat32>, choose_pivot<DType::kFloat16>, choose_pivot<DType::kBFloat16>},
    {{accumulate<DType::kFloat32, false>, accumulate<DType::kFloat32, true>},
     {accumulate<DType::kFloat16, false>, accumulate<DType::kFloat16, true>},
     {accumulate<DType::kBFloat16, false>, accumulate<DType::kBFloat16, true>}},
};

}  // namespace outdim::cpu::OUTDIM_ISA
