"""Pearson's r of every dimension with token frequency: torch, torchmetrics, NumPy, SciPy, outdim.

First the case that `outdim correlate` has; then, with one covariate and nothing else, of hidden
states in memory and of the output of a LayerNorm from one pass.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import common
import numpy as np
import torch
from outdim.bench.correlate import correlate_case
from outdim.bench.inputs import Inputs, check_r
from outdim.bench.moments import fused_case, moments_case
from outdim.bench.timing import Case, Variant
from torch import Tensor

_CORRCOEF_COLUMNS = 1024  # it makes the whole matrix [D, D]


def cases(inputs: Inputs, threads: int) -> list[Case]:
    alone = moments_case(inputs, threads)
    if threads == 1 and inputs.hidden.dtype == torch.float32:  # all else costs them minutes more
        alone = replace(alone, variants=[*alone.variants, *_libraries(inputs)])
    return [correlate_case(inputs, threads), alone, fused_case(inputs, threads)]


def _libraries(inputs: Inputs) -> list[Variant]:
    """Their accuracy is printed, not asserted: torchmetrics keeps float32 sums."""

    def variant(name: str, run: Callable[[], Tensor]) -> Variant:
        return Variant(name, run, lambda r: check_r(r, inputs.hidden, inputs, tolerance=np.inf))

    found = []
    if _has("torchmetrics"):
        found.append(variant("torchmetrics, h and |h|", lambda: _torchmetrics(inputs)))
    if not inputs.hidden.is_cuda:
        if _has("scipy"):
            found.append(variant("scipy pearsonr, h and |h|", lambda: _scipy(inputs)))
        if inputs.hidden.shape[1] <= _CORRCOEF_COLUMNS:
            found.append(variant("np.corrcoef, h only", lambda: _corrcoef(inputs)))
    return found


def _torchmetrics(inputs: Inputs) -> Tensor:
    from torchmetrics.functional import pearson_corrcoef

    h = inputs.hidden.float()
    target = inputs.frequency.float()[:, None].expand_as(h)
    return torch.stack([pearson_corrcoef(values, target) for values in (h, h.abs())])


def _scipy(inputs: Inputs) -> Tensor:
    from scipy.stats import pearsonr

    h, f = inputs.hidden.double().numpy(), inputs.frequency.numpy()[:, None]
    return torch.stack(
        [torch.from_numpy(pearsonr(values, f, axis=0).statistic) for values in (h, np.abs(h))]
    )


def _corrcoef(inputs: Inputs) -> Tensor:
    h, f = inputs.hidden.double().numpy(), inputs.frequency.numpy()
    return torch.from_numpy(np.corrcoef(h, f, rowvar=False)[-1:, :-1])


def _has(package: str) -> bool:
    from importlib.util import find_spec

    return find_spec(package) is not None


if __name__ == "__main__":
    common.run("moments", common.options(__doc__), cases)
