#pragma once

// The algebra of moments, written once: from sums of deviations about a pivot to central moments of
// one block, and from the central moments of two disjoint blocks to those of their union (Chan,
// Golub, LeVeque 1983 for the mean, M2 and comoments; Pebay 2008, SAND2008-6212, equations 2.1-2.4,
// for M3 and M4). Scalars in, scalars out, float64.
//
// Merging in a fixed order gives the same bytes on any number of threads; the order of the
// arguments matters in the last bit, so a block is always merged into the union of the blocks
// before it.

#include <cstdint>

#if defined(__CUDACC__)
#define OUTDIM_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define OUTDIM_HOST_DEVICE inline __attribute__((always_inline))
#endif

namespace outdim {

/// Sums over the n rows of a block of the deviations v = |h| - |c| and of u = max(0, -sign(c) h)
/// for a pivot c.
///
/// |h| = sign(c) h + 2 u holds exactly, so these carry the moments of h and of |h| together: with x
/// = h - c, sum x = sign(c) (sum v - 2 sum u) and sum x^2 = sum v^2 + 4 |c| sum u. Accumulating v
/// instead of x costs one bitwise operation more and has no cancellation where a dimension flips
/// its sign at nearly constant magnitude (sum x^2 - 4 |c| sum u, the other way round, loses all
/// digits of M2 |h| there).
struct PivotSums {
  double pivot;
  double v;
  double vv;
  double u;

  OUTDIM_HOST_DEVICE double sign() const { return __builtin_signbit(pivot) ? -1.0 : 1.0; }
  OUTDIM_HOST_DEVICE double magnitude() const { return sign() * pivot; }
  OUTDIM_HOST_DEVICE double x() const { return sign() * (v - 2.0 * u); }
  OUTDIM_HOST_DEVICE double xx() const { return vv + 4.0 * magnitude() * u; }
};

/// A value near the bulk out of three of the rows that count, for the deviations of a covariate:
/// their median; where one is not finite, another; 0 if none is.
OUTDIM_HOST_DEVICE double covariate_pivot(double a, double b, double c) {
  const bool finite_a = a - a == 0.0, finite_b = b - b == 0.0, finite_c = c - c == 0.0;
  if (!(finite_a && finite_b && finite_c)) return finite_a ? a : finite_b ? b : finite_c ? c : 0.0;
  const double low = a < b ? a : b, high = a < b ? b : a;
  return c < low ? low : c > high ? high : c;
}

/// Second central sum from the first two sums of deviations; rounding never makes it negative, and
/// NaN stays NaN.
OUTDIM_HOST_DEVICE double central_m2(double sum, double sum_of_squares, double mean) {
  const double m2 = sum_of_squares - sum * mean;
  return m2 < 0.0 ? 0.0 : m2;
}

/// Third and fourth central sums from sums of powers of deviations with mean `mean` over n rows.
OUTDIM_HOST_DEVICE double central_m3(double n, double mean, double x2, double x3) {
  return x3 - 3.0 * mean * x2 + 2.0 * n * mean * mean * mean;
}
OUTDIM_HOST_DEVICE double central_m4(double n, double mean, double x2, double x3, double x4) {
  const double square = mean * mean;
  return x4 - 4.0 * mean * x3 + 6.0 * square * x2 - 3.0 * n * square * square;
}

/// What merging nb rows into na rows needs of the counts alone: divisions once a state, not once a
/// dimension. Both must be positive.
struct MergeWeights {
  double share_a;  // na / n
  double share_b;  // nb / n
  double product;  // na nb / n

  OUTDIM_HOST_DEVICE static MergeWeights of(double na, double nb) {
    const double inverse = 1.0 / (na + nb);
    const double share_b = nb * inverse;
    return {na * inverse, share_b, na * share_b};
  }
};

/// `delta` is always mean_b - mean_a, taken before the mean is merged.
OUTDIM_HOST_DEVICE double merged_mean(const MergeWeights& w, double mean_a, double delta) {
  return mean_a + delta * w.share_b;
}
OUTDIM_HOST_DEVICE double merged_m2(const MergeWeights& w, double m2_a, double m2_b, double delta) {
  return m2_a + m2_b + delta * delta * w.product;
}
OUTDIM_HOST_DEVICE double merged_comoment(const MergeWeights& w, double c_a, double c_b,
                                          double delta_x, double delta_y) {
  return c_a + c_b + delta_x * delta_y * w.product;
}
OUTDIM_HOST_DEVICE double merged_m3(const MergeWeights& w, double m3_a, double m3_b, double m2_a,
                                    double m2_b, double delta) {
  return m3_a + m3_b + delta * delta * delta * (w.product * (w.share_a - w.share_b)) +
         3.0 * delta * (w.share_a * m2_b - w.share_b * m2_a);
}
OUTDIM_HOST_DEVICE double merged_m4(const MergeWeights& w, double m4_a, double m4_b, double m3_a,
                                    double m3_b, double m2_a, double m2_b, double delta) {
  const double square = delta * delta;
  const double a = w.share_a, b = w.share_b;
  return m4_a + m4_b + square * square * (w.product * (a * a - a * b + b * b)) +
         6.0 * square * (a * a * m2_b + b * b * m2_a) + 4.0 * delta * (a * m3_b - b * m3_a);
}

}  // namespace outdim
