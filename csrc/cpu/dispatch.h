#pragma once

// The tables of function pointers that each per-ISA unit exports, and the choice among them.

#include <cstdint>
#include <string>
#include <vector>

#include "core/types.h"

namespace outdim::cpu {

/// A panel is the rows that stay in the L2 cache while strips of columns are summed down them. The
/// hardware prefetcher follows about 32 streams, one a row: 64 rows were up to 25 % slower, 16 cost
/// more visits to the sums.
constexpr int kMaxPanelRows = 32;

/// Sums of one group of rows over one block, in layout order; rows of length `padded`.
enum SumRow : int {
  kSumV = 0,
  kSumVV = 1,
  kSumX = 2,
  kSumRows = 3
};  // then pairs (f v, f x) per covariate
enum ShapeSum : int { kSumX3 = 0, kSumX4, kSumUnit, kSumOver, kSumNonfinite, kShapeSums };

/// Rows that are read or written next, to be prefetched.
struct Coming {
  const char* row = nullptr;
  int64_t stride = 0;  // bytes
  int64_t rows = 0;
};
/// Of x, of the residual, of y.
constexpr int kComing = 3;

/// Selected rows of a panel, and where their sums go.
struct MomentsPanel {
  const void* const* rows = nullptr;  // [count], at most kMaxPanelRows
  int64_t count = 0;
  int64_t d = 0;
  int64_t padded = 0;                  // d rounded up to whole groups of columns
  const double* covariates = nullptr;  // [covariates, kMaxPanelRows] deviations
  int covariate_count = 0;             // padded with zeros to covariates_padded(...)
  const float* pivot = nullptr;        // [padded]
  double* sums = nullptr;              // [kSumRows + 2 covariates, padded]

  double* shape = nullptr;          // [kShapeSums, padded]; null: no shape
  const double* squares = nullptr;  // [count] sum of the squares of each row, where it is known
  float* minimum = nullptr;         // [padded]
  float* maximum = nullptr;
  float tau = 0;

  Coming next[kComing] = {};
};

struct MomentsKernels {
  int width;  // float32 lanes; a group of columns is twice that
  int (*covariates_padded)(int covariates);
  // [dtype]: coordinate-wise median of three rows, 0 where that is not finite
  void (*pivot[3])(const void* const rows[3], int64_t d, float* pivot);
  void (*accumulate[3])(const MomentsPanel& panel);  // [dtype]
};

/// Rows of one call of the LayerNorm kernel. Strides in bytes.
struct LayerNormPanel {
  const char* x = nullptr;
  int64_t x_stride = 0;
  const char* residual = nullptr;
  int64_t residual_stride = 0;
  char* sum =
      nullptr;  // receives x + residual where there is a residual; a stride of 0 reuses one row
  int64_t sum_stride = 0;
  char* y = nullptr;
  int64_t y_stride = 0;
  char* copy = nullptr;  // second copy of y that stays in cache, or null
  int64_t copy_stride = 0;
  int64_t n = 0;
  int64_t d = 0;
  // [variants, padded], layout order, masked and edited, NaN canonical; gamma is -0 exactly where
  // the edit's scale is 0 and beta stands whatever x is. Without an edit one variant.
  const float* gamma = nullptr;
  const float* beta = nullptr;
  const float* low = nullptr;  // bounds of y, or null
  const float* high = nullptr;
  int64_t table_stride = 0;
  float eps = 0;
  bool rms = false;
  bool stream = false;  // store y past the cache; every row must be aligned to 64 bytes

  bool edit = false;
  const int32_t* variant = nullptr;  // [n] or null
  // [n] receives the sum of the squares of each row of y, or of the input; null: not wanted.
  double* squares = nullptr;
  bool squares_of_input = false;

  Coming next[kComing] = {};  // of the panel behind this one

  int64_t each = 1;         // variants that every row is written with, from 0 on
  int64_t each_stride = 0;  // bytes between them in y
};

struct LayerNormKernels {
  int width;
  void (*rows[3])(const LayerNormPanel& panel);  // [dtype]
};

/// Rows of one segment, and the row of the table that their sums go to.
struct SegmentPanel {
  const void* const* rows = nullptr;  // [count], at most kMaxPanelRows
  int64_t count = 0;
  const void* const* next = nullptr;  // rows to prefetch
  int64_t next_count = 0;
  int64_t first = 0;  // columns [first, last) of d
  int64_t last = 0;
  int64_t d = 0;
  const double* from = nullptr;  // [kSegmentRows, d] sums to go on from; null: zeros
  double* to = nullptr;          // [kSegmentRows, d], may be `from`
};

struct SegmentSumsKernels {
  void (*add[3])(const SegmentPanel& panel);  // [dtype]
};

/// Rows of one chunk, and where their sums go.
struct UnitPanel {
  const void* const* rows = nullptr;  // [count], at most kMaxPanelRows
  int64_t count = 0;
  int64_t d = 0;
  const uint32_t* kept =
      nullptr;             // [d, padded to groups] all bits of a column that is not left out
  double* sums = nullptr;  // [kUnitRows, d] added to
};

struct UnitSumsKernels {
  int width;
  void (*add[3])(const UnitPanel& panel);  // [dtype]
};

/// Rows of one chunk, and where their sizes go.
struct SizesPanel {
  const void* const* rows = nullptr;  // [count], at most kMaxPanelRows
  int64_t count = 0;
  int64_t d = 0;
  bool rms = false;
  float* largest = nullptr;          // [d], made larger; null: none
  double* const* squares = nullptr;  // [count] two numbers each; null: none
};

struct SizesKernels {
  void (*take[3])(const SizesPanel& panel);  // [dtype]
};

/// Columns of a strip at most: the bins that normal values of so many fall into (about 600 bytes a
/// column) stay in the L1 cache.
constexpr int kMaxStrip = 64;

/// Columns [first, last) of all rows, and where their magnitudes are counted.
struct MagnitudeStrip {
  const char* rows = nullptr;
  int64_t stride = 0;  // bytes
  int64_t n = 0;
  const uint8_t* group = nullptr;  // [n] or null
  int64_t first = 0;
  int64_t last = 0;
  int32_t* counts = nullptr;  // of the first group and column 0
  int64_t group_stride = 0;   // elements
};

struct MagnitudeCountsKernels {
  void (*add[3])(const MagnitudeStrip& strip);  // [dtype]
};

struct TokenShapeKernels {
  void (*rows[3])(const char* row, int64_t d, int64_t* smallest, int64_t* largest,
                  double* kurtosis);  // [dtype]
};

/// Rows of one group, a group of columns of them, and where their sums go.
struct ComomentsPanel {
  const void* const* rows = nullptr;  // [count], at most kMaxPanelRows
  int64_t count = 0;
  const void* const* next = nullptr;  // rows to prefetch
  int64_t next_count = 0;
  int64_t column = 0;   // the first
  int64_t columns = 0;  // at most ComomentsKernels::columns
  int64_t item_size = 0;
  const double* weights = nullptr;  // [count, values] deviations
  int values = 0;                   // padded with zeros
  double* pivot = nullptr;          // [columns]
  bool choose_pivot = false;        // it is written first
  double* sums = nullptr;           // [2 + values, columns] of v, v^2 and f v, added to
};

struct ComomentsKernels {
  int columns;                                  // of a panel
  int values;                                   // what their number is padded to
  void (*add[3])(const ComomentsPanel& panel);  // [dtype]
};

/// Queries of one block at most.
constexpr int kMaxAttentionRows = 64;

/// One query of a block: the keys that it sees lie in [from, to), which is not empty.
struct AttentionRow {
  int64_t from = 0;
  int64_t to = 0;
  const uint8_t* mask = nullptr;  // [keys], null: it sees all of them
  const float* bias = nullptr;    // [keys] or null
  double* sums = nullptr;         // [keys, padded] of its group, added to
  double* entropy = nullptr;      // or null
  // A query and a key that are read soon, to be prefetched, or null: rows of a head are far apart.
  const char* next[2] = {};
};

/// Queries of one head, in the order of their groups, against the keys of that head.
struct AttentionBlock {
  const void* query = nullptr;  // as pack_queries has written them
  const AttentionRow* rows = nullptr;
  int64_t count = 0;  // at most kMaxAttentionRows
  int64_t d = 0;
  const void* keys = nullptr;   // as pack_keys has written them
  int64_t first = 0, last = 0;  // the union of what the rows see
  float scale = 0;              // by log2 e as well, without a soft-cap
  float softcap = 0;            // 0: none
  float sink = 0;               // in units of log 2; -inf: none
  float* scores = nullptr;      // [count, padded][stride], written
  int64_t row_bytes = 0;        // of a query or key, unpacked
  int64_t stride = 0;           // between rows of scores
};

struct AttentionKernels {
  int keys, queries;  // what the numbers of both are padded to
  struct OfType {
    int64_t (*packed_bytes)(int64_t d);  // of a query or key
    void (*pack_queries)(const void* const* rows, int64_t count, int64_t d, void* packed);
    /// `stride` in elements; `rows` is room for [keys][d] of a pack.
    void (*pack_keys)(const void* from, int64_t stride, int64_t keys, int64_t d, float* rows,
                      void* packed);
    void (*add_block)(const AttentionBlock& block);
  };
  OfType of_type[3];  // [dtype]
};

struct Kernels {
  const char* name;
  // Whether stores past the cache pay. On Zen 4 they made LayerNorm 25-60 % faster; one core of a
  // Cascade Lake drains them at 5 GB/s, and normal stores with a prefetch for writing win by 10 %.
  bool streams;
  const MomentsKernels* moments;
  const LayerNormKernels* layer_norm;
  const SegmentSumsKernels* segment_sums;
  const UnitSumsKernels* unit_sums;
  const SizesKernels* sizes;
  const AttentionKernels* attention;
  const MagnitudeCountsKernels* magnitude_counts;
  const TokenShapeKernels* token_shape;
  const ComomentsKernels* comoments;
};

/// The kernels in use: of the best instruction set of this processor, or the one set_isa has
/// chosen.
const Kernels& kernels();

std::string isa();
std::vector<std::string> isas();
/// Throws std::invalid_argument for a name that is not in isas().
void set_isa(const std::string& name);

/// Where the kernels keep column d: bfloat16 has the even columns of each group before the odd ones
/// (simd.h).
inline int64_t layout_position(DType dtype, int width, int64_t d) {
  if (dtype != DType::kBFloat16) return d;
  const int64_t offset = d % (2 * width);
  return d - offset + (offset & 1) * width + offset / 2;
}
inline int64_t padded_columns(int width, int64_t d) {
  return (d + 2 * width - 1) / (2 * width) * (2 * width);
}

/// What the units compiled for one instruction set export.
#define OUTDIM_TABLES(isa)                                     \
  namespace isa {                                              \
  extern const MomentsKernels kMomentsKernels;                 \
  extern const LayerNormKernels kLayerNormKernels;             \
  extern const SegmentSumsKernels kSegmentSumsKernels;         \
  extern const UnitSumsKernels kUnitSumsKernels;               \
  extern const SizesKernels kSizesKernels;                     \
  extern const AttentionKernels kAttentionKernels;             \
  extern const MagnitudeCountsKernels kMagnitudeCountsKernels; \
  extern const TokenShapeKernels kTokenShapeKernels;           \
  extern const ComomentsKernels kComomentsKernels;             \
  }
OUTDIM_TABLES(baseline)
OUTDIM_TABLES(avx2)
OUTDIM_TABLES(avx512)
#undef OUTDIM_TABLES
namespace amx {
extern const AttentionKernels kAttentionKernels;
}  // namespace amx

}  // namespace outdim::cpu
