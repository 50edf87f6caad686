"""Spearman's rho of chosen dimensions with token frequency: SciPy, sorting in torch, outdim."""

from __future__ import annotations

import common
import torch
from outdim.bench.inputs import VOCABULARY, Inputs
from outdim.bench.timing import Case, Variant
from outdim.stats import RankHistogram
from torch import Tensor

_WIDTH = {"cpu": 768, "cuda": 1024}
_FEW = 64  # dimensions
_SCIPY_DIMS = 8  # that a result is compared in


def cases(inputs: Inputs, threads: int) -> list[Case]:
    """A few dimensions, then all; SciPy takes seconds for the latter."""
    D = inputs.hidden.shape[1]
    if inputs.hidden.dtype == torch.float32 or _WIDTH[inputs.hidden.device.type] != D:
        return []
    return [_case(inputs, threads, _FEW, scipy=True), _case(inputs, threads, D, scipy=False)]


def _case(inputs: Inputs, threads: int, columns: int, scipy: bool) -> Case:
    hidden, ids = inputs.hidden, inputs.ids
    D = hidden.shape[1]
    dims = torch.arange(0, D, D // columns)[:columns]
    counts = torch.bincount(ids.cpu(), minlength=VOCABULARY)
    of_rows = counts[ids.cpu()].to(hidden.device)

    def ours() -> Tensor:
        histogram = RankHistogram(dims, counts).update(hidden, ids)
        return histogram.compute().spearman()

    def by_torch() -> Tensor:
        ranks = _mid_ranks(hidden[:, dims].float().T.contiguous())
        return _pearson(ranks, _mid_ranks(of_rows.float()[None]))

    def by_scipy() -> Tensor:
        return _scipy(hidden, of_rows, dims)

    exact = _scipy(hidden, of_rows, dims[:_SCIPY_DIMS])

    def check(rho: Tensor) -> dict[str, float]:
        error = float((rho[: len(exact)].cpu() - exact).abs().max())
        assert error <= 1e-12, f"the error of rho is {error:.1e}, expected at most 1e-12"
        return {"error_r": error}

    grown = RankHistogram(dims, counts).update(hidden, ids)
    variants = [
        Variant("outdim", ours, check, role="ours"),
        Variant("outdim, update alone", lambda: grown.update(hidden, ids), lambda _: {}),
        Variant("torch, sort and searchsorted", by_torch, check),
    ]
    if scipy:
        variants.append(Variant("scipy spearmanr", by_scipy, check))
    moved = 2 * len(hidden) * len(dims) + 8 * len(hidden)
    return Case("rank_histogram", hidden, threads, moved, "read", variants, {"S": len(dims)})


def _scipy(hidden: Tensor, of_rows: Tensor, dims: Tensor) -> Tensor:
    from scipy.stats import spearmanr

    columns, f = hidden[:, dims].float().cpu().numpy(), of_rows.cpu().numpy()
    return torch.tensor([spearmanr(column, f).statistic for column in columns.T])


def _mid_ranks(rows: Tensor) -> Tensor:
    """Ranks from 1 within each row, equal values sharing their mean, float64."""
    ordered = rows.sort(1).values
    below = torch.searchsorted(ordered, rows)
    return (below + torch.searchsorted(ordered, rows, right=True) + 1).double() / 2


def _pearson(x: Tensor, y: Tensor) -> Tensor:
    x, y = x - x.mean(1, keepdim=True), y - y.mean(1, keepdim=True)
    return (x * y).sum(1) / ((x * x).sum(1) * (y * y).sum(1)).sqrt()


if __name__ == "__main__":
    common.run("rank_histogram", common.options(__doc__), cases)
