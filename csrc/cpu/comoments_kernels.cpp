// Sums of v = |h| - c, of v^2 and of f v for every value f of a row, down the rows of a panel
// (core/comoments.h).
//
// Bytes: D elements a row, read once; everything else stays in the L1 cache. Mapping: a group of
// columns of the panel is widened to float64 into a tile, then two vectors of its columns at a time
// are walked down the rows with the sums of up to 12 values in 28 registers of 32 (one vector with
// 16 registers). What bounds it: 14 operations of 512 bits for 8 values, 0.3 ns a value at 2.8 GHz.
//
// The pivot c is the mean of a group's first panel of m rows. Then n (c - mean)^2 is at most n / m of
// the sum of squared deviations, whatever the data: so much less exact than a second walk is M2.

#include "core/comoments.h"
#include "cpu/dispatch.h"
#include "cpu/simd.h"

namespace outdim::cpu::OUTDIM_ISA {
namespace {

constexpr int kWalked = kRegisters == 32 ? 2 : 1;  // vectors of columns side by side
constexpr int kMost = 12;                          // values in one walk
constexpr int kUnit = 4;                           // their number is padded to this
constexpr int kLine = 64;                          // of the cache

/// |h| of a group of columns, a vector of columns after the other.
struct Sizes {
  VecD values[kGroupVectors][kMaxPanelRows];
};

template <DType T>
OUTDIM_INLINE void load_sizes(const ComomentsPanel& panel, Sizes* sizes) {
  const int64_t offset = panel.column * kItemSize<T>;
  for (int64_t row = 0; row < panel.count; ++row) {
    const char* from = static_cast<const char*>(panel.rows[row]) + offset;
    alignas(64) char part[kGroup * kItemSize<T>];
    if (panel.columns < kGroup) {
      memset(part, 0, sizeof part);
      memcpy(part, from, panel.columns * kItemSize<T>);
      from = part;
    }
    const Group group = load_natural<T>(from);
    const HalfF halves[kGroupVectors] = {low_half(group.a), high_half(group.a), low_half(group.b),
                                         high_half(group.b)};
    for (int i = 0; i < kGroupVectors; ++i) sizes->values[i][row] = absolute(widen(halves[i]));
  }
}

OUTDIM_INLINE void add_to(double* sums, VecD value) { store(sums, load<VecD>(sums) + value); }

/// Sums of kValues values from `first` on, and of v and v^2 where kBase; those walks prefetch the
/// next panel, a line a row, for all of it at once would wait for memory and then leave it idle.
template <int kValues, bool kBase>
void walk(const ComomentsPanel& panel, const Sizes& sizes, int first) {
  const double* weights = panel.weights + first;
  for (int part = 0; part < kGroupVectors; part += kWalked) {
    const int64_t byte = panel.column * panel.item_size + part / kWalked * kLine;
    const bool fetch = kBase && part / kWalked * kLine < kGroup * panel.item_size;
    const int64_t fetched = fetch ? panel.next_count : 0;
    VecD pivot[kWalked], sum_v[kWalked] = {}, sum_vv[kWalked] = {}, sum_fv[kValues][kWalked] = {};
    for (int i = 0; i < kWalked; ++i) pivot[i] = load<VecD>(panel.pivot + (part + i) * kLanes);
    for (int64_t row = 0; row < panel.count; ++row) {
      if (kBase && row < fetched)
        __builtin_prefetch(static_cast<const char*>(panel.next[row]) + byte);
      VecD v[kWalked];
      for (int i = 0; i < kWalked; ++i) {
        v[i] = sizes.values[part + i][row] - pivot[i];
        if (kBase) {
          sum_v[i] += v[i];
          sum_vv[i] += v[i] * v[i];
        }
      }
      for (int k = 0; k < kValues; ++k) {
        const VecD weight = splat(weights[row * panel.values + k]);
        for (int i = 0; i < kWalked; ++i) sum_fv[k][i] += weight * v[i];
      }
    }
    for (int i = 0; i < kWalked; ++i) {
      double* sums = panel.sums + (part + i) * kLanes;
      if (kBase) {
        add_to(sums + kMeanSize * kGroup, sum_v[i]);
        add_to(sums + kM2Size * kGroup, sum_vv[i]);
      }
      for (int k = 0; k < kValues; ++k)
        add_to(sums + (kComomentsBase + first + k) * kGroup, sum_fv[k][i]);
    }
  }
}

template <bool kBase>
void walk(const ComomentsPanel& panel, const Sizes& sizes, int first) {
  switch (panel.values - first) {
    case 0:
      return walk<0, kBase>(panel, sizes, first);
    case kUnit:
      return walk<kUnit, kBase>(panel, sizes, first);
    case 2 * kUnit:
      return walk<2 * kUnit, kBase>(panel, sizes, first);
    default:
      return walk<kMost, kBase>(panel, sizes, first);
  }
}

template <DType T>
void add(const ComomentsPanel& panel) {
  Sizes sizes;
  load_sizes<T>(panel, &sizes);
  if (panel.choose_pivot) {
    for (int i = 0; i < kGroupVectors; ++i) {
      VecD sum = {};
      for (int64_t row = 0; row < panel.count; ++row) sum += sizes.values[i][row];
      store(panel.pivot + i * kLanes, sum / static_cast<double>(panel.count));
    }
  }
  walk<true>(panel, sizes, 0);
  for (int first = kMost; first < panel.values; first += kMost) walk<false>(panel, sizes, first);
}

}  // namespace

extern const ComomentsKernels kComomentsKernels;
const ComomentsKernels kComomentsKernels = {
    kGroup, kUnit, {add<DType::kFloat32>, add<DType::kFloat16>, add<DType::kBFloat16>}};

}  // namespace outdim::cpu::OUTDIM_ISA
