// Sums of moments over one panel of rows (core/moments.h has the formulas, core/moments_merge.h the
// algebra).
//
// Per element the sums of v = |h| - |c| and x = h - c for a pivot c: sum v, v^2, x, and per
// covariate f sum f v, f x. They carry the moments of both h and |h| (sum x^2 follows from v^2 and
// from v - x, moments_merge.h): five sums where two separate passes keep eight, and eight
// operations an element.
//
// Bytes a row: D elements read once from memory (the panel then stays in L2), 8 K for the
// covariates; the sums are read and written once a panel. Mapping: a group of columns of the panel
// is widened to float64 into a tile in L1, then each vector of its columns is walked down the rows
// with all its sums in registers: 14 of 32 with AVX-512, four covariates and shape; with fewer
// registers several walks take turns. Meanwhile the next panel is prefetched. Everything after the
// load is float64. Deterministic: a column is summed in row order by one thread.
//
// What bounds it: 24 operations of 512 bits for 8 values with four covariates and shape, on two
// ports (widening 3, the norm of the row 3, extremes 1), so 1.5 cycles a value; 0.54 of the 0.8 ns
// measured in cache at 2.8 GHz. The rest are sums read from and written to L2, and block states.
//
// Tried and lost (docs/performance.md has numbers): float32 sums over 8 or 16 rows, flushed to
// float64 ("fast", as on a GPU); a pivot of 0 where the data allow it; panels of 256 and 512 KiB at
// D = 4096; 64 rows a panel; no prefetch; prefetching every second line, or into L1; streamed
// stores of LayerNorm's output on this kind of CPU; shape in a walk of its own. Sums of u = max(0,
// -sign(c) h) instead of x: one operation more. Sum x^2 instead of v^2 cancels (moments_merge.h).

#include "cpu/moments_shape.h"
#include "cpu/moments_tile.h"

namespace outdim::cpu::OUTDIM_ISA {
namespace {

constexpr bool kManyRegisters = kRegisters == 32;
// Covariates summed together with the base sums, and in each later walk.
constexpr int kBaseCovariates = kManyRegisters ? 4 : 1;
constexpr int kExtraCovariates = kManyRegisters ? 4 : 2;
// Vectors of columns walked side by side.
constexpr int walked(int covariates, bool shape) {
  if (!kManyRegisters) return 2;
  return shape ? 1 : covariates <= 1 ? 4 : 2;
}

/// What a walk of a tile is given: where its group of columns starts, the rows' weights in sums of
/// unit vectors.
struct Walk {
  const MomentsPanel& panel;
  const Tile& tile;
  int64_t column;
  const double* weights;
  Ahead* ahead;
};

/// What a walk takes of powers and unit vectors; with care where rows of weight 0 are not finite.
enum class Shape { kNone, kPlain, kCareful };

/// Base sums (if kBase), those of kCovariates covariates from `first` on, and those of the shape.
template <int kCovariates, bool kBase, Shape kShape>
void walk(const Walk& given, int first) {
  constexpr bool kPowers = kShape != Shape::kNone;
  constexpr int kVecs = walked(kCovariates, kPowers);
  constexpr int kStored = kCovariates > 0 ? kCovariates : 1;
  const MomentsPanel& panel = given.panel;
  const int64_t count = panel.count, padded = panel.padded;
  const double* f = panel.covariates + first * kMaxPanelRows;
  const double* weights = given.weights;
  for (int part = 0; part < kGroupVectors; part += kVecs) {
    const VecD(*h)[kMaxPanelRows] = given.tile.values + part;
    const int64_t column = given.column + part * kLanes;
    const Ahead::Lines next = kBase ? given.ahead->next(h, count) : Ahead::Lines{};
    VecD pivot[kVecs], magnitude[kVecs];
    for (int i = 0; i < kVecs; ++i) {
      pivot[i] = widen(load<HalfF>(panel.pivot + column + i * kLanes));
      magnitude[i] = absolute(pivot[i]);
    }
    VecD sum_v[kVecs] = {}, sum_vv[kVecs] = {}, sum_x[kVecs] = {};
    VecD sum_fv[kStored][kVecs] = {}, sum_fx[kStored][kVecs] = {};
    VecD sum_x3[kVecs] = {}, sum_x4[kVecs] = {}, sum_unit[kVecs] = {};
    const auto add_row = [&](int64_t row) __attribute__((always_inline)) {
      if (kBase) next.fetch(row);
      VecD v[kVecs], x[kVecs];
      for (int i = 0; i < kVecs; ++i) {
        v[i] = absolute(h[i][row]) - magnitude[i];
        x[i] = h[i][row] - pivot[i];
        if (kBase) {
          sum_v[i] += v[i];
          sum_vv[i] += v[i] * v[i];
          sum_x[i] += x[i];
        }
        if (kPowers) {
          const VecD xx = x[i] * x[i];
          sum_x3[i] += xx * x[i];
          sum_x4[i] += xx * xx;
        }
      }
      for (int k = 0; k < kCovariates; ++k) {
        const VecD weight = splat(f[k * kMaxPanelRows + row]);
        for (int i = 0; i < kVecs; ++i) {
          sum_fv[k][i] += weight * v[i];
          sum_fx[k][i] += weight * x[i];
        }
      }
      if (kShape == Shape::kPlain || (kPowers && weights[row] != 0)) {
        const VecD weight = splat(weights[row]);
        for (int i = 0; i < kVecs; ++i) sum_unit[i] += weight * h[i][row];
      }
    };
    int64_t row = 0;
    for (; row + 2 <= count; row += 2) {
      add_row(row);
      add_row(row + 1);
    }
    if (row < count) add_row(row);
    for (int i = 0; i < kVecs; ++i) {
      double* sums = panel.sums + column + i * kLanes;
      if (kBase) {
        add_to(sums + kSumV * padded, sum_v[i]);
        add_to(sums + kSumVV * padded, sum_vv[i]);
        add_to(sums + kSumX * padded, sum_x[i]);
      }
      for (int k = 0; k < kCovariates; ++k) {
        add_to(sums + (kSumRows + 2 * (first + k)) * padded, sum_fv[k][i]);
        add_to(sums + (kSumRows + 2 * (first + k) + 1) * padded, sum_fx[k][i]);
      }
      if (kPowers) {
        double* shape = panel.shape + column + i * kLanes;
        add_to(shape + kSumX3 * padded, sum_x3[i]);
        add_to(shape + kSumX4 * padded, sum_x4[i]);
        add_to(shape + kSumUnit * padded, sum_unit[i]);
      }
    }
  }
}

/// The first walk of a tile.
template <Shape kShape>
OUTDIM_INLINE void first_walk(const Walk& given) {
  switch (given.panel.covariate_count) {
    case 0:
      return walk<0, true, kShape>(given, 0);
    case 1:
      return walk<1, true, kShape>(given, 0);
    case 2:
      return walk < kBaseCovariates<2 ? kBaseCovariates : 2, true, kShape>(given, 0);
    case 3:
      return walk < kBaseCovariates<3 ? kBaseCovariates : 3, true, kShape>(given, 0);
    default:
      return walk<kBaseCovariates, true, kShape>(given, 0);
  }
}

template <DType T>
void accumulate(const MomentsPanel& panel) {
  const Rows<T> rows(panel);
  double weights[kMaxPanelRows];
  const bool shape = panel.shape != nullptr;
  const bool all_finite = shape && inverse_norms<T>(panel, rows, weights);
  const bool wide = walked(panel.covariate_count, shape) > 2 && T == DType::kFloat32;
  Ahead ahead(panel.next, panel.d * kItemSize<T>, wide);
  Tile tile;
  for (int64_t column = 0; column < panel.padded; column += kGroup) {
    const Walk given = {panel, tile, column, weights, &ahead};
    if (shape) {
      const Extremes found = fill_tile<T, true>(rows, panel.count, column, &tile);
      add_extremes(panel, found, tile, column);
    } else {
      fill_tile<T, false>(rows, panel.count, column, &tile);
    }
    if (kManyRegisters && all_finite) {
      first_walk<Shape::kPlain>(given);
    } else {
      first_walk<Shape::kNone>(given);
      if (shape) walk<0, false, Shape::kCareful>(given, 0);
    }
    for (int first = kBaseCovariates; first < panel.covariate_count; first += kExtraCovariates)
      walk<kExtraCovariates, false, Shape::kNone>(given, first);
  }
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
    {accumulate<DType::kFloat32>, accumulate<DType::kFloat16>, accumulate<DType::kBFloat16>},
};

}  // namespace outdim::cpu::OUTDIM_ISA
