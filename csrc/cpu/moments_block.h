#pragma once

// What moments alone and moments fused into LayerNorm share: the partition of rows, the sums of one
// block, the partial states of all blocks and their merge. Both walk the same panels of the same
// blocks, so both give the same bits.

#include <cstdint>
#include <vector>

#include "core/moments.h"
#include "cpu/buffer.h"
#include "cpu/dispatch.h"

// Compiled for wider vectors as well, the choice made when the module is loaded. No contraction:
// the same bits from each.
#if defined(__x86_64__) && defined(__GNUC__) && defined(__linux__)
#define OUTDIM_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define OUTDIM_CLONES
#endif

namespace outdim::cpu {

/// What is the same for all blocks of a call. The partition depends on n, d and the dtype alone,
/// never on threads.
struct MomentsPlan {
  MomentsPlan(const MomentsArgs& args, DType dtype, int64_t n, int64_t d);

  const MomentsArgs& args;
  const MomentsKernels& kernels;
  DType dtype;
  int64_t n;
  int64_t d;
  int64_t padded;  // d in whole groups of columns
  int64_t panel_rows;
  int64_t block_rows;  // a multiple of panel_rows
  int64_t blocks;
  int covariates_padded;
  int64_t head;  // doubles of one group's head
  int64_t body;  // rows of one group's body

  /// Throws std::out_of_range for the first row whose group there is not, or which is selected and
  /// has a token id outside the vocabulary.
  void check_rows() const;
  double covariate(int k, int64_t row) const {
    return k < args.table_covariates ? args.table[k * args.vocab + args.ids[row]]
                                     : args.rows[(k - args.table_covariates) * n + row];
  }
};

/// Rows of a body, by name.
struct Body {
  double* data;
  int64_t stride;
  int covariates;
  double* row(int64_t r) const { return data + r * stride; }
  double* comoment(int k) const { return row(kBaseRows + k); }
  double* comoment_abs(int k) const { return row(kBaseRows + covariates + k); }
  double* shape(ShapeRow r) const { return row(kBaseRows + 2 * covariates + r); }
};

/// The states of all blocks, in layout order, and their merge.
class MomentsPartials {
 public:
  explicit MomentsPartials(const MomentsPlan& plan);
  double* head(int64_t block, int group) {
    return heads_.data() + (block * plan_.args.groups + group) * plan_.head;
  }
  double* body(int64_t block, int group) {
    return bodies_.data() + (block * plan_.args.groups + group) * plan_.body * plan_.padded;
  }
  /// Merges the blocks in their order, then all of them behind the state before, and writes
  /// args.head and args.body. Threads share the columns.
  void merge(int threads);

 private:
  void merge_group(int group, int threads);
  /// Whether no block has a row of the group.
  bool is_empty(int group);

  const MomentsPlan& plan_;
  Buffer<double> heads_;
  Buffer<double> bodies_;
};

/// Rows of the observed tensor as a panel finds them, and the rows to prefetch meanwhile.
struct PanelRows {
  const char* data = nullptr;
  int64_t stride = 0;               // bytes
  const double* squares = nullptr;  // of each row, or null
  Coming next[kComing] = {};
};

/// The sums of one block; one object a thread, used for one block after the other.
class MomentsBlock {
 public:
  explicit MomentsBlock(const MomentsPlan& plan);
  void begin();
  /// Rows [first, first + count) of the call, count <= plan.panel_rows.
  void add(int64_t first, int64_t count, const PanelRows& rows);
  /// Writes the state of the block.
  void finish(MomentsPartials& partials, int64_t block);

 private:
  struct Group {
    int64_t n = 0;
    int64_t kept = 0;        // rows of few a panel, that wait for more
    Buffer<char> kept_rows;  // [kMaxPanelRows, row_bytes_], once there are some
    int64_t kept_index[kMaxPanelRows];
  };
  /// Of the covariates of a group, [K] each.
  struct CovariateSums {
    double* pivot;
    double* sum;  // of the deviations
    double* square;
  };

  void add_group(int group, const PanelRows& rows, int64_t first, int64_t count);
  void add_kept(int group);
  /// Adds the rows rows_[0 .. count) of the call's rows selected_[0 .. count).
  void accumulate(int group, int64_t count, const PanelRows& panel);
  void load_covariates(const CovariateSums& of, int64_t count);
  void finish_group(int group, double* head, double* body);
  void finish_columns(int group, const Body& out, int64_t from, int64_t count);
  double* sums(int group) { return sums_.data() + group * sum_rows_ * plan_.padded; }
  CovariateSums covariate_sums(int group) {
    const int64_t k = plan_.args.covariates();
    double* first = covariates_.data() + group * 3 * k;
    return {first, first + k, first + 2 * k};
  }
  float* floats(int group) { return floats_.data() + group * 3 * plan_.padded; }

  const MomentsPlan& plan_;
  int64_t row_bytes_;
  int64_t sum_rows_;
  std::vector<Group> groups_;
  Buffer<double> sums_;        // [groups, sum_rows_, padded]: base and covariates, then shape
  Buffer<float> floats_;       // [groups, {pivot, minimum, maximum}, padded]
  Buffer<double> covariates_;  // [groups, {pivot, sum, square}, K]
  Buffer<double> deviations_;  // [covariates, kMaxPanelRows]
  int64_t selected_[kMaxPanelRows];
  double squares_[kMaxPanelRows];
  const void* rows_[kMaxPanelRows];
};

}  // namespace outdim::cpu
