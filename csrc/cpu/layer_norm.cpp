// LayerNorm on the CPU: parameters put in order once, rows shared among threads, and the fusion
// with moments. The arithmetic of a row is in layer_norm_kernels.cpp.
//
// Fused, a block's rows are normalised one panel at a time; the panel's output (or, of the input,
// the panel itself) is still in the L2 cache when its statistics are taken, by the same kernel over
// the same panels as moments alone. They are taken from the stored, rounded values: fused and
// unfused agree bit for bit.

#include "core/layer_norm.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <stdexcept>
#include <string>

#include "cpu/buffer.h"
#include "cpu/moments_block.h"
#include "cpu/parallel.h"

namespace outdim::cpu {
namespace {

// An output this large has left the caches near the core before anyone reads it, so storing past
// them costs the reader nothing and saves reading each line first.
constexpr int64_t kStreamBytes = 8 << 20;
constexpr int64_t kTaskRows = 64;
// Work below this is faster on one thread than waking another.
constexpr int64_t kElementsPerThread = 1 << 14;

float from_half(uint16_t half) {
  const int exponent = (half >> 10) & 31;
  const double fraction = half & 1023;
  const double magnitude = exponent == 31  ? (fraction != 0 ? NAN : INFINITY)
                           : exponent == 0 ? std::ldexp(fraction, -24)
                                           : std::ldexp(1024 + fraction, exponent - 25);
  return static_cast<float>(half & 0x8000 ? -magnitude : magnitude);
}

void to_float(DType dtype, const void* from, int64_t d, float* to) {
  if (dtype == DType::kFloat32) {
    std::memcpy(to, from, d * sizeof(float));
    return;
  }
  const auto* halves = static_cast<const uint16_t*>(from);
  for (int64_t i = 0; i < d; ++i) {
    const uint32_t bits = static_cast<uint32_t>(halves[i]) << 16;
    if (dtype == DType::kBFloat16)
      std::memcpy(to + i, &bits, sizeof bits);
    else
      to[i] = from_half(halves[i]);
  }
}

/// Tables of gamma', beta' and bounds (core/layer_norm.h) in float32 and layout order, zero beyond
/// d, NaN canonical (simd.h says why).
class Parameters {
 public:
  Parameters(const LayerNormArgs& args, int width)
      : args_(args),
        width_(width),
        padded_(padded_columns(width, args.d)),
        tables_(args.clip != nullptr ? 4 : 2),
        variants_(args.scale != nullptr ? args.variants : 1),
        values_(tables_ * variants_ * padded_) {
    Buffer<float> gamma(padded_), beta(padded_);
    natural(args.gamma, 1.0f, gamma.data());
    natural(args.beta, 0.0f, beta.data());
    if (args.scale == nullptr) {
      to_layout(gamma.data(), table(0, 0));
      to_layout(beta.data(), table(1, 0));
    } else {
      for (int64_t m = 0; m < variants_; ++m) fold(gamma.data(), beta.data(), m);
    }
  }

  void give(LayerNormPanel& panel) const {
    panel.gamma = table(0, 0);
    panel.beta = table(1, 0);
    panel.low = tables_ == 4 ? table(2, 0) : nullptr;
    panel.high = tables_ == 4 ? table(3, 0) : nullptr;
    panel.table_stride = padded_;
    panel.edit = args_.scale != nullptr;
  }

 private:
  float* table(int which, int64_t m) { return values_.data() + (which * variants_ + m) * padded_; }
  const float* table(int which, int64_t m) const {
    return values_.data() + (which * variants_ + m) * padded_;
  }

  // Loops without branches, for the compiler to turn into vectors: with them this took twice as
  // long, as much as twenty rows.
  void natural(const void* from, float otherwise, float* values) const {
    std::fill(values + args_.d, values + padded_, 0.0f);
    if (from != nullptr)
      to_float(args_.param_dtype, from, args_.d, values);
    else
      std::fill_n(values, args_.d, otherwise);
    for (int64_t i = 0; args_.dim_mask != nullptr && i < args_.d; ++i)
      values[i] = args_.dim_mask[i] != 0 ? values[i] : 0.0f;
  }

  /// The tables of variant m.
  void fold(const float* gamma, const float* beta, int64_t m) {
    const float* scale = args_.scale + m * args_.d;
    const float* shift = args_.shift + m * args_.d;
    Buffer<float> folded(padded_);
    float* values = folded.data();
    std::fill(values + args_.d, values + padded_, 0.0f);
    for (int64_t i = 0; i < args_.d; ++i) {
      const float product = gamma[i] * scale[i] + 0.0f;  // never -0
      values[i] = scale[i] == 0.0f ? -0.0f : product;
    }
    to_layout(values, table(0, m));
    for (int64_t i = 0; i < args_.d; ++i) {
      const float sum = beta[i] * scale[i] + shift[i];
      values[i] = scale[i] == 0.0f ? shift[i] : sum;
    }
    to_layout(values, table(1, m));
    for (int side = 0; side < tables_ - 2; ++side) {
      const float* clip = args_.clip + m * args_.d;
      const float sign = side == 0 ? -1.0f : 1.0f;
      for (int64_t i = 0; i < args_.d; ++i) {
        const float bound = shift[i] + sign * clip[i] * std::fabs(scale[i]);
        values[i] = scale[i] == 0.0f ? shift[i] : bound;
      }
      to_layout(values, table(2 + side, m));
    }
  }

  void to_layout(const float* values, float* to) const {
    const auto canonical = [](float v) {
      return v == v ? v : std::numeric_limits<float>::quiet_NaN();
    };
    if (args_.dtype != DType::kBFloat16) {
      for (int64_t i = 0; i < padded_; ++i) to[i] = canonical(values[i]);
      return;
    }
    // The layout order of bfloat16 (layout_position), group by group.
    for (int64_t group = 0; group < padded_; group += 2 * width_) {
      for (int i = 0; i < width_; ++i) {
        to[group + i] = canonical(values[group + 2 * i]);
        to[group + width_ + i] = canonical(values[group + 2 * i + 1]);
      }
    }
  }

  const LayerNormArgs& args_;
  int width_;
  int64_t padded_;
  int tables_;
  int64_t variants_;
  Buffer<float> values_;
};

bool can_stream(const LayerNormArgs& args) {
  const int64_t row_bytes = args.y_stride * item_size(args.dtype);
  const int64_t rows = args.n * (args.each ? args.variants : 1);
  return kernels().streams && rows * args.d * item_size(args.dtype) >= kStreamBytes &&
         reinterpret_cast<uintptr_t>(args.y) % 64 == 0 && row_bytes % 64 == 0;
}

/// The rows of a call as panels of the kernel. Each thread has its own, with its own scratch rows.
class PanelMaker {
 public:
  /// Where the caller does not want x + residual in memory, the last `sums` rows of it are kept; of
  /// y, where it is streamed past the caches, a copy of the last `copies`.
  PanelMaker(const LayerNormArgs& args, const Parameters& parameters, int64_t sums, int64_t copies)
      : args_(args), row_bytes_(args.d * item_size(args.dtype)) {
    common_.d = args.d;
    parameters.give(common_);
    common_.eps = static_cast<float>(args.eps);
    common_.rms = args.rms;
    common_.stream = can_stream(args);
    if (args.each) {
      common_.each = args.variants;
      common_.each_stride = args.n * args.y_stride * item_size(args.dtype);
    }
    if (args.residual != nullptr && args.sum == nullptr) sum_ = Buffer<char>(sums * row_bytes_);
    sum_stride_ = sums > 1 ? row_bytes_ : 0;
    if (copies > 0 && common_.stream) copy_ = Buffer<char>(copies * row_bytes_);
  }

  LayerNormPanel panel(int64_t first, int64_t count) {
    LayerNormPanel panel = common_;
    const int64_t size = item_size(args_.dtype);
    panel.n = count;
    panel.x_stride = args_.x_stride * size;
    panel.x = static_cast<const char*>(args_.x) + first * panel.x_stride;
    panel.y_stride = args_.y_stride * size;
    panel.y = static_cast<char*>(args_.y) + first * panel.y_stride;
    if (args_.residual != nullptr) {
      panel.residual_stride = args_.residual_stride * size;
      panel.residual = static_cast<const char*>(args_.residual) + first * panel.residual_stride;
      if (args_.sum != nullptr) {
        panel.sum_stride = row_bytes_;
        panel.sum = static_cast<char*>(args_.sum) + first * row_bytes_;
      } else {
        panel.sum_stride = sum_stride_;
        panel.sum = sum_.data();
      }
    }
    panel.copy = copy_.data();
    panel.copy_stride = row_bytes_;
    panel.variant = args_.variant != nullptr ? args_.variant + first : nullptr;
    return panel;
  }

 private:
  const LayerNormArgs& args_;
  int64_t row_bytes_;
  LayerNormPanel common_;
  Buffer<char> sum_;
  int64_t sum_stride_;
  Buffer<char> copy_;
};

/// Throws std::out_of_range for the first row whose variant the tables do not have.
void check_variants(const LayerNormArgs& args) {
  if (args.scale == nullptr || args.variant == nullptr) return;
  for (int64_t row = 0; row < args.n; ++row) {
    if (args.variant[row] >= 0 && args.variant[row] < args.variants) continue;
    throw std::out_of_range("variant: row " + std::to_string(row) + " has variant " +
                            std::to_string(args.variant[row]) + ", outside [0, " +
                            std::to_string(args.variants) + ")");
  }
}

void plain(const LayerNormArgs& args, int threads) {
  const LayerNormKernels& kernels = *cpu::kernels().layer_norm;
  const Parameters parameters(args, kernels.width);
  const auto rows = kernels.rows[static_cast<int>(args.dtype)];
  const int64_t tasks = (args.n + kTaskRows - 1) / kTaskRows;
  const int64_t useful = 1 + args.n * args.d * (args.each ? args.variants : 1) / kElementsPerThread;
  run_tasks(tasks, static_cast<int>(std::min<int64_t>(threads, useful)), [&](TaskQueue& queue) {
    PanelMaker maker(args, parameters, 1, 0);
    for (int64_t task = queue.next(); task >= 0; task = queue.next()) {
      const int64_t first = task * kTaskRows;
      rows(maker.panel(first, std::min(kTaskRows, args.n - first)));
    }
  });
}

/// Where the panel's observed rows are after the kernel has run.
PanelRows observed_rows(const LayerNormPanel& panel, Observed observed) {
  if (observed == Observed::kOutput)
    return panel.copy != nullptr ? PanelRows{panel.copy, panel.copy_stride, nullptr, {}}
                                 : PanelRows{panel.y, panel.y_stride, nullptr, {}};
  return panel.residual != nullptr ? PanelRows{panel.sum, panel.sum_stride, nullptr, {}}
                                   : PanelRows{panel.x, panel.x_stride, nullptr, {}};
}

/// How many of the next panel's rows are prefetched while this one is normalised, where a residual
/// is read as well; all others while it is summed up, which alone keeps memory busy. Without a
/// residual, and for panels of a few long rows, it was no faster (docs/performance.md).
int64_t early_rows(int64_t rows) { return rows >= 32 ? rows * 5 / 16 : 0; }

/// Rows of x, the residual and y that are to be prefetched.
void coming(const LayerNormPanel& panel, int64_t first, int64_t rows, Coming (&next)[kComing]) {
  next[0] = {panel.x + first * panel.x_stride, panel.x_stride, rows};
  if (panel.residual != nullptr)
    next[1] = {panel.residual + first * panel.residual_stride, panel.residual_stride, rows};
  if (!panel.stream) next[2] = {panel.y + first * panel.y_stride, panel.y_stride, rows};
}

void fused(const LayerNormArgs& args, const MomentsArgs& stats, Observed observed, int threads) {
  const LayerNormKernels& kernels = *cpu::kernels().layer_norm;
  const Parameters parameters(args, kernels.width);
  const auto rows = kernels.rows[static_cast<int>(args.dtype)];
  const MomentsPlan plan(stats, args.dtype, args.n, args.d);
  plan.check_rows();
  MomentsPartials partials(plan);
  run_tasks(plan.blocks, threads, [&](TaskQueue& queue) {
    // What is not observed stays in L1: with a panel of sums in L2 this took 2 to 5 % longer.
    const bool output = observed == Observed::kOutput;
    PanelMaker maker(args, parameters, output ? 1 : plan.panel_rows, output ? plan.panel_rows : 0);
    MomentsBlock sums(plan);
    double squares[kMaxPanelRows];
    for (int64_t block = queue.next(); block >= 0; block = queue.next()) {
      const int64_t end = std::min(plan.n, (block + 1) * plan.block_rows);
      sums.begin();
      for (int64_t row = block * plan.block_rows; row < end; row += plan.panel_rows) {
        LayerNormPanel panel = maker.panel(row, std::min(plan.panel_rows, end - row));
        if (stats.shape) panel.squares = squares;
        panel.squares_of_input = observed == Observed::kInput;
        // The next panel comes from memory while this one is normalised and while it is summed up.
        const int64_t left = std::min(plan.panel_rows, end - row - panel.n);
        const int64_t early = panel.residual != nullptr ? early_rows(left) : 0;
        coming(panel, panel.n, early, panel.next);
        rows(panel);
        PanelRows seen = observed_rows(panel, observed);
        seen.squares = panel.squares;
        coming(panel, panel.n + early, left - early, seen.next);
        sums.add(row, panel.n, seen);
      }
      sums.finish(partials, block);
    }
  });
  partials.merge(threads);
}

}  // namespace

void layer_norm(const LayerNormArgs& args, const MomentsArgs* stats, Observed observed,
                int threads) {
  check_variants(args);
  if (stats != nullptr)
    fused(args, *stats, observed, threads);
  else
    plain(args, threads);
}

}  // namespace outdim::cpu
