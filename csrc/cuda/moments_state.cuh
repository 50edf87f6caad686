#pragma once

// The arithmetic of the statistics kernels, free of threads: what a thread adds up for a column,
// the partial state that a block of the grid leaves behind, and its way into a central state. Runs
// on host and device.

#include <cmath>
#include <cstdint>

#include "core/moments.h"
#include "core/moments_merge.h"

namespace outdim::cuda {

/// Covariates that one pass over the data can take.
constexpr int kMaxCovariates = 4;

/// Rows of a partial state, each of length D: the pivot, then sums over the block's rows in the
/// order of ColumnSums for K covariates, then, with shape, min, max, number of |h| >= tau, number
/// of nonfinite values.
constexpr int kSumRows = 3;       // x, v, v^2 with x = h - c, v = |h| - |c|
constexpr int kShapeSumRows = 3;  // x^3, x^4, h / ||h||
constexpr int kExtremeRows = 4;   // min, max, over, nonfinite
OUTDIM_HOST_DEVICE constexpr int sum_rows(int k, bool shape) {
  return kSumRows + 2 * k + (shape ? kShapeSumRows : 0);
}
OUTDIM_HOST_DEVICE constexpr int partial_rows(int k, bool shape) {
  return 1 + sum_rows(k, shape) + (shape ? kExtremeRows : 0);
}
/// Scalars of a partial state: n, 1 / n, and of each covariate its pivot, then the sums of the
/// deviations from it, then those of their squares.
constexpr int kPartialScalars = 2 + 3 * kMaxCovariates;
OUTDIM_HOST_DEVICE constexpr int pivot_scalar(int k) { return 2 + k; }
OUTDIM_HOST_DEVICE constexpr int sum_scalar(int k) { return 2 + kMaxCovariates + k; }
OUTDIM_HOST_DEVICE constexpr int square_scalar(int k) { return 2 + 2 * kMaxCovariates + k; }

/// Sums of one column over some rows, in float32 (to be flushed soon) or float64.
///
/// v^2 and x are added up, x^2 is not: with u = (sum v - sign(c) sum x) / 2, the sum of max(0,
/// -sign(c) h), moments_merge.h derives it. Where no value has the other sign, v = sign(c) x bit
/// for bit in every step, and u is exactly zero; where one has, |x| >= |c| there, so that the
/// rounding of u is of the order of that of x^2.
template <class A, int K, bool Shape>
struct ColumnSums {
  static constexpr int kCount = sum_rows(K, Shape);
  A sum[kCount];

  OUTDIM_HOST_DEVICE void clear() {
#pragma unroll
    for (int q = 0; q < kCount; ++q) sum[q] = A(0);
  }

  /// Adds the value h of a row whose covariates deviate by f; `inverse_norm` is 1 / ||h|| of the
  /// row, or 0 to leave it out of the sum of unit vectors.
  OUTDIM_HOST_DEVICE void add(A h, A pivot, const A* f, A inverse_norm) {
    const A x = h - pivot;
    const A v = absolute(h) - absolute(pivot);
    sum[0] += x;
    sum[1] += v;
    sum[2] += v * v;
#pragma unroll
    for (int k = 0; k < K; ++k) {
      sum[kSumRows + k] += f[k] * x;
      sum[kSumRows + K + k] += f[k] * v;
    }
    if constexpr (Shape) {
      const A xx = x * x;
      sum[kSumRows + 2 * K] += xx * x;
      sum[kSumRows + 2 * K + 1] += xx * xx;
      if (inverse_norm != A(0)) sum[kSumRows + 2 * K + 2] += h * inverse_norm;
    }
  }

  OUTDIM_HOST_DEVICE static float absolute(float value) { return fabsf(value); }
  OUTDIM_HOST_DEVICE static double absolute(double value) { return fabs(value); }
};

/// What is no sum: extremes over the values that are not NaN, and counts.
struct ColumnExtremes {
  float minimum;
  float maximum;
  int over;
  int nonfinite;

  OUTDIM_HOST_DEVICE void clear() {
    minimum = INFINITY;
    maximum = -INFINITY;
    over = 0;
    nonfinite = 0;
  }
  OUTDIM_HOST_DEVICE void add(float h, float tau) {
    minimum = fminf(minimum, h);
    maximum = fmaxf(maximum, h);
    over += fabsf(h) >= tau;
    nonfinite += !(fabsf(h) < INFINITY);
  }
};

/// 1 / ||h|| from the sum of squares; 0, which leaves the row out of the sum of unit vectors, where
/// the norm is zero or not finite.
template <class A>
OUTDIM_HOST_DEVICE A inverse_root(double squares) {
  const A inverse = static_cast<A>(1.0 / sqrt(squares));
  return squares > 0.0 && squares < INFINITY && inverse < A(INFINITY) ? inverse : A(0);
}

/// Coordinate-wise median of three rows: a value of the data near the bulk even where one of them
/// is a spike. Zero where it is not finite (those moments are NaN whatever the pivot).
OUTDIM_HOST_DEVICE float median_pivot(float a, float b, float c) {
  const float median = fmaxf(fminf(a, b), fminf(fmaxf(a, b), c));
  return fabsf(median) < INFINITY ? median : 0.0f;
}

/// Central moments of one column over n rows, with kMaxCovariates of the covariates.
struct ColumnState {
  double n;
  double mean;
  double m2;
  double mean_abs;
  double m2_abs;
  double f_mean[kMaxCovariates];
  double c[kMaxCovariates];
  double c_abs[kMaxCovariates];
  double m3;
  double m4;
  double unit;
  double minimum;
  double maximum;
  double over;
  double nonfinite;

  OUTDIM_HOST_DEVICE void clear() {
    n = mean = m2 = mean_abs = m2_abs = m3 = m4 = unit = over = nonfinite = 0.0;
    minimum = INFINITY;
    maximum = -INFINITY;
#pragma unroll
    for (int k = 0; k < kMaxCovariates; ++k) f_mean[k] = c[k] = c_abs[k] = 0.0;
  }

  /// Reads the partial state of one column, rows `step` apart, whose scalars say n > 0 rows.
  OUTDIM_HOST_DEVICE void read(const double* partial, int64_t step, const double* scalars,
                               int k_count, bool shape) {
    n = scalars[0];
    const double inverse = scalars[1];
    const double pivot = partial[0];
    const double x = partial[step];
    const double v = partial[2 * step];
    const double sign = __builtin_signbit(pivot) ? -1.0 : 1.0;
    const PivotSums sums{pivot, v, partial[3 * step], 0.5 * (v - sign * x)};
    const double x_mean = x * inverse;
    const double v_mean = v * inverse;
    mean = pivot + x_mean;
    mean_abs = sums.magnitude() + v_mean;
    m2 = central_m2(x, sums.xx(), x_mean);
    m2_abs = central_m2(v, sums.vv, v_mean);
    const double* co = partial + (1 + kSumRows) * step;
#pragma unroll
    for (int k = 0; k < kMaxCovariates; ++k) {
      f_mean[k] = c[k] = c_abs[k] = 0.0;
      if (k < k_count) {
        const double f = scalars[sum_scalar(k)];
        f_mean[k] = scalars[pivot_scalar(k)] + f * inverse;
        c[k] = co[k * step] - f * x_mean;
        c_abs[k] = co[(k_count + k) * step] - f * v_mean;
      }
    }
    if (shape) {
      const double* rows = co + 2 * k_count * step;
      m3 = central_m3(n, x_mean, sums.xx(), rows[0]);
      m4 = central_m4(n, x_mean, sums.xx(), rows[0], rows[step]);
      unit = rows[2 * step];
      minimum = rows[3 * step];
      maximum = rows[4 * step];
      over = rows[5 * step];
      nonfinite = rows[6 * step];
    }
  }

  /// Makes every moment NaN where a value was not finite.
  OUTDIM_HOST_DEVICE void poison() {
    if (m2 - m2 == 0.0) return;
    mean = m2 = mean_abs = m2_abs = m3 = m4 = NAN;
#pragma unroll
    for (int k = 0; k < kMaxCovariates; ++k) c[k] = c_abs[k] = NAN;
  }

  /// Reads one column of a state of `covariates` covariates, of which those from `first` on.
  OUTDIM_HOST_DEVICE void load(const double* head, const double* body, int64_t step, int covariates,
                               int first, bool shape) {
    clear();
    n = head[0];
    mean = body[kMean * step];
    m2 = body[kM2 * step];
    mean_abs = body[kMeanAbs * step];
    m2_abs = body[kM2Abs * step];
#pragma unroll
    for (int k = 0; k < kMaxCovariates; ++k) {
      if (first + k >= covariates) continue;
      f_mean[k] = head[1 + first + k];
      c[k] = body[(kBaseRows + first + k) * step];
      c_abs[k] = body[(kBaseRows + covariates + first + k) * step];
    }
    if (!shape) return;
    const double* rest = body + (kBaseRows + 2 * covariates) * step;
    m3 = rest[kM3 * step];
    m4 = rest[kM4 * step];
    minimum = rest[kMin * step];
    maximum = rest[kMax * step];
    over = rest[kCountOver * step];
    unit = rest[kUnitSum * step];
    nonfinite = rest[kNonfinite * step];
  }

  /// Writes what `load` reads, and with first > 0 the comoments alone.
  OUTDIM_HOST_DEVICE void store(double* body, int64_t step, int covariates, int first,
                                bool shape) const {
#pragma unroll
    for (int k = 0; k < kMaxCovariates; ++k) {
      if (first + k >= covariates) continue;
      body[(kBaseRows + first + k) * step] = c[k];
      body[(kBaseRows + covariates + first + k) * step] = c_abs[k];
    }
    if (first > 0) return;
    body[kMean * step] = mean;
    body[kM2 * step] = m2;
    body[kMeanAbs * step] = mean_abs;
    body[kM2Abs * step] = m2_abs;
    if (!shape) return;
    double* const rest = body + (kBaseRows + 2 * covariates) * step;
    rest[kM3 * step] = m3;
    rest[kM4 * step] = m4;
    rest[kMin * step] = minimum;
    rest[kMax * step] = maximum;
    rest[kCountOver * step] = over;
    rest[kUnitSum * step] = unit;
    rest[kNonfinite * step] = nonfinite;
  }

  /// Takes in the rows of `b`, which come after these.
  OUTDIM_HOST_DEVICE void merge(const ColumnState& b, bool shape) {
    merge(b, MergeWeights::of(n, b.n), shape);
  }
  /// The same with the weights, which are those of every column; they do not matter where either
  /// has no rows.
  OUTDIM_HOST_DEVICE void merge(const ColumnState& b, const MergeWeights& w, bool shape) {
    if (b.n == 0.0) return;
    if (n == 0.0) {
      *this = b;
      return;
    }
    const double delta = b.mean - mean;
    const double delta_abs = b.mean_abs - mean_abs;
#pragma unroll
    for (int k = 0; k < kMaxCovariates; ++k) {
      const double delta_f = b.f_mean[k] - f_mean[k];
      c[k] = merged_comoment(w, c[k], b.c[k], delta_f, delta);
      c_abs[k] = merged_comoment(w, c_abs[k], b.c_abs[k], delta_f, delta_abs);
      f_mean[k] = merged_mean(w, f_mean[k], delta_f);
    }
    if (shape) {
      m4 = merged_m4(w, m4, b.m4, m3, b.m3, m2, b.m2, delta);
      m3 = merged_m3(w, m3, b.m3, m2, b.m2, delta);
      unit += b.unit;
      minimum = fmin(minimum, b.minimum);
      maximum = fmax(maximum, b.maximum);
      over += b.over;
      nonfinite += b.nonfinite;
    }
    m2 = merged_m2(w, m2, b.m2, delta);
    m2_abs = merged_m2(w, m2_abs, b.m2_abs, delta_abs);
    mean = merged_mean(w, mean, delta);
    mean_abs = merged_mean(w, mean_abs, delta_abs);
    n += b.n;
  }
};

}  // namespace outdim::cuda
