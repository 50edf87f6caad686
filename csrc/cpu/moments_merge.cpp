// Merging of states on the CPU: the blocks of a call in their order, the whole of them behind the
// state before, and two states of a caller's. The formulas are in core/moments_merge.h.

#include "core/moments_merge.h"

#include <algorithm>
#include <limits>

#include "cpu/moments_block.h"
#include "cpu/parallel.h"

namespace outdim::cpu {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
// Columns merged at a time: means, their differences and the running state stay in the L1 cache.
constexpr int64_t kColumns = 256;

/// What the bodies of two states need of their heads.
struct Step {
  enum { kKeep, kTake, kMerge } kind;  // the rows so far, those of the other, both
  MergeWeights weights;
  std::vector<double> delta_x;
};

/// Merges the head of later rows into `head`.
Step merge_head(int covariates, double* head, const double* later) {
  if (later[0] == 0.0) return {Step::kKeep, {}, {}};
  if (head[0] == 0.0) {
    std::copy_n(later, head_size(covariates), head);
    return {Step::kTake, {}, {}};
  }
  Step step{Step::kMerge, MergeWeights::of(head[0], later[0]), std::vector<double>(covariates)};
  for (int k = 0; k < covariates; ++k) {
    const double delta = later[1 + k] - head[1 + k];
    double& m2 = head[1 + covariates + k];
    m2 = merged_m2(step.weights, m2, later[1 + covariates + k], delta);
    head[1 + k] = merged_mean(step.weights, head[1 + k], delta);
    step.delta_x[k] = delta;
  }
  head[0] += later[0];
  return step;
}

/// Merges `count` columns of later rows, at most kColumns, into those of `a`.
OUTDIM_CLONES void merge_columns(const Step& step, bool shape, const Body& a, const Body& b,
                                 int64_t count) {
  if (step.kind == Step::kKeep) return;
  if (step.kind == Step::kTake) {
    for (int64_t r = 0; r < body_rows(a.covariates, shape); ++r)
      std::copy_n(b.row(r), count, a.row(r));
    return;
  }
  double delta[kColumns], delta_abs[kColumns];
  const MergeWeights& w = step.weights;
  for (int64_t j = 0; j < count; ++j) {
    delta[j] = b.row(kMean)[j] - a.row(kMean)[j];
    delta_abs[j] = b.row(kMeanAbs)[j] - a.row(kMeanAbs)[j];
  }
  for (int k = 0; k < a.covariates; ++k) {
    double *c = a.comoment(k), *c_abs = a.comoment_abs(k);
    const double *later = b.comoment(k), *later_abs = b.comoment_abs(k);
    for (int64_t j = 0; j < count; ++j)
      c[j] = merged_comoment(w, c[j], later[j], step.delta_x[k], delta[j]);
    for (int64_t j = 0; j < count; ++j)
      c_abs[j] = merged_comoment(w, c_abs[j], later_abs[j], step.delta_x[k], delta_abs[j]);
  }
  // Higher moments first: each needs the lower ones of both sides as they were.
  for (int64_t j = 0; shape && j < count; ++j) {
    const double m2 = a.row(kM2)[j], m2_b = b.row(kM2)[j];
    double& m3 = a.shape(kM3)[j];
    const double m3_b = b.shape(kM3)[j];
    double& m4 = a.shape(kM4)[j];
    m4 = merged_m4(w, m4, b.shape(kM4)[j], m3, m3_b, m2, m2_b, delta[j]);
    m3 = merged_m3(w, m3, m3_b, m2, m2_b, delta[j]);
    a.shape(kMin)[j] = std::min(a.shape(kMin)[j], b.shape(kMin)[j]);
    a.shape(kMax)[j] = std::max(a.shape(kMax)[j], b.shape(kMax)[j]);
    for (const ShapeRow row : {kCountOver, kUnitSum, kNonfinite})
      a.shape(row)[j] += b.shape(row)[j];
  }
  for (int64_t j = 0; j < count; ++j) {
    a.row(kM2)[j] = merged_m2(w, a.row(kM2)[j], b.row(kM2)[j], delta[j]);
    a.row(kM2Abs)[j] = merged_m2(w, a.row(kM2Abs)[j], b.row(kM2Abs)[j], delta_abs[j]);
    a.row(kMean)[j] = merged_mean(w, a.row(kMean)[j], delta[j]);
    a.row(kMeanAbs)[j] = merged_mean(w, a.row(kMeanAbs)[j], delta_abs[j]);
  }
}

/// The state of no rows.
void clear_columns(bool shape, const Body& body, int64_t count) {
  for (int64_t r = 0; r < body_rows(body.covariates, shape); ++r)
    std::fill_n(body.row(r), count, 0.0);
  if (!shape) return;
  std::fill_n(body.shape(kMin), count, kInfinity);
  std::fill_n(body.shape(kMax), count, -kInfinity);
}

}  // namespace

MomentsPartials::MomentsPartials(const MomentsPlan& plan)
    : plan_(plan),
      heads_(plan.blocks * plan.args.groups * plan.head),
      bodies_(plan.blocks * plan.args.groups * plan.body * plan.padded) {}

void MomentsPartials::merge(int threads) {
  for (int group = 0; group < plan_.args.groups; ++group) merge_group(group, threads);
}

bool MomentsPartials::is_empty(int group) {
  for (int64_t block = 0; block < plan_.blocks; ++block)
    if (head(block, group)[0] != 0.0) return false;
  return true;
}

void MomentsPartials::merge_group(int group, int threads) {
  const MomentsArgs& args = plan_.args;
  const int covariates = args.covariates();
  const int64_t size = plan_.body * plan_.d;
  const bool before = args.before_head != nullptr;
  double* const head = args.head + group * plan_.head;
  if (before && is_empty(group)) {  // as is usual for rare ones
    std::copy_n(args.before_head + group * plan_.head, plan_.head, head);
    std::copy_n(args.before_body + group * size, size, args.body + group * size);
    return;
  }
  std::vector<double> these(plan_.head, 0.0);
  std::vector<Step> steps;
  steps.reserve(plan_.blocks);
  for (int64_t block = 0; block < plan_.blocks; ++block)
    steps.push_back(merge_head(covariates, these.data(), this->head(block, group)));

  if (before) {
    std::copy_n(args.before_head + group * plan_.head, plan_.head, head);
  } else {
    std::fill_n(head, plan_.head, 0.0);
  }
  const Step last = merge_head(covariates, head, these.data());

  const Body to{args.body + group * size, plan_.d, covariates};
  const int64_t chunks = (plan_.padded + kColumns - 1) / kColumns;
  const int64_t stride = std::min(kColumns, plan_.padded);
  run_tasks(chunks, threads, [&](TaskQueue& queue) {
    Buffer<double> memory(2 * plan_.body * stride);
    const Body sum{memory.data(), stride, covariates};
    const Body total{memory.data() + plan_.body * stride, stride, covariates};
    for (int64_t chunk = queue.next(); chunk >= 0; chunk = queue.next()) {
      const int64_t from = chunk * kColumns;
      const int64_t count = std::min(kColumns, plan_.padded - from);
      clear_columns(args.shape, sum, count);
      for (int64_t block = 0; block < plan_.blocks; ++block) {
        const Body b{this->body(block, group) + from, plan_.padded, covariates};
        merge_columns(steps[block], args.shape, sum, b, count);
      }
      // Columns of a group stay together in layout order, so natural columns of this chunk come
      // from it alone.
      const int64_t real = std::min(plan_.d, from + count) - from;
      int64_t at[kColumns];
      for (int64_t j = 0; j < real; ++j)
        at[j] = layout_position(plan_.dtype, plan_.kernels.width, from + j) - from;
      clear_columns(args.shape, total, count);
      for (int64_t r = 0; before && r < plan_.body; ++r) {
        const double* row = args.before_body + group * size + r * plan_.d + from;
        double* to_row = total.row(r);
        for (int64_t j = 0; j < real; ++j) to_row[at[j]] = row[j];
      }
      merge_columns(last, args.shape, total, sum, count);
      for (int64_t r = 0; r < plan_.body; ++r) {
        const double* row = total.row(r);
        double* to_row = to.row(r) + from;
        for (int64_t j = 0; j < real; ++j) to_row[j] = row[at[j]];
      }
    }
  });
}

void merge_moments(int groups, int covariates, bool shape, int64_t d,
                   const MomentsStateView& earlier, const MomentsStateView& later, double* head,
                   double* body) {
  const int64_t heads = head_size(covariates), size = body_rows(covariates, shape) * d;
  std::copy_n(earlier.head, groups * heads, head);
  std::copy_n(earlier.body, groups * size, body);
  for (int group = 0; group < groups; ++group) {
    const Step step = merge_head(covariates, head + group * heads, later.head + group * heads);
    for (int64_t from = 0; from < d; from += kColumns) {
      const int64_t at = group * size + from;
      // Only read: a Body names the rows of both.
      const Body b{const_cast<double*>(later.body) + at, d, covariates};
      merge_columns(step, shape, {body + at, d, covariates}, b, std::min(kColumns, d - from));
    }
  }
}

}  // namespace outdim::cpu
