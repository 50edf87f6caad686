// How the values of tokens lie, on the CPU: blocks of rows and the threads. A row is one task's
// alone, so the threads do not show in the bytes. The rows are in token_shape_kernels.cpp.

#include "core/token_shape.h"

#include <algorithm>
#include <limits>

#include "cpu/dispatch.h"
#include "cpu/parallel.h"

namespace outdim::cpu {
namespace {

constexpr int64_t kRows = 64;

}  // namespace

void token_shape(const HiddenView& hidden, const TokenShapeArgs& args, int threads) {
  const auto shape = kernels().token_shape->rows[static_cast<int>(hidden.dtype)];
  const int64_t stride = hidden.stride * item_size(hidden.dtype);
  run_tasks((hidden.n + kRows - 1) / kRows, threads, [&](TaskQueue& queue) {
    for (int64_t block = queue.next(); block >= 0; block = queue.next()) {
      const int64_t first = block * kRows, count = std::min(kRows, hidden.n - first);
      for (int64_t row = first; row < first + count; ++row) {
        if (args.group != nullptr && args.group[row] == 0) {
          args.smallest[row] = args.largest[row] = -1;
          args.kurtosis[row] = std::numeric_limits<double>::quiet_NaN();
          continue;
        }
        shape(static_cast<const char*>(hidden.data) + row * stride, hidden.d, args.smallest + row,
              args.largest + row, args.kurtosis + row);
      }
    }
  });
}

}  // namespace outdim::cpu
