"""In how many directions there is variance, and how far single rows move a statistic of means."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import jacrev


def participation_ratio(variances: Tensor) -> Tensor:
    """Square of the sum of variances [D] over the sum of their squares: from 1 to D.

    Example:
        >>> participation_ratio(torch.tensor([2.0, 2.0, 0.0])).item()
        2.0
    """
    return variances.sum() ** 2 / variances.square().sum()


def effective_rank(variances: Tensor) -> Tensor:
    """Exp of the entropy of the shares of variances [D] (Roy and Vetterli 2007): from 1 to D.

    Example:
        >>> round(effective_rank(torch.tensor([2.0, 2.0, 0.0])).item(), 6)
        2.0
    """
    shares = variances[variances > 0] / variances.sum()
    return (-(shares * shares.log()).sum()).exp()


def isoscore(participation: float, dims: int) -> float:
    """IsoScore (Rudman et al. 2022): 1 where all variances are equal, 0 for a line.

    It is the participation ratio in other units: with p for that, and lambda-hat of norm sqrt(D)
    as in the paper, delta^2 (D - sqrt D) = D - sqrt(D p), which leaves (p - 1) / (D - 1) of it.

    Args:
        participation: See `participation_ratio`.
        dims: D, two at least.

    Example:
        >>> isoscore(3.0, 5)
        0.5
    """
    return (participation - 1) / (dims - 1)


def influence(statistic: Callable[[Tensor], Tensor], mean: Tensor, rows: Tensor) -> Tensor:
    """By how much each row moves a statistic of the mean of rows: its influence function, [n, ...].

    The derivative of ``statistic(mean + t (row - mean))`` at t = 0. Over the rows that gave the
    mean it averages 0, and the variance of the statistic is, to first order, that of its average.

    Args:
        statistic: Of a mean [K]: a number or [...], differentiable.
        mean: Of all rows, [K].
        rows: Some of them, [n, K].

    Example:
        >>> rows = torch.tensor([[1.0, 2.0], [3.0, 6.0]])
        >>> influence(lambda mean: mean[1] / mean[0], rows.mean(0), rows).tolist()
        [0.0, 0.0]
    """
    slope = jacrev(statistic)(mean)  # [..., K]
    found: Tensor = torch.tensordot(rows - mean, slope, dims=([-1], [-1]))
    return found
