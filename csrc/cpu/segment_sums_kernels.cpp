// Sums of h, |h| and h^2 down the rows of one segment (core/segment_sums.h).
//
// Bytes a segment: its rows read once, 24 D of the table read and 24 D written. Mapping: a group of
// 2 kWidth columns is walked down a panel of rows with its three sums in 12 registers; the next
// panel goes on from what this one has written, which is still in cache. While a group is summed,
// the same columns of the next panel's rows are prefetched: rows of a segment lie anywhere.
// Deterministic: a column is one chain of additions in the order of the rows, whatever the panels.
// For bfloat16 loads in natural order are twice the work of load_group, but the table is in natural
// order, and its 48 bytes a column outweigh it.

#include "core/segment_sums.h"
#include "cpu/dispatch.h"
#include "cpu/simd.h"

namespace outdim::cpu::OUTDIM_ISA {
namespace {

constexpr int kParts = 4;                  // vectors of doubles in a group of columns
constexpr int kDoubles = kGroup / kParts;  // in a vector

struct Sums {
  VecD row[kSegmentRows][kParts];
};

OUTDIM_INLINE void load_sums(const double* from, int64_t stride, Sums* sums) {
  for (int r = 0; r < kSegmentRows; ++r)
    for (int i = 0; i < kParts; ++i) sums->row[r][i] = load<VecD>(from + r * stride + i * kDoubles);
}

OUTDIM_INLINE void store_sums(double* to, int64_t stride, const Sums& sums) {
  for (int r = 0; r < kSegmentRows; ++r)
    for (int i = 0; i < kParts; ++i) store(to + r * stride + i * kDoubles, sums.row[r][i]);
}

/// Adds `count` columns of the panel, a whole group unless kPart.
template <DType T, bool kPart>
OUTDIM_INLINE void add_group(const SegmentPanel& panel, int64_t column, int64_t count) {
  const int64_t offset = column * kItemSize<T>;
  Sums sums = {};
  double part[kSegmentRows * kGroup] = {};
  if (panel.from != nullptr) {
    if constexpr (kPart) {
      for (int r = 0; r < kSegmentRows; ++r)
        memcpy(part + r * kGroup, panel.from + r * panel.d + column, count * sizeof(double));
      load_sums(part, kGroup, &sums);
    } else {
      load_sums(panel.from + column, panel.d, &sums);
    }
  }
  for (int64_t row = 0; row < panel.count; ++row) {
    const char* from = static_cast<const char*>(panel.rows[row]) + offset;
    Group group;
    if constexpr (kPart) {
      group = load_natural_part<T>(from, count);
    } else {
      group = load_natural<T>(from);
    }
    if (row < panel.next_count) {
      const char* next = static_cast<const char*>(panel.next[row]) + offset;
      for (int line = 0; line < kGroup * kItemSize<T>; line += 64) __builtin_prefetch(next + line);
    }
    const VecD h[kParts] = {widen(low_half(group.a)), widen(high_half(group.a)),
                            widen(low_half(group.b)), widen(high_half(group.b))};
    for (int i = 0; i < kParts; ++i) {
      sums.row[kSumH][i] += h[i];
      sums.row[kSumAbs][i] += absolute(h[i]);
      sums.row[kSumSquares][i] += h[i] * h[i];
    }
  }
  if constexpr (kPart) {
    store_sums(part, kGroup, sums);
    for (int r = 0; r < kSegmentRows; ++r)
      memcpy(panel.to + r * panel.d + column, part + r * kGroup, count * sizeof(double));
  } else {
    store_sums(panel.to + column, panel.d, sums);
  }
}

template <DType T>
void add(const SegmentPanel& panel) {
  int64_t column = panel.first;
  for (; column + kGroup <= panel.last; column += kGroup)
    add_group<T, false>(panel, column, kGroup);
  if (column < panel.last) add_group<T, true>(panel, column, panel.last - column);
}

}  // namespace

extern const SegmentSumsKernels kSegmentSumsKernels;
const SegmentSumsKernels kSegmentSumsKernels = {
    {add<DType::kFloat32>, add<DType::kFloat16>, add<DType::kBFloat16>}};

}  // namespace outdim::cpu::OUTDIM_ISA
