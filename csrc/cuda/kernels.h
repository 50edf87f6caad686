#pragma once

// The CUDA kernels as plain C++: addresses on one device, a stream, and a workspace that the caller
// allocates.
//
// Nothing here allocates, waits or reads back, so every call can be captured in a CUDA graph. All
// pointers of the argument structs, results included, are device addresses. Every call throws
// std::bad_alloc when the device's memory is full, std::runtime_error when CUDA reports another
// error and std::invalid_argument for sizes that no kernel covers.

#include <cstdint>
#include <string>

#include "core/attention_received.h"
#include "core/layer_norm.h"
#include "core/magnitude_counts.h"
#include "core/moments.h"
#include "core/rank_histogram.h"
#include "core/segment_sums.h"
#include "core/token_shape.h"

namespace outdim::cuda {

/// Widest row that layer_norm takes on a device: 16384 columns, or as many as the shared memory of a
/// block has room for (12288 where it is 99 KiB).
int64_t max_norm_width(int device);

/// Where and when a call runs.
struct Context {
  int device = 0;
  void* stream = nullptr;  // cudaStream_t
  void* workspace =
      nullptr;  // at least workspace_bytes(...), aligned to 256 bytes; null when that is 0
};

struct DeviceInfo {
  int runtime_version = 0;  // as CUDA numbers them: 13000 is 13.0
  int driver_version = 0;   // newest runtime the driver serves; 0 without a driver
  int devices = 0;
  std::string error;  // why there are none, "" when there are some
};

/// Never throws: without a driver it says so.
DeviceInfo info();

/// Workspace of `moments`, and of `layer_norm` with statistics, for these sizes on `device`.
int64_t workspace_bytes(int64_t n, int64_t d, const MomentsArgs& args, int device);

/// Unlike its CPU twin, a selected id outside the table does not throw (that would need a wait for
/// the device): it makes the moments of its covariate NaN.
void moments(const HiddenView& hidden, const MomentsArgs& args, const Context& context);

/// `stats` may be null. They are `moments` of the stored tensor, right after it; the norms of its
/// rows, for statistics of shape, are taken while a row is in registers, which may change the last
/// bits of sums of unit vectors. Not for every row with every variant.
void layer_norm(const LayerNormArgs& args, const MomentsArgs* stats, Observed observed,
                const Context& context);

void rank_histogram_touch(const HiddenView& hidden, const RankHistogramArgs& args, uint8_t* touched,
                          const Context& context);
/// Rows whose id is outside the table are left out.
void rank_histogram_add(const HiddenView& hidden, const RankHistogramArgs& args,
                        const Context& context);

/// Rows and segments that name something outside of hidden, order or the table are left out.
void segment_sums(const HiddenView& hidden, const SegmentSumsArgs& args, const Context& context);

/// Rows whose group is above `groups` are left out.
void magnitude_counts_add(const HiddenView& hidden, const MagnitudeCountsArgs& args,
                          const Context& context);

void token_shape(const HiddenView& hidden, const TokenShapeArgs& args, const Context& context);

/// Workspace of `attention_received`.
int64_t attention_workspace_bytes(const AttentionReceivedArgs& args);
/// Queries whose group is above `groups` are left out.
void attention_received(const AttentionReceivedArgs& args, const Context& context);

}  // namespace outdim::cuda
