#pragma once

// Histogram of selected dimensions over the 65,536 patterns of a 16-bit type, holding for every
// pattern how many rows had it and the sum of their (doubled, hence integer) frequency mid-ranks:
// exact streaming Spearman, medians and quantiles. Two levels: page_index[s][high byte] -> page of
// 256 bins, -1 where never touched.

#include <cstdint>

#include "core/moments.h"

namespace outdim {

struct RankHistogramArgs {
  const int64_t* dims = nullptr;  // [s] columns of hidden
  int64_t s = 0;
  const int64_t* ids = nullptr;          // [n]
  const int64_t* double_rank = nullptr;  // [vocab], twice the mid-rank of the token's frequency
  int64_t vocab = 0;
  const uint8_t* mask = nullptr;  // [n] or null
  int32_t* page_index = nullptr;  // [s, 256]
  int64_t* count = nullptr;       // [pages, 256]
  int64_t* rank_sum = nullptr;    // [pages, 256]
  int64_t pages = 0;
};

namespace cpu {
/// Sets touched[s, 256] to 1 for every page that these rows need.
void rank_histogram_touch(const HiddenView& hidden, const RankHistogramArgs& args, uint8_t* touched,
                          int threads);
/// Adds the rows; every page they need must exist.
void rank_histogram_add(const HiddenView& hidden, const RankHistogramArgs& args, int threads);
}  // namespace cpu

}  // namespace outdim
