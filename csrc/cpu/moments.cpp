// Moments on the CPU: the partition into blocks and panels, and the threads. The sums are in
// moments_kernels.cpp, the states of blocks in moments_block.cpp, their merge in moments_merge.cpp.
//
// Rows are cut into at most 32 blocks by n alone; any thread takes any block; block states are
// merged in order. So the bytes do not depend on the number of threads. A block is at least 512
// rows: its state costs as much as about ten rows.

#include "core/moments.h"

#include <algorithm>
#include <stdexcept>
#include <string>

#include "cpu/check_group.h"
#include "cpu/moments_block.h"
#include "cpu/parallel.h"

namespace outdim::cpu {
namespace {

constexpr int64_t kBlocks = 32;
constexpr int64_t kMinBlockRows = 512;
// Two panels (this one and the one being prefetched) and the sums share an L2 cache of 1 MiB or
// more.
constexpr int64_t kPanelBytes = 192 << 10;
constexpr int64_t kMinPanelRows = 8;

int64_t round_up(int64_t value, int64_t unit) { return (value + unit - 1) / unit * unit; }

/// Rows of a panel.
int64_t panel_rows_of(DType dtype, int64_t d) {
  const int64_t rows = kPanelBytes / std::max<int64_t>(1, d * item_size(dtype));
  if (rows >= kMaxPanelRows) return kMaxPanelRows;
  return rows >= 16 ? rows / 16 * 16 : std::max(rows, kMinPanelRows);
}

}  // namespace

MomentsPlan::MomentsPlan(const MomentsArgs& arguments, DType type, int64_t rows, int64_t columns)
    : args(arguments), kernels(*cpu::kernels().moments), dtype(type), n(rows), d(columns) {
  padded = padded_columns(kernels.width, d);
  panel_rows = panel_rows_of(dtype, d);
  block_rows = round_up(std::max(kMinBlockRows, (n + kBlocks - 1) / kBlocks), panel_rows);
  blocks = (n + block_rows - 1) / block_rows;
  covariates_padded = kernels.covariates_padded(args.covariates());
  head = head_size(args.covariates());
  body = body_rows(args.covariates(), args.shape);
}

void MomentsPlan::check_rows() const {
  check_group(args.group, n, args.groups);
  if (args.table_covariates == 0) return;
  for (int64_t row = 0; row < n; ++row) {
    const int64_t id = args.ids[row];
    if (id >= 0 && id < args.vocab) continue;
    if (args.group != nullptr && args.group[row] == 0) continue;
    throw std::out_of_range("ids: row " + std::to_string(row) + " has token id " +
                            std::to_string(id) + ", outside the vocabulary [0, " +
                            std::to_string(args.vocab) + ")");
  }
}

void moments(const HiddenView& hidden, const MomentsArgs& args, int threads) {
  const MomentsPlan plan(args, hidden.dtype, hidden.n, hidden.d);
  plan.check_rows();
  MomentsPartials partials(plan);
  const int64_t stride = hidden.stride * item_size(hidden.dtype);
  const auto* data = static_cast<const char*>(hidden.data);
  run_tasks(plan.blocks, threads, [&](TaskQueue& queue) {
    MomentsBlock sums(plan);
    for (int64_t block = queue.next(); block >= 0; block = queue.next()) {
      const int64_t end = std::min(plan.n, (block + 1) * plan.block_rows);
      sums.begin();
      for (int64_t row = block * plan.block_rows; row < end; row += plan.panel_rows) {
        const int64_t next = std::min(row + plan.panel_rows, end);
        const int64_t next_rows = std::min(plan.panel_rows, end - next);
        sums.add(
            row, next - row,
            {data + row * stride, stride, nullptr, {{data + next * stride, stride, next_rows}}});
      }
      sums.finish(partials, block);
    }
  });
  partials.merge(threads);
}

}  // namespace outdim::cpu
