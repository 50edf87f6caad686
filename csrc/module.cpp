// The Python binding, and the only file that knows Python: raw addresses, sizes and a stream handle
// in, nothing validated (python/outdim/ops does that once), the interpreter lock released while a
// kernel runs.

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <string>
#include <vector>

#include "core/attention_received.h"
#include "core/chunk_count.h"
#include "core/comoments.h"
#include "core/layer_norm.h"
#include "core/magnitude_counts.h"
#include "core/moments.h"
#include "core/rank_histogram.h"
#include "core/segment_sums.h"
#include "core/sizes.h"
#include "core/token_shape.h"
#include "core/unit_sums.h"
#include "cpu/dispatch.h"
#ifdef OUTDIM_CUDA
#include "cuda/kernels.h"
#endif
#include "cpu/parallel.h"

namespace py = pybind11;

namespace outdim {
namespace {

template <class T>
T* address(std::uintptr_t value) {
  return reinterpret_cast<T*>(value);
}

using Address = std::uintptr_t;

/// What a batch has in common; `with_state` says where from and where to.
MomentsArgs moments_args(Address ids, Address table, int64_t vocab, int table_covariates,
                         Address rows, int row_covariates, Address group, int groups, double tau,
                         bool exact, bool shape) {
  MomentsArgs args;
  args.ids = address<const int64_t>(ids);
  args.table = address<const double>(table);
  args.vocab = vocab;
  args.table_covariates = table_covariates;
  args.rows = address<const double>(rows);
  args.row_covariates = row_covariates;
  args.group = address<const uint8_t>(group);
  args.groups = groups;
  args.tau = tau;
  args.exact = exact;
  args.shape = shape;
  return args;
}

MomentsArgs with_state(MomentsArgs args, Address before_head, Address before_body, Address head,
                       Address body) {
  args.before_head = address<const double>(before_head);
  args.before_body = address<const double>(before_body);
  args.head = address<double>(head);
  args.body = address<double>(body);
  return args;
}

/// What the calls of a norm have in common; `with_rows` says of what and where to.
LayerNormArgs layer_norm_args(int dtype, int64_t d, int param_dtype, Address gamma, Address beta,
                              double eps, bool rms, Address dim_mask, Address scale, Address shift,
                              Address clip, Address variant, int64_t variants, bool each) {
  LayerNormArgs args;
  args.dtype = static_cast<DType>(dtype);
  args.d = d;
  args.param_dtype = static_cast<DType>(param_dtype);
  args.gamma = address<const void>(gamma);
  args.beta = address<const void>(beta);
  args.eps = eps;
  args.rms = rms;
  args.dim_mask = address<const uint8_t>(dim_mask);
  args.scale = address<const float>(scale);
  args.shift = address<const float>(shift);
  args.clip = address<const float>(clip);
  args.variant = address<const int32_t>(variant);
  args.variants = variants;
  args.each = each;
  return args;
}

LayerNormArgs with_rows(LayerNormArgs args, int64_t n, Address x, int64_t x_stride,
                        Address residual, int64_t residual_stride, Address sum, Address y,
                        int64_t y_stride) {
  args.n = n;
  args.x = address<const void>(x);
  args.x_stride = x_stride;
  args.residual = address<const void>(residual);
  args.residual_stride = residual_stride;
  args.sum = address<void>(sum);
  args.y = address<void>(y);
  args.y_stride = y_stride;
  return args;
}

void merge_moments(int groups, int covariates, bool shape, int64_t d, Address earlier_head,
                   Address earlier_body, Address later_head, Address later_body, Address head,
                   Address body) {
  const auto view = [](Address of_head, Address of_body) {
    return cpu::MomentsStateView{address<const double>(of_head), address<const double>(of_body)};
  };
  cpu::merge_moments(groups, covariates, shape, d, view(earlier_head, earlier_body),
                     view(later_head, later_body), address<double>(head), address<double>(body));
}

HiddenView hidden_view(Address data, int dtype, int64_t n, int64_t d, int64_t stride) {
  return {address<const void>(data), static_cast<DType>(dtype), n, d, stride};
}

RankHistogramArgs rank_histogram_args(Address dims, int64_t s, Address ids, Address double_rank,
                                      int64_t vocab, Address mask, Address page_index,
                                      Address count, Address rank_sum, int64_t pages) {
  RankHistogramArgs args;
  args.dims = address<const int64_t>(dims);
  args.s = s;
  args.ids = address<const int64_t>(ids);
  args.double_rank = address<const int64_t>(double_rank);
  args.vocab = vocab;
  args.mask = address<const uint8_t>(mask);
  args.page_index = address<int32_t>(page_index);
  args.count = address<int64_t>(count);
  args.rank_sum = address<int64_t>(rank_sum);
  args.pages = pages;
  return args;
}

SegmentSumsArgs segment_sums_args(Address order, int64_t ordered, Address starts, int64_t segments,
                                  Address read, Address write, Address sums, int64_t table_rows) {
  SegmentSumsArgs args;
  args.order = address<const int64_t>(order);
  args.ordered = ordered;
  args.starts = address<const int64_t>(starts);
  args.segments = segments;
  args.read = address<const int64_t>(read);
  args.write = address<const int64_t>(write);
  args.sums = address<double>(sums);
  args.table_rows = table_rows;
  return args;
}

UnitSumsArgs unit_sums_args(Address order, int64_t ordered, Address starts, int64_t segments,
                            Address left_out, int64_t left_outs, Address sums) {
  UnitSumsArgs args;
  args.order = address<const int64_t>(order);
  args.ordered = ordered;
  args.starts = address<const int64_t>(starts);
  args.segments = segments;
  args.left_out = address<const int64_t>(left_out);
  args.left_outs = left_outs;
  args.sums = address<double>(sums);
  return args;
}

SizesArgs sizes_args(Address order, int64_t ordered, Address starts, int64_t segments, bool rms,
                     Address largest, Address squares) {
  SizesArgs args;
  args.order = address<const int64_t>(order);
  args.ordered = ordered;
  args.starts = address<const int64_t>(starts);
  args.segments = segments;
  args.rms = rms;
  args.largest = address<float>(largest);
  args.squares = address<double>(squares);
  return args;
}

MagnitudeCountsArgs magnitude_counts_args(Address group, int groups, Address fresh) {
  return {address<const uint8_t>(group), groups, address<int32_t>(fresh)};
}

TokenShapeArgs token_shape_args(Address group, Address smallest, Address largest,
                                Address kurtosis) {
  return {address<const uint8_t>(group), address<int64_t>(smallest), address<int64_t>(largest),
          address<double>(kurtosis)};
}

AttentionStrides strides(const std::array<int64_t, 3>& given) {
  return {given[0], given[1], given[2]};
}

AttentionReceivedArgs attention_received_args(
    int dtype, const std::array<int64_t, 6>& sizes, Address query,
    const std::array<int64_t, 3>& query_strides, Address key,
    const std::array<int64_t, 3>& key_strides, double scale, double softcap, bool causal,
    int64_t window, Address mask, const std::array<int64_t, 3>& mask_strides, int64_t mask_heads,
    Address bias, const std::array<int64_t, 3>& bias_strides, Address sinks, Address group,
    int64_t groups, Address sums, Address seen, Address entropy) {
  AttentionReceivedArgs args;
  args.dtype = static_cast<DType>(dtype);
  args.batch = sizes[0];
  args.query_heads = sizes[1];
  args.key_heads = sizes[2];
  args.queries = sizes[3];
  args.keys = sizes[4];
  args.d = sizes[5];
  args.query = address<const void>(query);
  args.query_strides = strides(query_strides);
  args.key = address<const void>(key);
  args.key_strides = strides(key_strides);
  args.scale = static_cast<float>(scale);
  args.softcap = static_cast<float>(softcap);
  args.causal = causal;
  args.window = window;
  args.mask = address<const uint8_t>(mask);
  args.mask_strides = strides(mask_strides);
  args.mask_heads = mask_heads;
  args.bias = address<const float>(bias);
  args.bias_strides = strides(bias_strides);
  args.sinks = address<const float>(sinks);
  args.group = address<const uint8_t>(group);
  args.groups = groups;
  args.sums = address<double>(sums);
  args.seen = address<int64_t>(seen);
  args.entropy = address<double>(entropy);
  return args;
}

ComomentsArgs comoments_args(Address rows, int count, Address group, int groups, Address head,
                             Address body) {
  ComomentsArgs args;
  args.rows = address<const double>(rows);
  args.count = count;
  args.group = address<const uint8_t>(group);
  args.groups = groups;
  args.head = address<double>(head);
  args.body = address<double>(body);
  return args;
}

ChunkRule chunk_rule(const std::array<uint8_t, 256>& byte_class,
                     const std::array<uint16_t, 16>& cut, uint16_t solid, uint16_t drop,
                     uint16_t guard, uint16_t word, bool wide, bool spaces) {
  return {byte_class, cut, solid, drop, guard, word, wide, spaces};
}

ChunkTexts chunk_texts(Address data, int64_t size, Address starts, Address ends, int64_t n) {
  return {address<const uint8_t>(data), size, address<int64_t>(starts),
          address<const int64_t>(ends), n};
}

template <class T>
py::bytes bytes_of(const std::vector<T>& values) {
  return py::bytes(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T));
}

py::tuple fresh_chunks(ChunkCounter& counter, const std::array<std::string, kJoints>& separators,
                       int joint_class) {
  FreshChunks found;
  {
    py::gil_scoped_release release;
    found = counter.fresh(separators, joint_class);
  }
  return py::make_tuple(bytes_of(found.data), bytes_of(found.starts), found.of_joint);
}

#ifdef OUTDIM_CUDA
cuda::Context cuda_context(int device, Address stream, Address workspace) {
  return {device, address<void>(stream), address<void>(workspace)};
}

py::dict cuda_info() {
  const cuda::DeviceInfo info = cuda::info();
  py::dict result;
  result["architectures"] = OUTDIM_CUDA_ARCHS;
  result["runtime_version"] = info.runtime_version;
  result["driver_version"] = info.driver_version;
  result["device_count"] = info.devices;
  result["error"] = info.error;
  return result;
}

void bind_cuda(py::module_& m) {
  using Release = py::call_guard<py::gil_scoped_release>;
  py::class_<cuda::Context>(m, "CudaContext").def(py::init(&cuda_context));
  m.def("cuda_info", &cuda_info,
        "What the CUDA kernels were built for and find here; never raises.");
  m.def("cuda_max_norm_width",
        [](const cuda::Context& context) { return cuda::max_norm_width(context.device); });
  m.def("cuda_workspace_bytes", &cuda::workspace_bytes, Release());
  m.def("cuda_moments", &cuda::moments, Release());
  m.def(
      "cuda_layer_norm",
      [](const LayerNormArgs& args, const MomentsArgs* stats, int observed,
         const cuda::Context& context) {
        cuda::layer_norm(args, stats, static_cast<Observed>(observed), context);
      },
      Release());
  m.def(
      "cuda_rank_histogram_touch",
      [](const HiddenView& hidden, const RankHistogramArgs& args, Address touched,
         const cuda::Context& context) {
        cuda::rank_histogram_touch(hidden, args, address<uint8_t>(touched), context);
      },
      Release());
  m.def("cuda_rank_histogram_add", &cuda::rank_histogram_add, Release());
  m.def("cuda_segment_sums", &cuda::segment_sums, Release());
  m.def("cuda_magnitude_counts_add", &cuda::magnitude_counts_add, Release());
  m.def("cuda_token_shape", &cuda::token_shape, Release());
  m.def("cuda_attention_workspace_bytes", &cuda::attention_workspace_bytes);
  m.def("cuda_attention_received", &cuda::attention_received, Release());
}
#endif

}  // namespace
}  // namespace outdim

PYBIND11_MODULE(_core, m, py::mod_gil_not_used()) {
  using namespace outdim;
  using Release = py::call_guard<py::gil_scoped_release>;

  py::class_<MomentsArgs>(m, "MomentsArgs")
      .def(py::init(&moments_args))
      .def("with_state", &with_state);
  py::class_<LayerNormArgs>(m, "LayerNormArgs")
      .def(py::init(&layer_norm_args))
      .def("with_rows", &with_rows);
  py::class_<HiddenView>(m, "HiddenView").def(py::init(&hidden_view));
  py::class_<RankHistogramArgs>(m, "RankHistogramArgs").def(py::init(&rank_histogram_args));
  py::class_<SegmentSumsArgs>(m, "SegmentSumsArgs").def(py::init(&segment_sums_args));
  py::class_<UnitSumsArgs>(m, "UnitSumsArgs").def(py::init(&unit_sums_args));
  py::class_<SizesArgs>(m, "SizesArgs").def(py::init(&sizes_args));
  py::class_<ComomentsArgs>(m, "ComomentsArgs").def(py::init(&comoments_args));
  py::class_<MagnitudeCountsArgs>(m, "MagnitudeCountsArgs").def(py::init(&magnitude_counts_args));
  py::class_<TokenShapeArgs>(m, "TokenShapeArgs").def(py::init(&token_shape_args));
  py::class_<AttentionReceivedArgs>(m, "AttentionReceivedArgs")
      .def(py::init(&attention_received_args));
  m.def("head_size", &head_size);
  m.def("body_rows", &body_rows);

  m.def("isa", &cpu::isa, "Name of the instruction set in use: amx, avx512, avx2 or baseline.");
  m.def("isas", &cpu::isas, "Names this binary holds and this processor can run, best first.");
  m.def("set_isa", &cpu::set_isa, "Choose an instruction set by name (for tests and benchmarks).");
  m.def(
      "threading", &cpu::threading,
      "Where threads come from: the path of an OpenMP runtime, threads, or serial (after a fork).");
  // Numbers, not objects made of them: a call on a few rows costs what its arguments cost.
  m.def(
      "moments",
      [](const MomentsArgs& of_rows, Address before_head, Address before_body, Address head,
         Address body, Address data, int dtype, int64_t n, int64_t d, int64_t stride, int threads) {
        cpu::moments(hidden_view(data, dtype, n, d, stride),
                     with_state(of_rows, before_head, before_body, head, body), threads);
      },
      Release());
  m.def("merge_moments", &merge_moments, Release());
  m.def(
      "layer_norm",
      [](const LayerNormArgs& norm, int64_t n, Address x, int64_t x_stride, Address residual,
         int64_t residual_stride, Address sum, Address y, int64_t y_stride,
         const MomentsArgs* of_rows, Address before_head, Address before_body, Address head,
         Address body, int observed, int threads) {
        const LayerNormArgs args =
            with_rows(norm, n, x, x_stride, residual, residual_stride, sum, y, y_stride);
        if (of_rows == nullptr) return cpu::layer_norm(args, nullptr, Observed{}, threads);
        const MomentsArgs stats = with_state(*of_rows, before_head, before_body, head, body);
        cpu::layer_norm(args, &stats, static_cast<Observed>(observed), threads);
      },
      Release());
  m.def(
      "rank_histogram_touch",
      [](const HiddenView& hidden, const RankHistogramArgs& args, Address touched, int threads) {
        cpu::rank_histogram_touch(hidden, args, address<uint8_t>(touched), threads);
      },
      Release());
  m.def("rank_histogram_add", &cpu::rank_histogram_add, Release());
  m.def("segment_sums", &cpu::segment_sums, Release());
  m.def("unit_sums", &cpu::unit_sums, Release());
  m.def("sizes", &cpu::sizes, Release());
  m.def("comoments", &cpu::comoments, Release());
  m.def("magnitude_counts_add", &cpu::magnitude_counts_add, Release());
  m.def(
      "magnitude_counts_move",
      [](const MagnitudeCountsArgs& args, int64_t d, Address counts, int threads) {
        cpu::magnitude_counts_move(args, d, address<int64_t>(counts), threads);
      },
      Release());
  m.def("token_shape", &cpu::token_shape, Release());
  m.def("attention_received", &cpu::attention_received, Release());
#ifdef OUTDIM_CUDA
  bind_cuda(m);
#endif

  py::class_<ChunkRule>(m, "ChunkRule").def(py::init(&chunk_rule));
  py::class_<ChunkTexts>(m, "ChunkTexts").def(py::init(&chunk_texts));
  py::class_<ChunkCounter>(m, "ChunkCounter")
      .def(py::init<const ChunkRule&, int, int64_t>())
      .def("add", &ChunkCounter::add, Release())
      .def("fresh", &fresh_chunks,
           "Bytes of the chunks with separators, int64 starts as bytes, how many of each joint.")
      .def(
          "learn",
          [](ChunkCounter& counter, Address ids, Address offsets, int64_t n) {
            counter.learn(address<const int32_t>(ids), address<const int64_t>(offsets), n);
          },
          Release())
      .def(
          "fold",
          [](ChunkCounter& counter, Address counts, int64_t vocab) {
            return counter.fold(address<int64_t>(counts), vocab);
          },
          Release())
      .def(
          "count_documents",
          [](const ChunkCounter& counter, const ChunkTexts& texts, Address documents,
             int64_t vocab) { counter.count_documents(texts, address<int64_t>(documents), vocab); },
          Release())
      .def("clear", &ChunkCounter::clear)
      .def("chunks", &ChunkCounter::chunks)
      .def("memory_bytes", &ChunkCounter::memory_bytes);
}
