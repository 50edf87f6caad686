"""Sums of h, |h| and h^2 of the rows of a batch by segment: what a table of types is made of.

`outdim.stats.TypeTable` is the accumulator that keeps such a table over a stream.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from outdim.errors import ArgumentError
from outdim.ops._calls import SegmentSumsCall
from outdim.ops._check import (
    as_rows,
    as_tensor,
    as_tensors,
    check_device,
    check_hidden,
    check_segments,
    check_tensor,
    describe,
)
from outdim.ops._dispatch import Backend, choose, kernels, via_op
from outdim.ops._library import register

#: Rows of a segment in the table: sums of h, of |h| and of h^2.
SUM_ROWS = 3


class Segments(NamedTuple):
    """The rows of a batch, sorted by segment.

    Attributes:
        order: [N] int64, rows by segment, in each in their own order; those of none come last.
        starts: [S + 1] int64: segment s is ``order[starts[s] : starts[s + 1]]``.
    """

    order: Tensor
    starts: Tensor


def segments(segment: Any, count: int) -> Segments:
    """Sort the rows of a batch by segment, once for all the tensors that have these rows.

    Args:
        segment: N values, int64, of any shape; what is outside [0, count) is of no segment.
        count: Number of segments S.

    Raises:
        ArgumentError, DtypeError: Another dtype, or a negative count.

    Example:
        >>> import torch
        >>> order, starts = segments(torch.tensor([1, 0, -1, 1]), 2)
        >>> order.tolist(), starts.tolist()
        ([1, 0, 3, 2], [0, 1, 3])
    """
    segment = as_tensor("segment", segment)
    check_tensor("segment", segment, (torch.int64,), "N values", lambda t: True)
    if count < 0:
        raise ArgumentError(f"count: expected a number of segments, got {count}")
    segment = segment.reshape(-1)
    segment = torch.where((segment >= 0) & (segment < count), segment, count)
    ordered, order = segment.sort(stable=True)
    edges = torch.arange(count + 1, device=segment.device)
    return Segments(order, torch.searchsorted(ordered, edges))


def segment_sums(
    hidden: Any,
    order: Any,
    starts: Any,
    sums: Tensor,
    *,
    read: Any = None,
    write: Any = None,
    backend: Backend = "auto",
) -> None:
    """Add the rows of a batch to sums of h, |h| and h^2 by segment, in place.

    sums[write[s]] = sums[read[s]] + sum over rows i of segment s of (h_i, |h_i|, h_i^2). All of it
    is float64 after the load, where the square of a value of 32 bits or less is exact. A segment
    without rows in this batch is not touched.

    On the CPU each sum is one chain of additions in the order of the rows: the same bytes for any
    number of threads and for any split of the rows into calls. On CUDA the same call gives the same
    bytes. NaN and infinity go their way into the sums of their segment and dimension.

    Args:
        hidden: (..., D) float32, float16, bfloat16 or float64, N rows.
        order: [M] int64 and
        starts: [S + 1] int64, as `segments` gives them.
        sums: [R, 3, D] float64, contiguous.
        read: [S] int64, the row of `sums` that each segment goes on from, -1 for zeros; None: row
            s.
        write: [S] int64, the row that gets the result; None: row s. Reading one row and writing
            another leaves the state before the batch as it was. Rows that are written must differ
            from each other and from what other segments read.
        backend: "auto", "cpu", "cuda" or "reference".

    Raises:
        ArgumentError, DtypeError, BackendError: As `moments`; on the CPU also an index outside of
            `hidden`, `order` or `sums`, and a row that is written twice. On CUDA, where to look
            would be to wait, what such an index names is left out.

    Example:
        >>> import torch
        >>> sums = torch.zeros(2, 3, 1, dtype=torch.float64)
        >>> hidden, segment = torch.tensor([[1.0], [-2.0], [5.0]]), torch.tensor([0, 0, 1])
        >>> segment_sums(hidden, *segments(segment, 2), sums)
        >>> sums.squeeze().tolist()
        [[-1.0, 3.0, 5.0], [5.0, 5.0, 25.0]]
    """
    hidden, order, starts, read, write = as_tensors(
        hidden=hidden, order=order, starts=starts, read=read, write=write
    )
    add = torch.ops.outdim.segment_sums if via_op(hidden) else _add
    add(hidden.detach() if isinstance(hidden, Tensor) else hidden, order, starts, sums, read, write,
        backend)  # fmt: skip


def _prepare(
    hidden: Tensor,
    order: Tensor,
    starts: Tensor,
    sums: Tensor,
    read: Tensor | None,
    write: Tensor | None,
) -> tuple[Tensor, SegmentSumsCall]:
    check_hidden("hidden", hidden)
    rows = as_rows(hidden)
    check_segments(order, starts, rows.device)
    width = rows.shape[1]
    check_tensor(
        "sums", sums, (torch.float64,), f"contiguous (R, {SUM_ROWS}, {width})",
        lambda t: t.dim() == 3 and t.shape[1:] == (SUM_ROWS, width) and t.is_contiguous(),
    )  # fmt: skip
    count = starts.shape[0] - 1
    if (read is None or write is None) and sums.shape[0] < count:
        raise ArgumentError(
            f"sums: expected a row for each of the {count} segments, or `read` and `write`, got "
            f"{describe(sums)}"
        )
    rows_of = torch.arange(count, device=rows.device)
    read = rows_of if read is None else read
    write = rows_of if write is None else write
    for name, value in (("read", read), ("write", write)):
        check_tensor(name, value, (torch.int64,), f"({count},)", lambda t: t.shape == (count,))
    call = SegmentSumsCall(
        order.contiguous(), starts.contiguous(), read.contiguous(), write.contiguous(), sums
    )
    for name, tensor in zip(call._fields, call, strict=True):
        check_device(name, tensor, "hidden", rows.device)
    return rows, call


def _add(
    hidden: Tensor,
    order: Tensor,
    starts: Tensor,
    sums: Tensor,
    read: Tensor | None,
    write: Tensor | None,
    backend: str,
) -> None:
    rows, call = _prepare(hidden, order, starts, sums, read, write)
    try:
        kernels(choose(backend, rows)).segment_sums(rows, call)
    except IndexError as error:
        raise ArgumentError(f"order, starts, read or write: {error}") from error


def _add_fake(*arguments: Any) -> None:
    _prepare(*arguments[:-1])


register(
    "segment_sums(Tensor hidden, Tensor order, Tensor starts, Tensor(a!) sums, Tensor? read, "
    "Tensor? write, str backend) -> ()",
    _add,
    _add_fake,
)
