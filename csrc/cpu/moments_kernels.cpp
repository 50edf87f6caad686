// Sums of moments over one panel of rows (core/moments.h has the formulas, core/moments_merge.h the algebra).
//
// Per element the sums of v = |h| - |c| and u = max(0, -sign(c) h) for a pivot c: sum v, v^2, u, and per covariate f
// sum f v, f u. They carry the moments of both h and |h|: five sums where two separate passes keep eight.
//
// Bytes a row: D elements read once from memory (the panel of <= 64 rows then stays in L2), 8 K for the covariates; the
// sums are read and written once a panel. Mapping: a strip of one to four vectors of columns is walked down the panel
// with its sums in registers (20-22 of 32 with AVX-512); while it is summed, the same strip of the next panel is
// prefetched, because the strided walk defeats the hardware prefetcher (2.3x slower without).
// exact: everything after the load is float64. fast: float32 over kFlushRows rows, then added to the float64 sums.
// Deterministic: a column is summed in row order by one thread, whatever the strips.
//
// Tried and lost: sums of h - c instead of |h| - |c| (one operation less, cancels: moments_merge.h); separate sums for h
// and |h| (registers); flushing every 32 or 64 rows (twice the error, 3 % faster); a pass per covariate.

#include "cpu/dispatch.h"
#include "cpu/simd.h"

namespace outdim::cpu::OUTDIM_ISA {
namespace {

// 16 rows of float32 sums: |error of r| about 5e-9 at N = 1e4 (kernels measured at 4 .. 64).
constexpr int kFlushRows = 16;
// Covariates summed together with the base sums, and in each later pass over the panel.
constexpr int kBaseCovariates = kRegisters == 32 ? 4 : 1;
constexpr int kExtraCovariates = kRegisters == 32 ? 4 : 2;

template <bool kExact>
struct Arithmetic;
template <>
struct Arithmetic<true> {
  using Scalar = double;
  using Vec = VecD;
  using Bits = VecQ;
  static constexpr int kPerFloat = 2;  // vectors of this type for the columns of one float32 vector
};
template <>
struct Arithmetic<false> {
  using Scalar = float;
  using Vec = VecF;
  using Bits = VecU;
  static constexpr int kPerFloat = 1;
};

/// Lines of the next panel in the order of memory, a few at a time. Going row by row matters: the hardware prefetcher
/// follows and runs ahead, whereas the strided order of the strips defeats it (2x slower at D = 768).
class Ahead {
 public:
  explicit Ahead(const MomentsPanel& panel, int64_t item_size)
      : row_(panel.next),
        stride_(panel.next_stride),
        row_bytes_(panel.d * item_size),
        end_(panel.next + panel.next_rows * panel.next_stride) {}

  inline __attribute__((always_inline)) void fetch(int lines) {
    if (row_ == end_) return;
    for (int i = 0; i < lines; ++i) {
      __builtin_prefetch(row_ + offset_, 0, 2);
      offset_ += 64;
    }
    if (offset_ >= row_bytes_) {
      row_ += stride_;
      offset_ = 0;
    }
  }

 private:
  const char* row_;
  int64_t stride_;
  int64_t row_bytes_;
  const char* end_;
  int64_t offset_ = 0;
};

/// Columns of `count` rows starting at byte `from` of each, and where their sums start.
struct Strip {
  const void* const* rows;
  int64_t count;
  int64_t from;
  int64_t to;
};

/// kFloats float32 vectors of a row in layout order; with one, the first or second of its group.
template <DType T, int kFloats, int kSecond>
OUTDIM_INLINE void load_floats(const char* from, VecF* h) {
  if constexpr (kFloats == 1) {
    const Group group = load_group<T>(from);
    h[0] = kSecond ? group.b : group.a;
  } else {
    for (int i = 0; i < kFloats / 2; ++i) {
      const Group group = load_group<T>(from + i * kGroup * kItemSize<T>);
      h[2 * i] = group.a;
      h[2 * i + 1] = group.b;
    }
  }
}

OUTDIM_INLINE void convert(const VecF* h, int floats, VecD* out) {
  for (int i = 0; i < floats; ++i) {
    out[2 * i] = widen(low_half(h[i]));
    out[2 * i + 1] = widen(high_half(h[i]));
  }
}
OUTDIM_INLINE void convert(const VecF* h, int floats, VecF* out) {
  for (int i = 0; i < floats; ++i) out[i] = h[i];
}

/// The same in the arithmetic of the sums. float32 widens straight from memory, which saves the shuffles.
template <DType T, bool kExact, int kFloats, int kSecond>
OUTDIM_INLINE void load_values(const char* from, typename Arithmetic<kExact>::Vec* h) {
  if constexpr (kExact && T == DType::kFloat32) {
    const char* p = from + (kSecond ? sizeof(VecF) : 0);
    for (int i = 0; i < 2 * kFloats; ++i) h[i] = widen(load<HalfF>(p + i * sizeof(HalfF)));
  } else {
    VecF floats[kFloats];
    load_floats<T, kFloats, kSecond>(from, floats);
    convert(floats, kFloats, h);
  }
}

OUTDIM_INLINE void add_to(double* sums, VecD value) { store(sums, load<VecD>(sums) + value); }
OUTDIM_INLINE void add_to(double* sums, VecF value) {
  add_to(sums, widen(low_half(value)));
  add_to(sums + kWidth / 2, widen(high_half(value)));
}

template <class V>
OUTDIM_INLINE void add_all(double* sums, const V* values, int count) {
  for (int i = 0; i < count; ++i)
    add_to(sums + i * static_cast<int>(sizeof(V) / sizeof(values[0][0])), values[i]);
}

/// Base sums (if kBase) and those of kCovariates covariates from `first` on. kCovariates is a template parameter
/// because the sums must live in registers.
template <DType T, bool kExact, int kFloats, int kSecond, int kCovariates, bool kBase>
void strip_sums(const MomentsPanel& panel, const Strip& strip, int first, Ahead* shared) {
  using A = Arithmetic<kExact>;
  using V = typename A::Vec;
  constexpr int kVecs = kFloats * A::kPerFloat;
  constexpr int kStored = kCovariates > 0 ? kCovariates : 1;
  const auto* f = static_cast<const typename A::Scalar*>(panel.covariates) + first * kMaxPanelRows;
  const int64_t from = strip.from;

  V magnitude[kVecs];
  typename A::Bits flip[kVecs];
  {
    VecF floats[kFloats];
    for (int i = 0; i < kFloats; ++i) floats[i] = load<VecF>(panel.pivot + strip.to + i * kWidth);
    V pivot[kVecs];
    convert(floats, kFloats, pivot);
    for (int i = 0; i < kVecs; ++i) {
      magnitude[i] = absolute(pivot[i]);
      flip[i] = flip_of(pivot[i]);
    }
  }
  Ahead ahead = *shared;

  for (int64_t row = 0; row < strip.count;) {
    const int64_t end = kExact || row + kFlushRows > strip.count ? strip.count : row + kFlushRows;
    V sum_v[kVecs] = {}, sum_vv[kVecs] = {}, sum_u[kVecs] = {};
    V sum_fv[kStored][kVecs] = {}, sum_fu[kStored][kVecs] = {};
    for (; row < end; ++row) {
      V h[kVecs];
      load_values<T, kExact, kFloats, kSecond>(static_cast<const char*>(strip.rows[row]) + from, h);
      if (kBase) ahead.fetch((kFloats * kWidth * kItemSize<T> + 63) / 64);
      for (int i = 0; i < kVecs; ++i) {
        const V v = absolute(h[i]) - magnitude[i];
        const V u = larger(flipped(h[i], flip[i]), V{});
        if (kBase) {
          sum_v[i] += v;
          sum_vv[i] += v * v;
          sum_u[i] += u;
        }
        for (int k = 0; k < kCovariates; ++k) {
          const V weight = splat(f[k * kMaxPanelRows + row]);
          sum_fv[k][i] += weight * v;
          sum_fu[k][i] += weight * u;
        }
      }
    }
    double* sums = panel.sums + strip.to;
    if (kBase) {
      add_all(sums + kSumV * panel.padded, sum_v, kVecs);
      add_all(sums + kSumVV * panel.padded, sum_vv, kVecs);
      add_all(sums + kSumU * panel.padded, sum_u, kVecs);
    }
    sums += (kSumRows + 2 * first) * panel.padded;
    for (int k = 0; k < kCovariates; ++k) {
      add_all(sums + 2 * k * panel.padded, sum_fv[k], kVecs);
      add_all(sums + (2 * k + 1) * panel.padded, sum_fu[k], kVecs);
    }
  }
  *shared = ahead;
}

/// Powers, extremes, unit vectors and large values. Rows of weight 0 (nonfinite or zero norm) have no unit vector.
template <DType T, bool kExact, int kFloats, int kSecond>
void strip_shape(const MomentsPanel& panel, const Strip& strip,
                 const typename Arithmetic<kExact>::Scalar* weights) {
  using A = Arithmetic<kExact>;
  using V = typename A::Vec;
  constexpr int kVecs = kFloats * A::kPerFloat;
  VecF least[kFloats], most[kFloats];
  V pivot[kVecs];
  {
    VecF floats[kFloats];
    for (int i = 0; i < kFloats; ++i) {
      floats[i] = load<VecF>(panel.pivot + strip.to + i * kWidth);
      least[i] = load<VecF>(panel.minimum + strip.to + i * kWidth);
      most[i] = load<VecF>(panel.maximum + strip.to + i * kWidth);
    }
    convert(floats, kFloats, pivot);
  }
  const VecF tau = splat(panel.tau);
  double* shape = panel.shape + strip.to;
  for (int64_t row = 0; row < strip.count;) {
    const int64_t end = kExact || row + kFlushRows > strip.count ? strip.count : row + kFlushRows;
    V sum_x3[kVecs] = {}, sum_x4[kVecs] = {}, sum_unit[kVecs] = {};
    VecF over[kFloats] = {};
    for (; row < end; ++row) {
      const char* from = static_cast<const char*>(strip.rows[row]) + strip.from;
      VecF floats[kFloats];
      load_floats<T, kFloats, kSecond>(from, floats);
      for (int i = 0; i < kFloats; ++i) {
        least[i] = smaller(floats[i], least[i]);
        most[i] = larger(floats[i], most[i]);
        over[i] += (VecF)((VecU)(absolute(floats[i]) >= tau) & (VecU)splat(1.0f));
      }
      V h[kVecs];
      load_values<T, kExact, kFloats, kSecond>(from, h);
      for (int i = 0; i < kVecs; ++i) {
        const V x = h[i] - pivot[i];
        const V xx = x * x;
        sum_x3[i] += xx * x;
        sum_x4[i] += xx * xx;
      }
      if (weights[row] != 0) {
        const V weight = splat(weights[row]);
        for (int i = 0; i < kVecs; ++i) sum_unit[i] += weight * h[i];
      }
    }
    add_all(shape + kSumX3 * panel.padded, sum_x3, kVecs);
    add_all(shape + kSumX4 * panel.padded, sum_x4, kVecs);
    add_all(shape + kSumUnit * panel.padded, sum_unit, kVecs);
    add_all(shape + kSumOver * panel.padded, over, kFloats);
  }
  for (int i = 0; i < kFloats; ++i) {
    store(panel.minimum + strip.to + i * kWidth, least[i]);
    store(panel.maximum + strip.to + i * kWidth, most[i]);
  }
}

/// Rows of a panel as whole groups: the columns after the last whole group are copied aside, zero-padded.
template <DType T>
class Rows {
 public:
  explicit Rows(const MomentsPanel& panel) : panel_(panel) {
    whole_ = panel.d / kGroup * kGroup;
    if (whole_ == panel.d) return;
    const int64_t bytes = (panel.d - whole_) * kItemSize<T>;
    for (int64_t row = 0; row < panel.count; ++row) {
      memset(tails_[row], 0, sizeof tails_[row]);
      memcpy(tails_[row], static_cast<const char*>(panel.rows[row]) + whole_ * kItemSize<T>, bytes);
      tail_rows_[row] = tails_[row];
    }
  }

  int64_t whole() const { return whole_; }
  bool has_tail() const { return whole_ < panel_.d; }
  /// A strip of whole groups from layout position `column` (of a group) on.
  Strip strip(int64_t column) const {
    return {panel_.rows, panel_.count, column * kItemSize<T>, column};
  }
  Strip tail() const { return {tail_rows_, panel_.count, 0, whole_}; }

 private:
  const MomentsPanel& panel_;
  int64_t whole_;
  const void* tail_rows_[kMaxPanelRows];
  alignas(64) char tails_[kMaxPanelRows][kGroup * kItemSize<T>];
};

/// Calls one<kFloats, kSecond>(strip) until every column of the panel is covered.
template <int kFloats, DType T, class Sums>
OUTDIM_INLINE void for_each_strip(const Rows<T>& rows, Sums sums) {
  if constexpr (kFloats == 1) {
    for (int64_t column = 0; column < rows.whole(); column += kGroup) {
      Strip strip = rows.strip(column);
      sums.template run<1, 0>(strip);
      strip.to += kWidth;
      sums.template run<1, 1>(strip);
    }
    if (rows.has_tail()) {
      Strip strip = rows.tail();
      sums.template run<1, 0>(strip);
      strip.to += kWidth;
      sums.template run<1, 1>(strip);
    }
  } else {
    int64_t column = 0;
    for (; column + kFloats * kWidth <= rows.whole(); column += kFloats * kWidth)
      sums.template run<kFloats, 0>(rows.strip(column));
    for (; column < rows.whole(); column += kGroup) sums.template run<2, 0>(rows.strip(column));
    if (rows.has_tail()) sums.template run<2, 0>(rows.tail());
  }
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

template <DType T, bool kExact>
struct ShapeSums {
  const MomentsPanel& panel;
  const typename Arithmetic<kExact>::Scalar* weights;
  template <int kFloats, int kSecond>
  inline __attribute__((always_inline)) void run(const Strip& strip) const {
    strip_shape<T, kExact, kFloats, kSecond>(panel, strip, weights);
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
      for_each_strip<strip_floats<kExact>(0)>(rows, MomentSums<T, kExact, 0, true>{panel, 0, &ahead});
      break;
    case 1:
      for_each_strip<strip_floats<kExact>(1)>(rows, MomentSums<T, kExact, 1, true>{panel, 0, &ahead});
      break;
    case 2:
      for_each_strip<strip_floats<kExact>(2)>(rows, MomentSums<T, kExact, 2, true>{panel, 0, &ahead});
      break;
    case 3:
      for_each_strip<strip_floats<kExact>(3)>(rows, MomentSums<T, kExact, 3, true>{panel, 0, &ahead});
      break;
    default:
      for_each_strip<strip_floats<kExact>(4)>(rows, MomentSums<T, kExact, 4, true>{panel, 0, &ahead});
  }
  for (int first = kBaseCovariates; first < panel.covariate_count; first += kExtraCovariates)
    for_each_strip<strip_floats<kExact>(kExtraCovariates)>(
        rows, MomentSums<T, kExact, kExtraCovariates, false>{panel, first, &ahead});
}

/// Counts the nonfinite values of a row whose norm says that it has some.
template <DType T>
void count_nonfinite(const MomentsPanel& panel, const Rows<T>& rows, int64_t row) {
  double* counts = panel.shape + kSumNonfinite * panel.padded;
  const auto add = [&](const char* from, int64_t to) {
    const Group group = load_group<T>(from);
    const VecF one = splat(1.0f);
    // h - h is 0 for finite values and NaN otherwise.
    add_to(counts + to, (VecF)((VecU)(group.a - group.a != 0.0f) & (VecU)one));
    add_to(counts + to + kWidth, (VecF)((VecU)(group.b - group.b != 0.0f) & (VecU)one));
  };
  const char* values = static_cast<const char*>(panel.rows[row]);
  for (int64_t column = 0; column < rows.whole(); column += kGroup)
    add(values + column * kItemSize<T>, column);
  if (rows.has_tail()) add(static_cast<const char*>(rows.tail().rows[row]), rows.whole());
}

template <DType T>
OUTDIM_INLINE void add_squares(const char* from, VecD* sums) {
  VecD h[4];
  load_values<T, true, 2, 0>(from, h);
  for (int i = 0; i < 4; ++i) sums[i] += h[i] * h[i];
}

/// 1 / ||h|| in float64, 0 where the norm is zero or not finite. float32 values cannot overflow float64 squares.
template <DType T>
double inverse_norm(const Rows<T>& rows, const char* values, const void* tail, bool* finite) {
  VecD sums[4] = {};
  for (int64_t column = 0; column < rows.whole(); column += kGroup)
    add_squares<T>(values + column * kItemSize<T>, sums);
  if (tail != nullptr) add_squares<T>(static_cast<const char*>(tail), sums);
  const double square = sum_across((sums[0] + sums[1]) + (sums[2] + sums[3]));
  *finite = square - square == 0.0;
  return *finite && square > 0.0 ? 1.0 / __builtin_sqrt(square) : 0.0;
}

template <DType T, bool kExact>
void add_shape(const MomentsPanel& panel, const Rows<T>& rows) {
  typename Arithmetic<kExact>::Scalar weights[kMaxPanelRows];
  for (int64_t row = 0; row < panel.count; ++row) {
    bool finite;
    const void* tail = rows.has_tail() ? rows.tail().rows[row] : nullptr;
    const auto* values = static_cast<const char*>(panel.rows[row]);
    weights[row] = static_cast<typename Arithmetic<kExact>::Scalar>(
        inverse_norm<T>(rows, values, tail, &finite));
    if (!finite) count_nonfinite<T>(panel, rows, row);
  }
  constexpr int kFloats = kRegisters == 32 || !kExact ? 2 : 1;
  for_each_strip<kFloats>(rows, ShapeSums<T, kExact>{panel, weights});
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
