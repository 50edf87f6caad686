// Counting |h| down a strip of columns (core/magnitude_counts.h).
//
// Bytes a value: its own, and 4 of its bin read and written in the L1 cache. Mapping: row by row
// the bins of a strip are computed in vectors, and visited one by one while those of the next row
// are computed: read back at once, 64 bytes that were just stored cost twice the time (1.4 against
// 0.75 ns a value). Neighbouring columns have bins of their own, so that no addition waits for the
// one before it; they must not lie a power of two apart, or they share the sets of the cache (2.2
// ns). Rows lie apart: those that come are prefetched.

#include "core/magnitude_counts.h"
#include "cpu/dispatch.h"
#include "cpu/simd.h"

namespace outdim::cpu::OUTDIM_ISA {
namespace {

constexpr int kAhead = 8;  // rows

/// Numbers of the bins. Clamped as values: those below 2^-16 share the first bin, those from 2^16
/// on, and NaN, the last.
OUTDIM_INLINE VecU bins_of(VecF h) {
  const VecF inside = larger(smaller(absolute(h), splat(0x1.fffffep15f)), splat(0x1p-16f));
  return ((VecU)inside >> kMagnitudeShift) - kMagnitudeFirst;
}

/// Cells of the columns of one row, counted from the first of the strip.
template <DType T>
OUTDIM_INLINE void cells_of(const char* row, const MagnitudeStrip& strip, VecU lanes, VecU second,
                            uint32_t* cells) {
  for (int64_t column = strip.first; column < strip.last; column += kGroup) {
    const int64_t left = strip.last - column;
    const char* at = row + column * kItemSize<T>;
    const Group h = left >= kGroup ? load_natural<T>(at) : load_natural_part<T>(at, left);
    const uint32_t before = static_cast<uint32_t>((column - strip.first) * strip.dim_stride);
    store(cells, bins_of(h.a) + lanes + before);
    store(cells + kWidth, bins_of(h.b) + second + before);
    cells += kGroup;
  }
}

template <DType T>
void add(const MagnitudeStrip& strip) {
  VecU lanes;
  for (int i = 0; i < kWidth; ++i) lanes[i] = static_cast<uint32_t>(i * strip.dim_stride);
  const VecU second = lanes + static_cast<uint32_t>(kWidth * strip.dim_stride);
  const int64_t columns = strip.last - strip.first;
  int32_t* const first = strip.counts + strip.first * strip.dim_stride;
  alignas(64) uint32_t cells[2][kMaxStrip];
  int now = 0;
  int32_t* before = nullptr;  // counts of the row before
  const auto count = [&](const uint32_t* found) __attribute__((always_inline)) {
#pragma GCC unroll 8
    for (int64_t k = 0; k < columns; ++k) before[found[k]] += 1;
  };
  for (int64_t i = 0; i < strip.n; ++i) {
    const int group = strip.group == nullptr ? 1 : strip.group[i];
    if (group == 0) continue;
    const char* row = strip.rows + i * strip.stride;
    const char* coming = row + kAhead * strip.stride;
    for (int64_t column = strip.first; column < strip.last; column += 64 / kItemSize<T>)
      __builtin_prefetch(coming + column * kItemSize<T>);
    cells_of<T>(row, strip, lanes, second, cells[now]);
    now = 1 - now;
    if (before != nullptr) count(cells[now]);
    before = first + (group - 1) * strip.group_stride;
  }
  if (before != nullptr) count(cells[1 - now]);
}

}  // namespace

extern const MagnitudeCountsKernels kMagnitudeCountsKernels;
const MagnitudeCountsKernels kMagnitudeCountsKernels = {
    {add<DType::kFloat32>, add<DType::kFloat16>, add<DType::kBFloat16>}};

}  // namespace outdim::cpu::OUTDIM_ISA
