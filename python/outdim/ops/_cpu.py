"""Addresses and sizes for the CPU kernels of the compiled module."""

from typing import Any

import torch
from torch import Tensor

from outdim.ops._binding import DTYPE_CODES, core
from outdim.ops._calls import (
    AttentionReceivedCall,
    ComomentsCall,
    LayerNormCall,
    MagnitudeCountsCall,
    MomentsCall,
    RankAddCall,
    RankTouchCall,
    SegmentSumsCall,
    SizesCall,
    TokenShapeCall,
    UnitSumsCall,
)
from outdim.ops._statistics import StatisticsOfRows


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def rows_args(module: Any, call: MomentsCall | StatisticsOfRows) -> Any:
    """Build the binding's MomentsArgs without its states: what holds for any tensor of the rows."""
    table, rows = call.table, call.rows
    table_covariates, vocab = (0, 0) if table is None else table.shape
    return module.MomentsArgs(
        _address(call.ids),
        _address(table),
        vocab,
        table_covariates,
        _address(rows),
        0 if rows is None else rows.shape[0],
        _address(call.group),
        call.groups,
        call.tau,
        call.exact,
        call.shape,
    )


def moments_args(module: Any, call: MomentsCall) -> Any:
    """Build the binding's MomentsArgs; the kernels of every device take the same."""
    if call.native is not None:
        return call.native
    return rows_args(module, call).with_state(
        _address(call.before_head),
        _address(call.before_body),
        call.head.data_ptr(),
        call.body.data_ptr(),
    )


def norm_args(module: Any, call: LayerNormCall) -> Any:
    """Build the binding's LayerNormArgs without its rows: what holds for every call of a norm."""
    gamma, beta, scale = call.gamma, call.beta, call.scale
    parameter = beta if gamma is None else gamma
    return module.LayerNormArgs(
        DTYPE_CODES[call.x.dtype],
        call.x.shape[-1],
        0 if parameter is None else DTYPE_CODES[parameter.dtype],
        _address(gamma),
        _address(beta),
        call.eps,
        call.rms,
        _address(call.dim_mask),
        _address(scale),
        _address(call.shift),
        _address(call.clip),
        _address(call.variant),
        0 if scale is None else scale.shape[0],
        call.each,
    )


def layer_norm_args(module: Any, call: LayerNormCall) -> Any:
    """Build the binding's LayerNormArgs; the kernels of every device take the same."""
    if call.native is not None:
        return call.native
    x, residual, y = call.x, call.residual, call.y
    return norm_args(module, call).with_rows(
        x.shape[0],
        x.data_ptr(),
        x.stride(0),
        _address(residual),
        0 if residual is None else residual.stride(0),
        _address(call.sum),
        y.data_ptr(),
        y.stride(0),
    )


def hidden_view(module: Any, hidden: Tensor) -> Any:
    """Build the binding's HiddenView of a matrix of rows."""
    n, d = hidden.shape
    return module.HiddenView(hidden.data_ptr(), DTYPE_CODES[hidden.dtype], n, d, hidden.stride(0))


def _run(name: str, hidden: Tensor, args: Any, *more: int) -> None:
    """Run a kernel over a matrix of rows with torch's number of threads."""
    module = core()
    getattr(module, name)(hidden_view(module, hidden), args, *more, torch.get_num_threads())


def layer_norm(call: LayerNormCall, stats: MomentsCall | None, of_input: bool) -> None:
    """Run the kernel with torch's number of threads; `stats` is filled from the same pass."""
    module = core()
    module.layer_norm(
        layer_norm_args(module, call),
        None if stats is None else moments_args(module, stats),
        0 if of_input else 1,
        torch.get_num_threads(),
    )


def moments(hidden: Tensor, call: MomentsCall) -> None:
    """Run the kernel with torch's number of threads."""
    module = core()
    module.moments(hidden_view(module, hidden), moments_args(module, call), torch.get_num_threads())


def rank_touch_args(module: Any, call: RankTouchCall) -> Any:
    """Build the binding's RankHistogramArgs for the step that needs no ids and no tables."""
    return module.RankHistogramArgs(
        call.dims.data_ptr(), len(call.dims), 0, 0, 0, _address(call.mask), 0, 0, 0, 0
    )


def rank_histogram_touch(hidden: Tensor, call: RankTouchCall) -> None:
    """Run the kernel with torch's number of threads."""
    args = rank_touch_args(core(), call)
    _run("rank_histogram_touch", hidden, args, call.touched.data_ptr())


def rank_add_args(module: Any, call: RankAddCall) -> Any:
    """Build the binding's RankHistogramArgs; the kernels of every device take the same."""
    return module.RankHistogramArgs(
        call.dims.data_ptr(),
        len(call.dims),
        call.ids.data_ptr(),
        call.double_rank.data_ptr(),
        len(call.double_rank),
        _address(call.mask),
        call.page_index.data_ptr(),
        call.counts.data_ptr(),
        call.rank_sums.data_ptr(),
        len(call.counts),
    )


def rank_histogram_add(hidden: Tensor, call: RankAddCall) -> None:
    """Run the kernel with torch's number of threads."""
    _run("rank_histogram_add", hidden, rank_add_args(core(), call))


def segment_sums_args(module: Any, call: SegmentSumsCall) -> Any:
    """Build the binding's SegmentSumsArgs; the kernels of every device take the same."""
    return module.SegmentSumsArgs(
        call.order.data_ptr(),
        len(call.order),
        call.starts.data_ptr(),
        len(call.starts) - 1,
        call.read.data_ptr(),
        call.write.data_ptr(),
        call.sums.data_ptr(),
        len(call.sums),
    )


def segment_sums(hidden: Tensor, call: SegmentSumsCall) -> None:
    """Run the kernel with torch's number of threads."""
    _run("segment_sums", hidden, segment_sums_args(core(), call))


def unit_sums(hidden: Tensor, call: UnitSumsCall) -> None:
    """Run the kernel with torch's number of threads."""
    args = core().UnitSumsArgs(
        call.order.data_ptr(),
        len(call.order),
        call.starts.data_ptr(),
        len(call.starts) - 1,
        call.left_out.data_ptr(),
        len(call.left_out),
        call.sums.data_ptr(),
    )
    _run("unit_sums", hidden, args)


def sizes(hidden: Tensor, call: SizesCall) -> None:
    """Run the kernel with torch's number of threads."""
    args = core().SizesArgs(
        call.order.data_ptr(),
        len(call.order),
        call.starts.data_ptr(),
        len(call.starts) - 1,
        call.rms,
        _address(call.largest),
        _address(call.squares),
    )
    _run("sizes", hidden, args)


def comoments(hidden: Tensor, call: ComomentsCall) -> None:
    """Run the kernel with torch's number of threads."""
    args = core().ComomentsArgs(
        call.rows.data_ptr(),
        len(call.rows),
        _address(call.group),
        call.groups,
        call.head.data_ptr(),
        call.body.data_ptr(),
    )
    _run("comoments", hidden, args)


def magnitude_counts_args(module: Any, call: MagnitudeCountsCall) -> Any:
    """Build the binding's MagnitudeCountsArgs; the kernels of every device take the same."""
    group, fresh = call
    return module.MagnitudeCountsArgs(_address(group), len(fresh), fresh.data_ptr())


def magnitude_counts_add(hidden: Tensor, call: MagnitudeCountsCall) -> None:
    """Run the kernel with torch's number of threads."""
    _run("magnitude_counts_add", hidden, magnitude_counts_args(core(), call))


def magnitude_counts_move(fresh: Tensor, counts: Tensor) -> None:
    """Run the kernel with torch's number of threads."""
    module = core()
    args = magnitude_counts_args(module, MagnitudeCountsCall(None, fresh))
    module.magnitude_counts_move(args, fresh.shape[1], counts.data_ptr(), torch.get_num_threads())


def token_shape_args(module: Any, call: TokenShapeCall) -> Any:
    """Build the binding's TokenShapeArgs; the kernels of every device take the same."""
    return module.TokenShapeArgs(*(_address(tensor) for tensor in call))


def token_shape(hidden: Tensor, call: TokenShapeCall) -> None:
    """Run the kernel with torch's number of threads."""
    _run("token_shape", hidden, token_shape_args(core(), call))


def attention_received_args(module: Any, call: AttentionReceivedCall) -> Any:
    """Build the binding's AttentionReceivedArgs; the kernels of every device take the same."""
    query, key, scale, softcap, causal, window, mask, bias, sinks, group, sums, seen, entropy = call
    batch, query_heads, queries, d = query.shape

    def strides(tensor: Tensor | None) -> list[int]:
        return [0, 0, 0] if tensor is None else list(tensor.stride()[:3])

    return module.AttentionReceivedArgs(
        DTYPE_CODES[query.dtype],
        [batch, query_heads, key.shape[1], queries, key.shape[2], d],
        query.data_ptr(),
        strides(query),
        key.data_ptr(),
        strides(key),
        scale,
        softcap,
        causal,
        window,
        _address(mask),
        strides(mask),
        seen.shape[2],
        _address(bias),
        strides(bias),
        _address(sinks),
        _address(group),
        sums.shape[1],
        sums.data_ptr(),
        seen.data_ptr(),
        _address(entropy),
    )


def attention_received(call: AttentionReceivedCall) -> None:
    """Run the kernel with torch's number of threads."""
    module = core()
    module.attention_received(attention_received_args(module, call), torch.get_num_threads())
