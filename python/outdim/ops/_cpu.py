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
    NormOfRows,
    RankAddCall,
    RankTouchCall,
    SegmentSumsCall,
    SizesCall,
    StatisticsOfRows,
    TokenShapeCall,
    UnitSumsCall,
)


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def statistics_args(module: Any, given: StatisticsOfRows) -> Any:
    """Build the binding's MomentsArgs without its states, unless that was prepared."""
    ids, table, rows, group, groups, tau, exact, shape, native = given
    if native is not None:
        return native
    table_covariates, vocab = (0, 0) if table is None else table.shape
    return module.MomentsArgs(
        _address(ids),
        _address(table),
        vocab,
        table_covariates,
        _address(rows),
        0 if rows is None else rows.shape[0],
        _address(group),
        groups,
        tau,
        exact,
        shape,
    )


def state_addresses(call: MomentsCall) -> tuple[int, int, int, int]:
    """Where the states before and after a call are, head and body; 0: none."""
    _, before_head, before_body, head, body = call
    return (
        0 if before_head is None else before_head.data_ptr(),
        0 if before_body is None else before_body.data_ptr(),
        head.data_ptr(),
        body.data_ptr(),
    )


def norm_args(module: Any, norm: NormOfRows, dtype: torch.dtype, d: int) -> Any:
    """Build the binding's LayerNormArgs without its rows, unless that was prepared."""
    gamma, beta, eps, rms, dim_mask, scale, shift, clip, variant, each, native = norm
    if native is not None:
        return native
    parameter = beta if gamma is None else gamma
    return module.LayerNormArgs(
        DTYPE_CODES[dtype],
        d,
        0 if parameter is None else DTYPE_CODES[parameter.dtype],
        _address(gamma),
        _address(beta),
        eps,
        rms,
        _address(dim_mask),
        _address(scale),
        _address(shift),
        _address(clip),
        _address(variant),
        0 if scale is None else scale.shape[0],
        each,
    )


def rows_of_norm(call: LayerNormCall) -> tuple[int, ...]:
    """N, and where x, residual, sum and y are, with the elements between their rows; 0: none."""
    _, x, residual, s, y = call
    shape = x.shape
    if len(shape) == 2:
        n, stride, y_stride = shape[0], x.stride(0), y.stride(0)
        residual_stride = 0 if residual is None else residual.stride(0)
    else:
        stride = residual_stride = y_stride = shape[-1]
        n = x.numel() // stride
    return (
        n,
        x.data_ptr(),
        stride,
        0 if residual is None else residual.data_ptr(),
        residual_stride,
        0 if s is None else s.data_ptr(),
        y.data_ptr(),
        y_stride,
    )


def view_of(hidden: Tensor) -> tuple[int, int, int, int, int]:
    """Address, dtype, N, D and stride of rows: of a matrix, or contiguous ones of any shape."""
    shape = hidden.shape
    d = shape[-1]
    n, stride = (shape[0], hidden.stride(0)) if len(shape) == 2 else (hidden.numel() // d, d)
    return hidden.data_ptr(), DTYPE_CODES[hidden.dtype], n, d, stride


def hidden_view(module: Any, hidden: Tensor) -> Any:
    """Build the binding's HiddenView of rows."""
    return module.HiddenView(*view_of(hidden))


def _run(name: str, hidden: Tensor, args: Any, *more: int) -> None:
    """Run a kernel over a matrix of rows with torch's number of threads."""
    module = core()
    getattr(module, name)(hidden_view(module, hidden), args, *more, torch.get_num_threads())


def layer_norm(call: LayerNormCall, stats: MomentsCall | None, of_input: bool) -> None:
    """Run the kernel with torch's number of threads; `stats` is filled from the same pass."""
    module, x = core(), call.x
    module.layer_norm(
        norm_args(module, call.norm, x.dtype, x.shape[-1]),
        *rows_of_norm(call),
        None if stats is None else statistics_args(module, stats.given),
        *((0, 0, 0, 0) if stats is None else state_addresses(stats)),
        0 if of_input else 1,
        torch.get_num_threads(),
    )


def moments(hidden: Tensor, call: MomentsCall) -> None:
    """Run the kernel with torch's number of threads."""
    module = core()
    module.moments(
        statistics_args(module, call.given),
        *state_addresses(call),
        *view_of(hidden),
        torch.get_num_threads(),
    )


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


def _segments(order: Tensor, starts: Tensor) -> tuple[int, int, int, int]:
    """Where the rows by segment and their edges are, each with how many there are."""
    return order.data_ptr(), len(order), starts.data_ptr(), len(starts) - 1


def segment_sums_args(module: Any, call: SegmentSumsCall) -> Any:
    """Build the binding's SegmentSumsArgs; the kernels of every device take the same."""
    return module.SegmentSumsArgs(
        *_segments(call.order, call.starts),
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
        *_segments(call.order, call.starts),
        call.left_out.data_ptr(),
        len(call.left_out),
        call.sums.data_ptr(),
    )
    _run("unit_sums", hidden, args)


def sizes(hidden: Tensor, call: SizesCall) -> None:
    """Run the kernel with torch's number of threads."""
    args = core().SizesArgs(
        *_segments(call.order, call.starts),
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
