"""Histograms of |h| of every dimension by group of rows, with bins that grow with the value.

`outdim.stats.Magnitudes` is the accumulator that keeps them over a stream.
"""

from typing import Any

import torch
from torch import Tensor

from outdim.ops import _cpu
from outdim.ops._binding import core
from outdim.ops._calls import MagnitudeCountsCall
from outdim.ops._check import (
    as_rows,
    as_tensors,
    check_device,
    check_hidden,
    check_tensor,
    check_values,
    group_error,
    group_per_row,
)
from outdim.ops._dispatch import Backend, choose, kernels, via_op
from outdim.ops._library import register
from outdim.ops.layout import MAGNITUDE_BINS, MAGNITUDE_ROOM


def magnitude_counts_empty(groups: int, dims: int, device: torch.device | str = "cpu") -> Tensor:
    """Make room for the histograms of a batch: zeros [G, D, 528] int32.

    The counts are ``[..., :512]``; what stands behind them tells `magnitude_counts_move` on the CPU
    where they are. So the room of one device is for the ops there alone: no sums of two, no copy to
    another device before it was moved.
    """
    return torch.zeros(groups, dims, MAGNITUDE_ROOM, dtype=torch.int32, device=device)


def magnitude_counts_add(
    hidden: Any, fresh: Tensor, *, group: Any = None, backend: Backend = "auto"
) -> None:
    """Count |h| of the rows of a batch in bins, in place.

    Between a power of two and the next there are 16 bins of equal width, from 2^-16 to 2^16: 512
    of them. What is smaller is in the first; what is larger, infinite or NaN in the last. A value
    of float64 is rounded to float32 before. Counts are integers: any order, split and number of
    threads gives the same.

    Args:
        hidden: (..., D) float32, float16, bfloat16 or float64; the leading dimensions are
            flattened to N rows.
        fresh: [G, D, 528] int32, contiguous, as `magnitude_counts_empty` makes it, added to: at
            most 2^31 - 1 rows until `magnitude_counts_move`.
        group: N values, uint8 or bool, of any shape: 0 leaves the row out, g in 1..G counts it in
            ``fresh[g - 1]``. None counts every row in ``fresh[0]``.
        backend: "auto", "cpu", "cuda" or "reference". float64 takes the reference.

    Raises:
        ArgumentError: A wrong shape, or a group above G (on CUDA, where to look would be to wait,
            such a row is left out).
        DtypeError, BackendError: As `moments`.

    Example:
        >>> import torch
        >>> fresh = magnitude_counts_empty(1, 2)
        >>> magnitude_counts_add(torch.tensor([[1.0, 0.0], [-1.03, torch.inf]]), fresh)
        >>> fresh[0, :, :512].nonzero().tolist()  # 1 and 1.03 share the bin of 1 to 1 + 1/16
        [[0, 256], [1, 0], [1, 511]]
    """
    hidden, group = as_tensors(hidden=hidden, group=group)
    add = torch.ops.outdim.magnitude_counts_add if via_op(hidden) else _add
    add(hidden.detach() if isinstance(hidden, Tensor) else hidden, fresh, group, backend)


def magnitude_counts_move(fresh: Tensor, counts: Tensor) -> None:
    """Add the histograms of a batch to those of all, and leave zeros: in place.

    Args:
        fresh: [G, D, 528] int32, as `magnitude_counts_add` has filled it on its device; counts
            that came there otherwise may be left where they are.
        counts: [G, D, 512] int64, contiguous, on the same device.

    Raises:
        ArgumentError, DtypeError: Another shape, dtype or device.
    """
    _check_fresh(fresh, None)
    shape = (*fresh.shape[:2], MAGNITUDE_BINS)
    check_tensor(
        "counts", counts, (torch.int64,), f"contiguous {shape}",
        lambda t: t.shape == shape and t.is_contiguous(),
    )  # fmt: skip
    check_device("counts", counts, "fresh", fresh.device)
    if fresh.is_cpu and core() is not None:
        _cpu.magnitude_counts_move(fresh, counts)
    else:
        counts += fresh[..., :MAGNITUDE_BINS]
        fresh.zero_()


def _check_fresh(fresh: Tensor, dims: int | None) -> None:
    width = "D" if dims is None else dims
    check_tensor(
        "fresh", fresh, (torch.int32,), f"contiguous (G, {width}, {MAGNITUDE_ROOM})",
        lambda t: (
            t.dim() == 3
            and len(t) > 0
            and dims in (None, t.shape[1])
            and t.shape[2] == MAGNITUDE_ROOM
            and t.is_contiguous()
        ),
    )  # fmt: skip


def _prepare(
    hidden: Tensor, fresh: Tensor, group: Tensor | None
) -> tuple[Tensor, MagnitudeCountsCall]:
    check_hidden("hidden", hidden)
    rows = as_rows(hidden)
    _check_fresh(fresh, rows.shape[1])
    check_device("fresh", fresh, "hidden", rows.device)
    return rows, MagnitudeCountsCall(group_per_row(group, len(rows), rows.device), fresh)


def _add(hidden: Tensor, fresh: Tensor, group: Tensor | None, backend: str) -> None:
    check_values(hidden)
    rows, call = _prepare(hidden, fresh, group)
    try:
        kernels(choose(backend, rows)).magnitude_counts_add(rows, call)
    except IndexError as error:
        assert call.group is not None
        raise group_error(call.group, len(fresh)) from error


def _add_fake(hidden: Tensor, fresh: Tensor, group: Tensor | None, backend: str) -> None:
    _prepare(hidden, fresh, group)


register(
    "magnitude_counts_add(Tensor hidden, Tensor(a!) fresh, Tensor? group, str backend) -> ()",
    _add,
    _add_fake,
)
