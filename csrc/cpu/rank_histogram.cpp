// Histogram over 16-bit patterns with sums of frequency ranks (core/rank_histogram.h).
//
// Bytes a row: 2 s read, plus 16 bytes of bins per selected dimension read and written at random
// within the dimension's pages. Mapping: a thread takes a tile of kTileDims dimensions and walks
// the rows kTileRows at a time: the tile is transposed to one 16-bit run a dimension, then each
// dimension's bins (about 40 KB where values are normal) are visited by all rows of the tile while
// they are in cache. Row by row, dimension by dimension, was 5x slower (16 against 3 ns an
// element). Deterministic: integer sums.

#include "core/rank_histogram.h"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <vector>

#include "cpu/buffer.h"
#include "cpu/parallel.h"

namespace outdim::cpu {
namespace {

constexpr int64_t kTileDims = 8;
constexpr int64_t kTileRows = 8192;
constexpr int64_t kPages = 256;

/// One dimension of a tile at a time: `columns` holds kTileRows patterns per dimension of the tile.
using Visit = void (*)(const RankHistogramArgs& args, int64_t dim, const uint16_t* patterns,
                       const int64_t* ranks, int64_t count, uint8_t* touched);

void touch(const RankHistogramArgs&, int64_t dim, const uint16_t* patterns, const int64_t*,
           int64_t count, uint8_t* touched) {
  uint8_t* pages = touched + dim * kPages;
  for (int64_t i = 0; i < count; ++i) pages[patterns[i] >> 8] = 1;
}

void add(const RankHistogramArgs& args, int64_t dim, const uint16_t* patterns, const int64_t* ranks,
         int64_t count, uint8_t*) {
  const int32_t* pages = args.page_index + dim * kPages;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t page = pages[patterns[i] >> 8];
    if (page < 0 || page >= args.pages)
      throw std::out_of_range("page_index: no page for dims[" + std::to_string(dim) + "]");
    const int64_t bin = page * 256 + (patterns[i] & 255);
    args.count[bin] += 1;
    args.rank_sum[bin] += ranks[i];
  }
}

/// The selected rows, and twice the mid-rank of each one's token.
struct Selection {
  std::vector<int64_t> rows;
  std::vector<int64_t> ranks;
};

Selection select(const HiddenView& hidden, const RankHistogramArgs& args) {
  Selection selection;
  for (int64_t row = 0; row < hidden.n; ++row) {
    if (args.mask != nullptr && args.mask[row] == 0) continue;
    selection.rows.push_back(row);
    if (args.double_rank == nullptr) continue;
    const int64_t id = args.ids[row];
    if (id < 0 || id >= args.vocab)
      throw std::out_of_range("ids: row " + std::to_string(row) + " has token id " +
                              std::to_string(id) + ", outside the vocabulary [0, " +
                              std::to_string(args.vocab) + ")");
    selection.ranks.push_back(args.double_rank[id]);
  }
  return selection;
}

void visit_tiles(const HiddenView& hidden, const RankHistogramArgs& args,
                 const Selection& selection, Visit visit, uint8_t* touched, int threads) {
  const auto* values = static_cast<const uint16_t*>(hidden.data);
  const auto n = static_cast<int64_t>(selection.rows.size());
  const int64_t tiles = (args.s + kTileDims - 1) / kTileDims;
  run_tasks(tiles, threads, [&](TaskQueue& queue) {
    Buffer<uint16_t> columns(kTileDims * kTileRows);
    for (int64_t tile = queue.next(); tile >= 0; tile = queue.next()) {
      const int64_t first_dim = tile * kTileDims;
      const int64_t dims = std::min(kTileDims, args.s - first_dim);
      for (int64_t first = 0; first < n; first += kTileRows) {
        const int64_t count = std::min(kTileRows, n - first);
        for (int64_t i = 0; i < count; ++i) {
          const uint16_t* row = values + selection.rows[first + i] * hidden.stride;
          for (int64_t k = 0; k < dims; ++k)
            columns[k * kTileRows + i] = row[args.dims[first_dim + k]];
        }
        const int64_t* ranks = selection.ranks.empty() ? nullptr : selection.ranks.data() + first;
        for (int64_t k = 0; k < dims; ++k)
          visit(args, first_dim + k, columns.data() + k * kTileRows, ranks, count, touched);
      }
    }
  });
}

}  // namespace

void rank_histogram_touch(const HiddenView& hidden, const RankHistogramArgs& args, uint8_t* touched,
                          int threads) {
  RankHistogramArgs patterns_only = args;
  patterns_only.double_rank = nullptr;
  visit_tiles(hidden, args, select(hidden, patterns_only), touch, touched, threads);
}

void rank_histogram_add(const HiddenView& hidden, const RankHistogramArgs& args, int threads) {
  visit_tiles(hidden, args, select(hidden, args), add, nullptr, threads);
}

}  // namespace outdim::cpu
