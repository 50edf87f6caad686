"""Extremes and kurtosis of each row."""

import torch
from torch import Tensor

from outdim.ops._calls import TokenShapeCall
from outdim.ops._reference._parts import BLOCK_VALUES


def token_shape(hidden: Tensor, call: TokenShapeCall) -> None:
    """Write where the extremes of the selected rows are, and their kurtosis."""
    call.smallest.fill_(-1)
    call.largest.fill_(-1)
    call.kurtosis.fill_(torch.nan)
    rows = torch.arange(len(hidden), device=hidden.device)
    if call.group is not None:
        rows = call.group.nonzero().squeeze(1)
    for some in torch.split(rows, max(1, BLOCK_VALUES // hidden.shape[1])):
        values = hidden[some]
        call.smallest[some] = _first_of(values, values.amin(-1))
        call.largest[some] = _first_of(values, values.amax(-1))
        squares = values.double().square()
        call.kurtosis[some] = squares.square().mean(-1) / squares.mean(-1).square() - 3


def _first_of(values: Tensor, wanted: Tensor) -> Tensor:
    """Column of the first value of each row [N, D] that is the wanted one [N], or is NaN as it."""
    there = (values == wanted[:, None]) | values.isnan()
    return there.byte().argmax(-1)
