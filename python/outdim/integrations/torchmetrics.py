"""A torchmetrics metric: Pearson correlation of many outputs, masked, in float64, mergeable."""

from typing import Any

import torch
from torch import Tensor

from outdim import ops
from outdim.errors import ArgumentError, BackendError
from outdim.ops._check import check_hidden, check_tensor, describe
from outdim.ops._reference.merge import merged_comoment, merged_mean
from outdim.ops._reference.moments import centre

try:
    from torchmetrics import Metric
except ImportError as error:
    raise BackendError(
        "torchmetrics: outdim.integrations.torchmetrics needs the package torchmetrics, which is "
        "not installed; install it with `pip install torchmetrics`"
    ) from error

_N, _MEAN_X, _MEAN_Y, _M2_X, _M2_Y, _C = range(6)


class PearsonCorrCoef(Metric):  # type: ignore[misc]
    """Pearson's r of each of D outputs with one target, or with a target of its own.

    What it adds to torchmetrics.PearsonCorrCoef: a mask, one target shared by all outputs (taken
    in a single pass by the kernel of `outdim.ops.moments`), float64 sums of deviations (errors of
    1e-12 where float32 sums are wrong in the third digit), and a state that merges by Chan's
    formula in the order of the ranks, so that it reduces over processes and by `merge_state`.
    An output or a target that is constant, or holds a value that is not finite, gives NaN.

    >>> import torch
    >>> metric = PearsonCorrCoef(num_outputs=2)
    >>> preds = torch.tensor([[1.0, 4.0], [2.0, 3.0], [torch.nan, 0.0], [4.0, 1.0]])
    >>> metric.update(preds, torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([1, 1, 0, 1]).bool())
    >>> metric.compute().round(decimals=9)
    tensor([ 1., -1.], dtype=torch.float64)

    Args:
        num_outputs: D.
        kwargs: those of torchmetrics.Metric.
    """

    is_differentiable = False
    higher_is_better = None
    full_state_update = False

    moments: Tensor

    def __init__(self, num_outputs: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if num_outputs < 1:
            raise ArgumentError(f"num_outputs: expected at least 1, got {num_outputs}")
        self.num_outputs = num_outputs
        # One tensor, since torchmetrics reduces every state by itself and M2 needs the means.
        empty = torch.zeros(6, num_outputs, dtype=torch.float64)
        self.add_state("moments", empty, dist_reduce_fx=_merge)

    def update(self, preds: Tensor, target: Tensor, mask: Tensor | None = None) -> None:
        """Count a batch.

        Args:
            preds: (N, D) float32, float16, bfloat16 or float64; (N,) where D is 1.
            target: (N,) shared by all outputs, or the shape of preds; floating or integer.
            mask: (N,) bool; rows where it is False are left out and may be NaN.

        Raises:
            ArgumentError, DtypeError: a wrong shape or dtype.
        """
        check_hidden("preds", preds)
        if self.num_outputs == 1 and preds.dim() == 1:
            preds = preds[:, None]
            target = target[:, None] if target.dim() == 1 else target
        d = self.num_outputs
        check_tensor(
            "preds", preds, (preds.dtype,), f"(N, {d})",
            lambda t: t.dim() == 2 and t.shape[1] == d,
        )  # fmt: skip
        n = len(preds)
        if target.shape not in ((n,), preds.shape):
            raise ArgumentError(f"target: expected ({n},) or ({n}, {d}), got {describe(target)}")
        if mask is not None:
            check_tensor("mask", mask, (torch.bool,), f"({n},)", lambda t: t.shape == (n,))
        part = _shared if target.dim() == 1 else _paired
        batch = part(preds.detach(), target.detach().double(), mask)
        self.moments = _merge(torch.stack([self.moments, batch]))

    def compute(self) -> Tensor:
        """Return r, (D,) float64; a scalar where D is 1."""
        m2_x, m2_y = self.moments[_M2_X], self.moments[_M2_Y]
        r = self.moments[_C] / (m2_x.sqrt() * m2_y.sqrt())
        constant = (m2_x == 0) | (m2_y == 0)
        return r.clamp(-1, 1).masked_fill(constant, torch.nan).squeeze()


def _shared(preds: Tensor, target: Tensor, mask: Tensor | None) -> Tensor:
    """Moments of a batch whose outputs share the target."""
    head, body = ops.moments(preds, rows=target[None], group=mask, shape=False)
    x = head[0][:, None].expand(-1, preds.shape[1])
    return torch.stack([x[0], x[1], body[0, 0], x[2], body[0, 1], body[0, 4]])


def _paired(preds: Tensor, target: Tensor, mask: Tensor | None) -> Tensor:
    """Moments of a batch in which each output has its own target."""
    if mask is not None:
        preds, target = preds[mask], target[mask]
    if not len(preds):
        return torch.zeros(6, preds.shape[1], dtype=torch.float64, device=preds.device)
    mean_x, dx = centre(target)
    mean_y, dy = centre(preds.double())
    n = torch.full_like(mean_x, len(preds))
    return torch.stack(
        [n, mean_x, mean_y, dx.square().sum(0), dy.square().sum(0), (dx * dy).sum(0)]
    )


def _merge(states: Tensor) -> Tensor:
    """Merge states [W, 6, D] in order."""
    total = states[0]
    for state in states[1:]:
        n = total[_N] + state[_N]
        share = torch.where(n > 0, state[_N] / n, 0)
        weight = total[_N] * share
        dx, dy = state[_MEAN_X] - total[_MEAN_X], state[_MEAN_Y] - total[_MEAN_Y]
        total = torch.stack(
            [
                n,
                merged_mean(share, total[_MEAN_X], dx),
                merged_mean(share, total[_MEAN_Y], dy),
                merged_comoment(weight, total[_M2_X], state[_M2_X], dx, dx),
                merged_comoment(weight, total[_M2_Y], state[_M2_Y], dy, dy),
                merged_comoment(weight, total[_C], state[_C], dx, dy),
            ]
        )
    return total
