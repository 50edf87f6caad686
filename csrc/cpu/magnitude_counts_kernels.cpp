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

/// Cells of the columns of one row, counted from the first of the strip, and the lines they are in.
template <DType T>
OUTDIM_INLINE void find_cells(const char* row, const MagnitudeStrip& strip, uint32_t* cells,
                              uint32_t* written) {
  VecU lanes;
  for (int i = 0; i < kWidth; ++i) lanes[i] = static_cast<uint32_t>(i * kMagnitudeRoom);
  const VecU one = VecU{} + 1u;
  const auto find = [&](VecF h, int64_t k) __attribute__((always_inline)) {
    const VecU bins = bins_of(h);
    store(cells + k, bins + lanes + static_cast<uint32_t>(k * kMagnitudeRoom));
    store(written + k, load<VecU>(written + k) | (one << (bins >> kMagnitudeBits)));
  };
  for (int64_t column = strip.first; column < strip.last; column += kGroup) {
    const int64_t left = strip.last - column, k = column - strip.first;
    const char* at = row + column * kItemSize<T>;
    const Group h = left >= kGroup ? load_natural<T>(at) : load_natural_part<T>(at, left);
    find(h.a, k);
    find(h.b, k + kWidth);
  }
}

template <DType T>
void add(const MagnitudeStrip& strip) {
  const int64_t columns = strip.last - strip.first;
  alignas(64) uint32_t cells[2][kMaxStrip];
  alignas(64) uint32_t written[kMaxStrip] = {};
  int32_t* before = nullptr;  // counts of the row before
  int now = 0;
  const auto count = [&](const uint32_t* found) __attribute__((always_inline)) {
#pragma GCC unroll 8
    for (int64_t k = 0; k < columns; ++k) before[found[k]] += 1;
  };
  const auto note_written = [&] {
    for (int64_t k = 0; k < columns; ++k) {
      before[k * kMagnitudeRoom + kMagnitudeBins] |= static_cast<int32_t>(written[k]);
      written[k] = 0;
    }
  };
  for (int64_t i = 0; i < strip.n; ++i) {
    const int group = strip.group == nullptr ? 1 : strip.group[i];
    if (group == 0) continue;
    const char* row = strip.rows + i * strip.stride;
    const char* coming = row + kAhead * strip.stride;
    for (int64_t column = strip.first; column < strip.last; column += 64 / kItemSize<T>)
      __builtin_prefetch(coming + column * kItemSize<T>);
    int32_t* counts =
        strip.counts + (group - 1) * strip.group_stride + strip.first * kMagnitudeRoom;
    if (before != nullptr && before != counts) note_written();
    find_cells<T>(row, strip, cells[now], written);
    now = 1 - now;
    if (before != nullptr) count(cells[now]);
    before = counts;
  }
  if (before == nullptr) return;
  count(cells[1 - now]);
  note_written();
}

}  // namespace

extern const MagnitudeCountsKernels kMagnitudeCountsKernels;
const MagnitudeCountsKernels kMagnitudeCountsKernels = {
    {add<DType::kFloat32>, add<DType::kFloat16>, add<DType::kBFloat16>}};

}  // namespace outdim::cpu::OUTDIM_ISA
