"""Sums of unit vectors of rows by segment: what the cosines of all pairs are made of.

`outdim.stats.unit_sums` is the accumulator that keeps such sums over a stream.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from outdim.errors import ArgumentError
from outdim.ops._calls import UnitSumsCall
from outdim.ops._check import (
    as_rows,
    as_tensors,
    check_device,
    check_hidden,
    check_segments,
    check_tensor,
    check_values,
)
from outdim.ops._dispatch import Backend, choose, kernels, via_op
from outdim.ops._library import register

#: Sums of a segment: of u = h / ||h||, of u^2, and of both without the dimensions left out.
UNIT_ROWS = 4


def unit_sums(
    hidden: Any,
    order: Any,
    starts: Any,
    *,
    left_out: Any = None,
    backend: Backend = "auto",
) -> Any:
    """Sum the unit vectors of the rows of each segment, with and without some dimensions.

    u_i = h_i / ||h_i||, v_i = h'_i / ||h'_i|| where h' is h with the dimensions left out put to 0:
    sums[s] = sum over rows i of segment s of (u_i, u_i^2, v_i, v_i^2). All of it is float64 after
    the load. The mean cosine over all pairs of rows follows from it (Timkey and van Schijndel
    2021): sum_ij cos(h_i, h_j) = ||sum_i u_i||^2.

    A row of norm 0 counts as zeros. A row that is not finite makes the sums of its segment NaN, in
    v only where what is not finite is not left out.

    On the CPU rows are read once, and the bytes are the same for any number of threads; CUDA
    tensors take the reference there, products of matrices in float64.

    Args:
        hidden: (..., D) float32, float16, bfloat16 or float64, N rows.
        order: [M] int64 and
        starts: [S + 1] int64, as `segments` gives them.
        left_out: [L] int64, dimensions; None for none.
        backend: "auto", "cpu", "cuda" or "reference"; "cuda" is the reference on CUDA.

    Returns:
        [S, 4, D] float64, zeros for a segment without rows; an array where `hidden` was one.

    Raises:
        ArgumentError, DtypeError, BackendError: As `moments`, and an index outside of `hidden`,
            `order` or D.

    Example:
        >>> import torch
        >>> from outdim.ops import segments
        >>> hidden = torch.tensor([[4.0, 0.0], [0.0, 2.0]])
        >>> order, starts = segments(torch.tensor([0, 0]), 1)
        >>> unit_sums(hidden, order, starts, left_out=torch.tensor([1]))[0].tolist()
        [[1.0, 1.0], [1.0, 1.0], [1.0, 0.0], [1.0, 0.0]]
    """
    given, order, starts, left_out = as_tensors(
        hidden=hidden, order=order, starts=starts, left_out=left_out
    )
    run = torch.ops.outdim.unit_sums if via_op(given) else _run
    given = given.detach() if isinstance(given, Tensor) else given
    found = run(given, order, starts, left_out, backend)
    return found.numpy() if isinstance(hidden, np.ndarray) else found


def _prepare(
    hidden: Tensor, order: Tensor, starts: Tensor, left_out: Tensor | None
) -> tuple[Tensor, UnitSumsCall]:
    check_hidden("hidden", hidden)
    rows = as_rows(hidden)
    if left_out is None:
        left_out = torch.zeros(0, dtype=torch.int64, device=rows.device)
    check_segments(order, starts, rows.device)
    check_tensor("left_out", left_out, (torch.int64,), "(L,)", lambda t: t.dim() == 1)
    check_device("left_out", left_out, "hidden", rows.device)
    size = starts.shape[0] - 1, UNIT_ROWS, rows.shape[1]
    return rows, UnitSumsCall(
        order.contiguous(),
        starts.contiguous(),
        left_out.contiguous(),
        torch.empty(size, dtype=torch.float64, device=rows.device),
    )


def _run(
    hidden: Tensor, order: Tensor, starts: Tensor, left_out: Tensor | None, backend: str
) -> Tensor:
    check_values(hidden)
    rows, call = _prepare(hidden, order, starts, left_out)
    chosen = choose(backend, rows)
    try:
        kernels("cpu" if chosen == "cpu" else "reference").unit_sums(rows, call)
    except IndexError as error:
        raise ArgumentError(f"order, starts or left_out: {error}") from error
    return call.sums


def _fake(
    hidden: Tensor, order: Tensor, starts: Tensor, left_out: Tensor | None, backend: str
) -> Tensor:
    return _prepare(hidden, order, starts, left_out)[1].sums


register(
    "unit_sums(Tensor hidden, Tensor order, Tensor starts, Tensor? left_out, str backend) "
    "-> Tensor",
    _run,
    _fake,
)
