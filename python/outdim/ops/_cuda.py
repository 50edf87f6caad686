"""Addresses, sizes, workspace and stream for the CUDA kernels of the compiled module.

Workspaces come from torch's allocator and kernels run on torch's current stream: nothing waits for
the device, and a call can be captured in a CUDA graph.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from outdim.errors import BackendError
from outdim.ops._binding import core
from outdim.ops._calls import (
    AttentionReceivedCall,
    ComomentsCall,
    LayerNormCall,
    MagnitudeCountsCall,
    MomentsCall,
    RankAddCall,
    RankTouchCall,
    SegmentSumsCall,
    TokenShapeCall,
)
from outdim.ops._cpu import (
    attention_received_args,
    hidden_view,
    magnitude_counts_args,
    norm_args,
    rank_add_args,
    rank_touch_args,
    rows_of_norm,
    segment_sums_args,
    state_addresses,
    statistics_args,
    token_shape_args,
)
from outdim.ops._reference.comoments import comoments_by


def _context(module: Any, device: torch.device, workspace: Tensor | None = None) -> Any:
    return module.CudaContext(
        device.index,
        torch.cuda.current_stream(device).cuda_stream,
        0 if workspace is None else workspace.data_ptr(),
    )


def _workspace(module: Any, hidden: Tensor, args: Any) -> Tensor:
    # Its addresses may be reused as soon as the kernels are queued: reuse is ordered by the stream.
    d = hidden.shape[-1]
    size = module.cuda_workspace_bytes(hidden.numel() // d, d, args, hidden.device.index)
    return torch.empty(size, dtype=torch.uint8, device=hidden.device)


@contextmanager
def _out_of_memory() -> Iterator[None]:
    """Raise what torch raises where the device's memory is full: callers try again with less."""
    try:
        yield
    except MemoryError as error:
        raise torch.OutOfMemoryError(
            "CUDA out of memory in a launch of an outdim kernel; use smaller batches"
        ) from error


def _queue(name: str, hidden: Tensor, args: Any, *more: int) -> None:
    """Queue a kernel over a matrix of rows."""
    module = core()
    context = _context(module, hidden.device)
    with _out_of_memory():
        getattr(module, f"cuda_{name}")(hidden_view(module, hidden), args, *more, context)


def _moments_args(module: Any, call: MomentsCall) -> Any:
    return statistics_args(module, call.given).with_state(*state_addresses(call))


def layer_norm(call: LayerNormCall, stats: MomentsCall | None, of_input: bool) -> None:
    """Queue the kernels; `stats` is taken of the tensor just stored, which is still in the cache.

    The norms of its rows, which statistics of shape need, come from the kernel that stores them.
    """
    module = core()
    if stats is not None and of_input and call.residual is not None and call.sum is None:
        call = call._replace(
            sum=torch.empty(call.x.shape, dtype=call.x.dtype, device=call.x.device)
        )
    d = call.x.shape[-1]
    norm = norm_args(module, call.norm, call.x.dtype, d).with_rows(*rows_of_norm(call))
    args = None if stats is None else _moments_args(module, stats)
    workspace = None if args is None else _workspace(module, call.x, args)
    context = _context(module, call.x.device, workspace)
    if d > (widest := module.cuda_max_norm_width(context)):
        raise BackendError(
            f"x: expected at most {widest} columns on this device, got {d}; "
            'pass backend="reference"'
        )
    with _out_of_memory():
        module.cuda_layer_norm(norm, args, int(not of_input), context)


def moments(hidden: Tensor, call: MomentsCall) -> None:
    """Queue the kernels. An id outside the table makes the moments of its covariate NaN."""
    module = core()
    args = _moments_args(module, call)
    workspace = _workspace(module, hidden, args)
    context = _context(module, hidden.device, workspace)
    with _out_of_memory():
        module.cuda_moments(hidden_view(module, hidden), args, context)


def comoments(hidden: Tensor, call: ComomentsCall) -> None:
    """Queue the kernel of all moments, of which this is a part."""
    comoments_by(moments, hidden, call)


def rank_histogram_touch(hidden: Tensor, call: RankTouchCall) -> None:
    """Queue the kernel."""
    args = rank_touch_args(core(), call)
    _queue("rank_histogram_touch", hidden, args, call.touched.data_ptr())


def rank_histogram_add(hidden: Tensor, call: RankAddCall) -> None:
    """Queue the kernel. Rows whose id is outside `double_rank` are left out."""
    _queue("rank_histogram_add", hidden, rank_add_args(core(), call))


def segment_sums(hidden: Tensor, call: SegmentSumsCall) -> None:
    """Queue the kernel. What names a row outside of hidden or sums is left out."""
    _queue("segment_sums", hidden, segment_sums_args(core(), call))


def magnitude_counts_add(hidden: Tensor, call: MagnitudeCountsCall) -> None:
    """Queue the kernel. A row whose group is above the number of groups is left out."""
    _queue("magnitude_counts_add", hidden, magnitude_counts_args(core(), call))


def token_shape(hidden: Tensor, call: TokenShapeCall) -> None:
    """Queue the kernel."""
    _queue("token_shape", hidden, token_shape_args(core(), call))


def attention_received(call: AttentionReceivedCall) -> None:
    """Queue the kernels. A query whose group is above the number of groups is left out."""
    module, device = core(), call.query.device
    args = attention_received_args(module, call)
    size = module.cuda_attention_workspace_bytes(args)
    workspace = torch.empty(size, dtype=torch.uint8, device=device)
    with _out_of_memory():
        module.cuda_attention_received(args, _context(module, device, workspace))
