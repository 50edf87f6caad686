"""How large each dimension gets in each sequence, and what a norm divides each token by."""

from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from outdim.errors import ArgumentError
from outdim.ops._calls import SizesCall
from outdim.ops._check import (
    as_rows,
    as_tensors,
    check_hidden,
    check_segments,
    check_values,
)
from outdim.ops._dispatch import Backend, choose, kernels, via_op
from outdim.ops._library import register

#: Which mean squares are about: that of the row, as LayerNorm has it, or 0, as RMSNorm has it.
Squares = Literal["layer_norm", "rms_norm"]


class Sizes(NamedTuple):
    """Sizes of N rows in S segments; arrays where `hidden` was one.

    Attributes:
        largest: [S, D], the largest |h| of each segment and dimension, 0 without rows: float32,
            which holds it exactly, float64 of float64 states. None where it was not asked for.
        squares: [N, 2] float64: the mean over dimensions (0 for RMSNorm) and the sum of squared
            deviations from it; 0 for rows of no segment. None where it was not asked for.
    """

    largest: Any
    squares: Any


def sizes(
    hidden: Any,
    order: Any,
    starts: Any,
    *,
    largest: bool = True,
    squares: Squares | None = None,
    backend: Backend = "auto",
) -> Sizes:
    """Find the largest |h| of each segment and dimension, and what norms divide rows by.

    Rows of no segment are not looked at. A NaN makes the largest of its segment and dimension NaN,
    and the squares of its row. On the CPU it is one walk over the rows, with the same bytes for any
    number of threads; CUDA tensors take the reference there.

    Args:
        hidden: (..., D) float32, float16, bfloat16 or float64, N rows.
        order: [M] int64, each row at most once, and
        starts: [S + 1] int64, as `segments` gives them.
        largest: Whether to find the largest.
        squares: Mean and squares as ``"layer_norm"`` or ``"rms_norm"`` has them; None for none.
        backend: "auto", "cpu", "cuda" or "reference"; "cuda" is the reference on CUDA.

    Raises:
        ArgumentError, DtypeError, BackendError: As `moments`, another word for ``squares``, and an
            index outside of `hidden` or `order`.

    Example:
        >>> import torch
        >>> from outdim.ops import segments
        >>> hidden = torch.tensor([[1.0, 3.0], [-2.0, 2.0]])
        >>> found = sizes(hidden, *segments(torch.tensor([0, 0]), 1), squares="layer_norm")
        >>> found.largest.tolist(), found.squares.tolist()
        ([[2.0, 3.0]], [[2.0, 2.0], [0.0, 8.0]])
    """
    given, order, starts = as_tensors(hidden=hidden, order=order, starts=starts)
    if squares not in (None, "layer_norm", "rms_norm"):
        raise ArgumentError(f'squares: expected "layer_norm", "rms_norm" or None, got {squares!r}')
    run = torch.ops.outdim.sizes if via_op(given) else _run
    given = given.detach() if isinstance(given, Tensor) else given
    wanted = squares is not None
    found = run(given, order, starts, largest, wanted, squares == "rms_norm", backend)
    if isinstance(hidden, np.ndarray):
        found = tuple(part.numpy() for part in found)
    return Sizes(found[0] if largest else None, found[1] if wanted else None)


def _prepare(
    hidden: Tensor, order: Tensor, starts: Tensor, largest: bool, squares: bool, rms: bool
) -> tuple[Tensor, SizesCall]:
    check_hidden("hidden", hidden)
    rows = as_rows(hidden)
    check_segments(order, starts, rows.device)
    kind = torch.float64 if rows.dtype == torch.float64 else torch.float32
    size = starts.shape[0] - 1, rows.shape[1]
    return rows, SizesCall(
        order.contiguous(),
        starts.contiguous(),
        rms,
        rows.new_empty(size, dtype=kind) if largest else None,
        rows.new_zeros(rows.shape[0], 2, dtype=torch.float64) if squares else None,
    )


def _given(rows: Tensor, call: SizesCall) -> tuple[Tensor, Tensor]:
    """An op gives tensors: empty ones for what was not asked for."""
    largest = rows.new_empty(0) if call.largest is None else call.largest
    return largest, rows.new_empty(0) if call.squares is None else call.squares


def _run(
    hidden: Tensor,
    order: Tensor,
    starts: Tensor,
    largest: bool,
    squares: bool,
    rms: bool,
    backend: str,
) -> tuple[Tensor, Tensor]:
    check_values(hidden)
    rows, call = _prepare(hidden, order, starts, largest, squares, rms)
    chosen = choose(backend, rows)
    try:
        kernels("cpu" if chosen == "cpu" else "reference").sizes(rows, call)
    except IndexError as error:
        raise ArgumentError(f"order or starts: {error}") from error
    return _given(rows, call)


def _fake(
    hidden: Tensor,
    order: Tensor,
    starts: Tensor,
    largest: bool,
    squares: bool,
    rms: bool,
    backend: str,
) -> tuple[Tensor, Tensor]:
    return _given(*_prepare(hidden, order, starts, largest, squares, rms))


register(
    "sizes(Tensor hidden, Tensor order, Tensor starts, bool largest, bool squares, bool rms, "
    "str backend) -> (Tensor, Tensor)",
    _run,
    _fake,
)
