"""Moments of selected rows, block by block."""

import torch
from torch import Tensor

from outdim.ops._calls import MomentsCall, StatisticsOfRows
from outdim.ops._reference._parts import BLOCK_VALUES, check_index
from outdim.ops._reference.merge import State, empty_state, merge_states


@torch.inference_mode()  # the memory may be of a call in that mode, and is changed in none other
def moments(hidden: Tensor, call: MomentsCall) -> None:
    """Write head and body: block by block of the selected rows, merged in row order."""
    given = call.given
    if given.group is not None:
        check_index(given.group, given.groups + 1, "there is no such group")
    step = max(1, BLOCK_VALUES // hidden.shape[1])
    for g in range(given.groups):
        if given.group is None:
            selected = torch.arange(hidden.shape[0], device=hidden.device)
        else:
            selected = (given.group == g + 1).nonzero().squeeze(1)
        state: State | None = None
        if call.before_head is not None and call.before_body is not None:
            state = call.before_head[g], call.before_body[g]
        these: State | None = None
        for rows in torch.split(selected, step):  # once where none is selected
            covariates = _covariates(given, rows)
            block = _block_moments(hidden[rows].double(), covariates, given.tau, given.shape)
            these = block if these is None else merge_states(these, block, given.shape)
        assert these is not None
        call.head[g], call.body[g] = (
            these if state is None else merge_states(state, these, given.shape)
        )


def _covariates(given: StatisticsOfRows, rows: Tensor) -> Tensor:
    """Gather the covariates [K, n] of selected rows: those of the table first."""
    found = []
    if given.table is not None and given.ids is not None:
        ids = given.ids[rows]
        check_index(ids, given.table.shape[1], "an id is outside the table")
        found.append(given.table[:, ids])
    if given.rows is not None:
        found.append(given.rows[:, rows])
    if not found:
        return torch.empty(0, len(rows), dtype=torch.float64, device=rows.device)
    return torch.cat(found)


def _block_moments(h: Tensor, x: Tensor, tau: float, shape: bool) -> tuple[Tensor, Tensor]:
    """Two-pass moments of rows [n, D] float64 against covariates [K, n] float64."""
    n = h.shape[0]
    if not n:
        return empty_state(len(x), h.shape[1], shape, h.device)
    x_mean, x = centre(x.T)
    mean, deviation = centre(h)
    mean_abs, deviation_abs = centre(h.abs())
    squares = deviation.square()
    body = [mean, squares.sum(0), mean_abs, deviation_abs.square().sum(0)]
    body += [*(x.T @ deviation), *(x.T @ deviation_abs)]
    if shape:
        minimum = h.nan_to_num(nan=torch.inf, posinf=torch.inf, neginf=-torch.inf).amin(0)
        maximum = h.nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf).amax(0)
        norm = h.square().sum(1)
        usable = (norm.isfinite() & (norm > 0)).nonzero().squeeze(1)
        body += [
            (squares * deviation).sum(0),
            squares.square().sum(0),
            minimum,
            maximum,
            (h.abs() >= tau).sum(0).double(),
            (h[usable] / norm[usable].sqrt()[:, None]).sum(0),
            (~h.isfinite()).sum(0).double(),
        ]
    head = torch.cat([h.new_full((1,), n), x_mean, x.square().sum(0)])
    return head, torch.stack(body)


def centre(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return the column means of [n, D] and the deviations from them.

    The mean is taken about the first row: a constant column has deviations of exactly zero.
    """
    shifted = values - values[0]
    shift = shifted.mean(0)
    deviation = shifted - shift
    bad = ~values.isfinite().all(0)
    mean = (values[0] + shift).masked_fill(bad, torch.nan)
    return mean, deviation.masked_fill(bad, torch.nan)
