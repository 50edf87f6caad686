"""How the D values of each token lie: where its extremes are, and its kurtosis."""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from outdim.ops._calls import TokenShapeCall
from outdim.ops._check import as_rows, as_tensors, check_hidden, check_values, group_per_row
from outdim.ops._dispatch import Backend, choose, kernels, via_op
from outdim.ops._library import register


class TokenShape(NamedTuple):
    """Of each of N rows; arrays where `hidden` was one.

    Attributes:
        smallest: [N] int64, dimension of the smallest value; -1 for a row that is left out.
        largest: [N] int64, of the largest.
        kurtosis: [N] float64, mean_j h_j^4 / (mean_j h_j^2)^2 - 3; NaN for a row that is left out,
            of zeros, or with values that are not finite.
    """

    smallest: Any
    largest: Any
    kurtosis: Any


def token_shape(hidden: Any, *, group: Any = None, backend: Backend = "auto") -> TokenShape:
    """Say where the extremes of each row are, and how heavy its tails: kurtosis about zero, less 3.

    Of equal values the first is taken; a NaN is both smallest and largest, as in NumPy. Sums are
    float64.

    Args:
        hidden: (..., D) float32, float16, bfloat16 or float64; the leading dimensions are
            flattened to N rows.
        group: N values, uint8 or bool, of any shape: 0 leaves the row out, which may be NaN. None
            leaves none out.
        backend: "auto", "cpu", "cuda" or "reference". float64 takes the reference.

    Raises:
        ArgumentError, DtypeError, BackendError: As `moments`.

    Source: the kurtosis of OSP (Park et al. 2025), uncentred, of each token.

    Example:
        >>> import torch
        >>> shape = token_shape(torch.tensor([[0.0, -2.0, 0.0, 0.0], [1.0, -1.0, 1.0, -1.0]]))
        >>> shape.smallest.tolist(), shape.largest.tolist(), shape.kurtosis.tolist()
        ([1, 1], [0, 0], [1.0, -2.0])
    """
    given, group = as_tensors(hidden=hidden, group=group)
    if via_op(given):
        return TokenShape(*torch.ops.outdim.token_shape(given.detach(), group, backend))
    shape = _run(given, group, backend)
    if isinstance(hidden, np.ndarray):
        shape = tuple(tensor.numpy() for tensor in shape)
    return TokenShape(*shape)


def _prepare(hidden: Tensor, group: Tensor | None) -> tuple[Tensor, TokenShapeCall]:
    check_hidden("hidden", hidden)
    rows = as_rows(hidden)
    group = group_per_row(group, len(rows), rows.device)
    smallest, largest, kurtosis = (
        torch.empty(len(rows), dtype=dtype, device=rows.device)
        for dtype in (torch.int64, torch.int64, torch.float64)
    )
    return rows, TokenShapeCall(group, smallest, largest, kurtosis)


def _run(hidden: Tensor, group: Tensor | None, backend: str) -> tuple[Any, ...]:
    check_values(hidden)
    rows, call = _prepare(hidden, group)
    kernels(choose(backend, rows)).token_shape(rows, call)
    return call[1:]


def _fake(hidden: Tensor, group: Tensor | None, backend: str) -> tuple[Any, ...]:
    return _prepare(hidden, group)[1][1:]


register(
    "token_shape(Tensor hidden, Tensor? group, str backend) -> (Tensor, Tensor, Tensor)",
    _run,
    _fake,
)
