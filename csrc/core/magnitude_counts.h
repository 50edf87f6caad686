#pragma once

// A histogram of |h| for every dimension of hidden states [N, D], by group of rows, with bins that
// grow with the value: between a power of two and the next there are 16 of equal width, from 2^-16
// to 2^16. What is smaller is in the first bin; what is larger, infinite or NaN in the last.
//
//   fresh[group[i] - 1][d][bin(|h_id|)] += 1
//
// The bin is read off the float32: exponent and first bits of the mantissa are its number. Counts
// are integers, so that any order and any split of the rows gives the same.
//
// A batch is counted apart, in 32 bits, and then moved into the counts of the batches before, in 64
// bits: so a batch that fails has changed nothing. Few bins of a dimension occur (150 of 512 where
// values are normal), and fewer in a small batch: behind the bins of a dimension stands which lines
// of 16 have been written, and moving looks at those alone. It also keeps the bins of neighbouring
// dimensions from lying a power of two apart, where they would share the sets of a cache.

#include <cstdint>

#include "core/moments.h"

namespace outdim {

constexpr int kMagnitudeBits = 4;  // of the mantissa
constexpr int kMagnitudeLowest = -16, kMagnitudeHighest = 16;
constexpr int kMagnitudeShift = 23 - kMagnitudeBits;
constexpr int kMagnitudeFirst = (127 + kMagnitudeLowest) << kMagnitudeBits;
constexpr int kMagnitudeBins = (kMagnitudeHighest - kMagnitudeLowest) << kMagnitudeBits;
/// Bins of one power of two; bit i of the number behind the bins is set where line i was written.
constexpr int kMagnitudeLine = 1 << kMagnitudeBits;
/// Room of a dimension: its bins, and a line whose first number says which of theirs were written.
constexpr int kMagnitudeRoom = kMagnitudeBins + kMagnitudeLine;
static_assert(kMagnitudeBins / kMagnitudeLine == 32, "a bit each");

struct MagnitudeCountsArgs {
  const uint8_t* group =
      nullptr;  // [n]: 0 leaves the row out, g counts it in fresh[g - 1]; null: all in fresh[0]
  int groups = 1;
  int32_t* fresh = nullptr;  // [groups, d, kMagnitudeRoom]
};

namespace cpu {
/// Throws std::out_of_range naming the row when its group is above `groups`.
void magnitude_counts_add(const HiddenView& hidden, const MagnitudeCountsArgs& args, int threads);
/// Adds `fresh` to counts [groups, d, kMagnitudeBins] and leaves zeros.
void magnitude_counts_move(const MagnitudeCountsArgs& args, int64_t d, int64_t* counts,
                           int threads);
}  // namespace cpu

}  // namespace outdim
