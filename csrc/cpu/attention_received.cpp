// Attention received on the CPU: which keys each query sees, blocks of queries, and the threads.
// The arithmetic is in attention_received_kernels.cpp.
//
// A task is one head of one sequence: its keys are packed once, and its queries pass in blocks in
// the order of their groups. A head is summed by one task in the order of its queries: the bytes do
// not depend on the threads.

#include "core/attention_received.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "cpu/buffer.h"
#include "cpu/dispatch.h"
#include "cpu/parallel.h"

namespace outdim::cpu {
namespace {

/// Scores of a block take about this much of the L2 cache, the keys of the head the rest.
constexpr int64_t kScoreBytes = 256 << 10;
/// Between rows of scores, so that they fall into all sets of the L1 cache: 16 rows of a tile are
/// stored eight times as fast as at 2,048 bytes.
constexpr int64_t kScoreGap = 64 / sizeof(float);

constexpr int64_t round_up(int64_t value, int64_t unit) { return (value + unit - 1) / unit * unit; }

int64_t offset(const AttentionStrides& strides, int64_t batch, int64_t head, int64_t row) {
  return batch * strides.batch + head * strides.head + row * strides.row;
}

uint8_t group_of(const AttentionReceivedArgs& args, int64_t batch, int64_t query) {
  return args.group == nullptr ? 1 : args.group[batch * args.queries + query];
}

void check(const AttentionReceivedArgs& args) {
  if (args.group == nullptr) return;
  for (int64_t i = 0; i < args.batch * args.queries; ++i)
    if (args.group[i] > args.groups)
      throw std::out_of_range("expected values in [0, " + std::to_string(args.groups) + "], got " +
                              std::to_string(args.group[i]) + " at " + std::to_string(i));
}

/// The keys that a query sees lie in [from, to), empty where it sees none; `mask` is kept only
/// where there are hidden ones among them.
AttentionRow row_of(const AttentionReceivedArgs& args, int64_t batch, int64_t mask_head,
                    int64_t query) {
  AttentionRow row;
  row.to = args.causal ? std::min(args.keys, query + 1) : args.keys;
  if (args.window > 0) row.from = std::min(std::max<int64_t>(0, query - args.window + 1), row.to);
  if (args.mask == nullptr) return row;
  const uint8_t* mask = args.mask + offset(args.mask_strides, batch, mask_head, query);
  const auto* first = static_cast<const uint8_t*>(memchr(mask + row.from, 1, row.to - row.from));
  if (first == nullptr) {
    row.from = row.to;
    return row;
  }
  row.from = first - mask;
  while (mask[row.to - 1] == 0) --row.to;
  if (memchr(first, 0, row.to - row.from) != nullptr) row.mask = mask;
  return row;
}

/// Queries of a sequence by group, in each in their own order, those of group 0 left out.
std::vector<int64_t> in_order(const AttentionReceivedArgs& args, int64_t batch) {
  std::vector<int64_t> next(args.groups + 2);  // where each group goes on
  for (int64_t i = 0; i < args.queries; ++i) ++next[group_of(args, batch, i) + 1];
  const int64_t left_out = next[1];
  for (int64_t g = 1; g <= args.groups; ++g) next[g + 1] += next[g];
  std::vector<int64_t> order(args.queries);
  for (int64_t i = 0; i < args.queries; ++i) order[next[group_of(args, batch, i)]++] = i;
  order.erase(order.begin(), order.begin() + left_out);
  return order;
}

/// One thread's way through heads, with its memory.
class Heads {
 public:
  Heads(const AttentionReceivedArgs& args, const std::vector<std::vector<int64_t>>& orders)
      : args_(args),
        orders_(orders),
        kernels_(*cpu::kernels().attention),
        of_type_(kernels_.of_type[static_cast<int>(args.dtype)]),
        padded_(round_up(args.keys, kernels_.keys)),
        stride_(padded_ + kScoreGap),
        rows_(rows_of_block()),
        keys_(padded_ * of_type_.packed_bytes(args.d)),
        unpacked_(kernels_.keys * args.d),
        query_(rows_ * of_type_.packed_bytes(args.d)),
        scores_(rows_ * stride_),
        sums_(args.groups * padded_) {}

  /// Of the heads of all sequences, number `task`; `next` comes soon.
  void add(int64_t task, int64_t next) {
    const int64_t batch = task / args_.query_heads, head = task % args_.query_heads;
    next_ = next < args_.batch * args_.query_heads ? next : -1;
    of_type_.pack_keys(at(args_.key, offset(args_.key_strides, batch, key_head(head), 0)),
                       args_.key_strides.row, args_.keys, args_.d, unpacked_.data(), keys_.data());
    std::fill_n(sums_.data(), args_.groups * padded_, 0.0);
    count_ = 0;
    for (const int64_t query : orders_[batch]) {
      take(batch, head, query);
      if (count_ == rows_) add_block(head);
    }
    if (count_ > 0) add_block(head);
    for (int64_t g = 0; g < args_.groups; ++g)
      std::copy_n(
          sums_.data() + g * padded_, args_.keys,
          args_.sums + ((batch * args_.groups + g) * args_.query_heads + head) * args_.keys);
  }

 private:
  int64_t rows_of_block() const {
    const int64_t fitting = kScoreBytes / (padded_ * static_cast<int64_t>(sizeof(float)));
    const int64_t whole = fitting / kernels_.queries * kernels_.queries;
    const int64_t most = kMaxAttentionRows / kernels_.queries * kernels_.queries;
    return std::min(std::max<int64_t>(whole, kernels_.queries), most);
  }

  const void* at(const void* data, int64_t elements) const {
    return static_cast<const char*>(data) + elements * item_size(args_.dtype);
  }

  int64_t key_head(int64_t head) const { return head / (args_.query_heads / args_.key_heads); }

  /// Puts a query into the block, unless it sees nothing.
  void take(int64_t batch, int64_t head, int64_t query) {
    AttentionRow row = row_of(args_, batch, args_.mask_heads > 1 ? head : 0, query);
    if (row.from >= row.to) return;
    if (args_.bias != nullptr)
      row.bias = args_.bias + offset(args_.bias_strides, batch, head, query);
    if (args_.entropy != nullptr)
      row.entropy = args_.entropy + (batch * args_.query_heads + head) * args_.queries + query;
    if (next_ >= 0) {
      const int64_t batch = next_ / args_.query_heads, head = next_ % args_.query_heads;
      row.next[0] = static_cast<const char*>(
          at(args_.query, offset(args_.query_strides, batch, head, query)));
      row.next[1] = static_cast<const char*>(
          at(args_.key, offset(args_.key_strides, batch, key_head(head), query)));
    }
    row.sums = sums_.data() + (group_of(args_, batch, query) - 1) * padded_;
    addresses_[count_] = at(args_.query, offset(args_.query_strides, batch, head, query));
    taken_[count_++] = row;
  }

  void add_block(int64_t head) {
    AttentionBlock block;
    of_type_.pack_queries(addresses_, count_, args_.d, query_.data());
    block.query = query_.data();
    block.rows = taken_;
    block.count = count_;
    block.d = args_.d;
    block.keys = keys_.data();
    block.first = args_.keys;
    for (int64_t i = 0; i < count_; ++i) {
      block.first = std::min(block.first, taken_[i].from);
      block.last = std::max(block.last, taken_[i].to);
    }
    block.scale = args_.softcap > 0 ? args_.scale : args_.scale * kLog2OfE;
    block.softcap = args_.softcap;
    block.sink = args_.sinks == nullptr ? -INFINITY : args_.sinks[head] * kLog2OfE;
    block.scores = scores_.data();
    block.row_bytes = args_.d * item_size(args_.dtype);
    block.stride = stride_;
    of_type_.add_block(block);
    count_ = 0;
  }

  const AttentionReceivedArgs& args_;
  const std::vector<std::vector<int64_t>>& orders_;  // of the queries of each sequence
  const AttentionKernels& kernels_;
  const AttentionKernels::OfType& of_type_;
  const int64_t padded_, stride_, rows_;
  Buffer<char> keys_;
  Buffer<float> unpacked_;
  Buffer<char> query_;
  Buffer<float> scores_;
  Buffer<double> sums_;  // [groups][padded]
  const void* addresses_[kMaxAttentionRows];
  AttentionRow taken_[kMaxAttentionRows];
  int64_t count_ = 0;
  int64_t next_ = -1;
};

/// Counts the queries of each group that see a key.
void count_seen(const AttentionReceivedArgs& args, int64_t batch, int64_t mask_head) {
  for (int64_t i = 0; i < args.queries; ++i) {
    const int64_t g = group_of(args, batch, i);
    if (g == 0) continue;
    const AttentionRow row = row_of(args, batch, mask_head, i);
    int64_t* seen =
        args.seen + ((batch * args.groups + g - 1) * args.mask_heads + mask_head) * args.keys;
    for (int64_t j = row.from; j < row.to; ++j) seen[j] += row.mask == nullptr ? 1 : row.mask[j];
  }
}

}  // namespace

void attention_received(const AttentionReceivedArgs& args, int threads) {
  check(args);
  if (args.keys == 0 || args.queries == 0) return;
  std::vector<std::vector<int64_t>> orders;
  for (int64_t b = 0; b < args.batch; ++b) orders.push_back(in_order(args, b));
  const int64_t heads = args.batch * args.query_heads;
  const int64_t counts = args.batch * args.mask_heads;
  run_tasks(heads + counts, threads, [&](TaskQueue& queue) {
    Heads mine(args, orders);
    for (int64_t task = queue.next(); task >= 0; task = queue.next()) {
      if (task < heads)
        mine.add(task, task + threads);
      else
        count_seen(args, (task - heads) / args.mask_heads, (task - heads) % args.mask_heads);
    }
  });
}

}  // namespace outdim::cpu
