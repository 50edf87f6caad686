// The sums of one block of rows and their central moments. Their merge is in moments_merge.cpp.

#include "cpu/moments_block.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "core/moments_merge.h"

namespace outdim::cpu {
namespace {

// Columns finished at a time: their means stay in the L1 cache.
constexpr int64_t kColumns = 256;
// So few rows of a group in a panel are copied aside until a panel of them is there: a visit reads
// and writes all sums of the group, as many bytes as 32 rows have.
constexpr int64_t kFewRows = 6;

}  // namespace

MomentsBlock::MomentsBlock(const MomentsPlan& plan)
    : plan_(plan),
      row_bytes_(plan.d * item_size(plan.dtype)),
      sum_rows_(kSumRows + 2 * plan.covariates_padded + (plan.args.shape ? kShapeSums : 0)),
      groups_(plan.args.groups),
      sums_(plan.args.groups * sum_rows_ * plan.padded),
      floats_(plan.args.groups * 3 * plan.padded),
      covariates_(plan.args.groups * 3 * plan.args.covariates()),
      deviations_(plan.covariates_padded * kMaxPanelRows) {
  std::fill_n(deviations_.data(), plan.covariates_padded * kMaxPanelRows, 0.0);
}

void MomentsBlock::begin() {
  for (Group& group : groups_) group.n = group.kept = 0;
  std::fill_n(covariates_.data(), plan_.args.groups * 3 * plan_.args.covariates(), 0.0);
}

void MomentsBlock::add(int64_t first, int64_t count, const PanelRows& rows) {
  PanelRows remaining = rows;
  for (int group = 0; group < plan_.args.groups; ++group) {
    const int64_t before = groups_[group].n;
    add_group(group, remaining, first, count);
    // The next panel is prefetched once.
    if (groups_[group].n > before) std::fill_n(remaining.next, kComing, Coming{});
  }
}

void MomentsBlock::add_group(int group, const PanelRows& rows, int64_t first, int64_t count) {
  const uint8_t* selection = plan_.args.group;
  int64_t found = 0;
  for (int64_t row = 0; row < count; ++row) {
    if (selection != nullptr && selection[first + row] != group + 1) continue;
    rows_[found] = rows.data + row * rows.stride;
    if (rows.squares != nullptr) squares_[found] = rows.squares[row];
    selected_[found++] = first + row;
  }
  if (found == 0) return;
  Group& state = groups_[group];
  if (found > kFewRows) {
    accumulate(group, found, rows);
    return;
  }
  if (state.kept_rows.data() == nullptr) state.kept_rows = Buffer<char>(kMaxPanelRows * row_bytes_);
  for (int64_t i = 0; i < found; ++i) {
    std::memcpy(state.kept_rows.data() + state.kept * row_bytes_, rows_[i], row_bytes_);
    state.kept_index[state.kept++] = selected_[i];
  }
  // The next ones may be as many again.
  if (state.kept + kFewRows > kMaxPanelRows) add_kept(group);
}

void MomentsBlock::add_kept(int group) {
  Group& state = groups_[group];
  if (state.kept == 0) return;
  for (int64_t i = 0; i < state.kept; ++i) {
    rows_[i] = state.kept_rows.data() + i * row_bytes_;
    selected_[i] = state.kept_index[i];
  }
  accumulate(group, state.kept, {});
  state.kept = 0;
}

void MomentsBlock::accumulate(int group, int64_t count, const PanelRows& given) {
  MomentsPanel panel;
  panel.count = count;
  Group& state = groups_[group];
  float* pivot = floats(group);
  const CovariateSums of_covariates = covariate_sums(group);
  const auto dtype = static_cast<int>(plan_.dtype);
  if (state.n == 0) {
    const void* three[3] = {rows_[0], rows_[panel.count / 2], rows_[panel.count - 1]};
    plan_.kernels.pivot[dtype](three, plan_.d, pivot);
    std::fill_n(sums(group), sum_rows_ * plan_.padded, 0.0);
    std::fill_n(pivot + plan_.padded, plan_.padded, std::numeric_limits<float>::infinity());
    std::fill_n(pivot + 2 * plan_.padded, plan_.padded, -std::numeric_limits<float>::infinity());
    for (int k = 0; k < plan_.args.covariates(); ++k)
      of_covariates.pivot[k] = covariate_pivot(plan_.covariate(k, selected_[0]),
                                               plan_.covariate(k, selected_[panel.count / 2]),
                                               plan_.covariate(k, selected_[panel.count - 1]));
  }
  load_covariates(of_covariates, panel.count);
  state.n += panel.count;

  panel.rows = rows_;
  panel.d = plan_.d;
  panel.padded = plan_.padded;
  panel.covariates = deviations_.data();
  panel.covariate_count = plan_.covariates_padded;
  panel.pivot = pivot;
  panel.sums = sums(group);
  if (plan_.args.shape)
    panel.shape = sums(group) + (kSumRows + 2 * plan_.covariates_padded) * plan_.padded;
  panel.minimum = pivot + plan_.padded;
  panel.maximum = pivot + 2 * plan_.padded;
  // |h| >= tau for float32 h is |h| >= the smallest float32 that is not below tau.
  panel.tau = static_cast<float>(plan_.args.tau);
  if (panel.tau < plan_.args.tau)
    panel.tau = std::nextafter(panel.tau, std::numeric_limits<float>::infinity());
  if (given.squares != nullptr) panel.squares = squares_;
  std::copy_n(given.next, kComing, panel.next);
  plan_.kernels.accumulate[dtype](panel);
}

void MomentsBlock::load_covariates(const CovariateSums& of, int64_t count) {
  for (int k = 0; k < plan_.args.covariates(); ++k) {
    for (int64_t i = 0; i < count; ++i) {
      // Counts reach 1e8 and more: the pivot goes off before any product.
      const double deviation = plan_.covariate(k, selected_[i]) - of.pivot[k];
      of.sum[k] += deviation;
      of.square[k] += deviation * deviation;
      deviations_[k * kMaxPanelRows + i] = deviation;
    }
  }
}

void MomentsBlock::finish(MomentsPartials& partials, int64_t block) {
  for (int group = 0; group < plan_.args.groups; ++group) add_kept(group);
  for (int group = 0; group < plan_.args.groups; ++group)
    finish_group(group, partials.head(block, group), partials.body(block, group));
}

void MomentsBlock::finish_group(int group, double* head, double* body) {
  const Group& state = groups_[group];
  const int covariates = plan_.args.covariates();
  const auto n = static_cast<double>(state.n);
  head[0] = n;
  if (state.n == 0) return;  // the merge leaves it out
  const CovariateSums of = covariate_sums(group);
  for (int k = 0; k < covariates; ++k) {
    const double mean = of.sum[k] / n;
    head[1 + k] = of.pivot[k] + mean;
    head[1 + covariates + k] = central_m2(of.sum[k], of.square[k], mean);
  }

  for (int64_t from = 0; from < plan_.padded; from += kColumns)
    finish_columns(group, {body, plan_.padded, covariates}, from,
                   std::min(kColumns, plan_.padded - from));
}

/// Several loops without branches, for the compiler to turn into vectors (more pointers in one and
/// it gives up): a block's state took a tenth of the time of its 512 rows. Lost: these and the
/// merges compiled for AVX-512 (no difference beyond the noise of 4 %).
OUTDIM_CLONES void MomentsBlock::finish_columns(int group, const Body& out, int64_t from,
                                                int64_t count) {
  const auto n = static_cast<double>(groups_[group].n);
  const double* covariate_sum = covariate_sums(group).sum;
  const int64_t padded = plan_.padded;
  const double* sum = sums(group) + from;
  const double *v = sum + kSumV * padded, *vv = sum + kSumVV * padded, *x = sum + kSumX * padded;
  const float* c = floats(group) + from;
  double mean_x[kColumns], mean_v[kColumns], xx[kColumns];
  for (int64_t j = 0; j < count; ++j) {
    // Nonfinite where a value is not finite, and then every moment of its dimension NaN.
    const double poison = vv[j] - vv[j];
    mean_v[j] = v[j] / n + poison;
    mean_x[j] = x[j] / n + poison;
    // moments_merge.h with 2 u = v - sign(c) x: exactly 0 where no value has another sign than c,
    // since then v and x are the same numbers up to their sign, and so are their sums.
    const double twice_u = v[j] - (c[j] < 0 ? -x[j] : x[j]);
    xx[j] = vv[j] + 2.0 * std::fabs(c[j]) * twice_u;
  }
  for (int64_t j = 0; j < count; ++j) {
    out.row(kMean)[from + j] = c[j] + mean_x[j];
    out.row(kMeanAbs)[from + j] = std::fabs(c[j]) + mean_v[j];
  }
  for (int64_t j = 0; j < count; ++j) {
    out.row(kM2)[from + j] = central_m2(x[j], xx[j], mean_x[j]);
    out.row(kM2Abs)[from + j] = central_m2(v[j], vv[j], mean_v[j]);
  }
  for (int k = 0; k < out.covariates; ++k) {
    const double* fv = sum + (kSumRows + 2 * k) * padded;
    const double* fx = fv + padded;
    for (int64_t j = 0; j < count; ++j) {
      out.comoment(k)[from + j] = fx[j] - covariate_sum[k] * mean_x[j];
      out.comoment_abs(k)[from + j] = fv[j] - covariate_sum[k] * mean_v[j];
    }
  }
  if (!plan_.args.shape) return;
  const double* shape = sum + (kSumRows + 2 * plan_.covariates_padded) * padded;
  for (int64_t j = 0; j < count; ++j) {
    const double x3 = shape[kSumX3 * padded + j], x4 = shape[kSumX4 * padded + j];
    out.shape(kM3)[from + j] = central_m3(n, mean_x[j], xx[j], x3);
    out.shape(kM4)[from + j] = central_m4(n, mean_x[j], xx[j], x3, x4);
  }
  std::copy_n(c + padded, count, out.shape(kMin) + from);
  std::copy_n(c + 2 * padded, count, out.shape(kMax) + from);
  std::copy_n(shape + kSumOver * padded, count, out.shape(kCountOver) + from);
  std::copy_n(shape + kSumUnit * padded, count, out.shape(kUnitSum) + from);
  std::copy_n(shape + kSumNonfinite * padded, count, out.shape(kNonfinite) + from);
}

}  // namespace outdim::cpu
