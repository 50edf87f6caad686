"""Batches that do not fit into the memory of a device are taken in halves."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol, Self, TypeVar

import torch

from outdim.errors import DataError


class Halving(Protocol):
    """A batch of sequences [B, S]."""

    @property
    def input_ids(self) -> torch.Tensor:
        """Ids [B, S]."""

    def halves(self) -> tuple[Self, Self]:
        """The first and the second half of the sequences."""


# On CPUs, so many tokens in a forward: with 16 to 64 in a batch, variants side by side take a third
# to two thirds of the time, with 256 as long, and with more than 1,000 a tenth longer.
_FILLED = 512

B = TypeVar("B", bound=Halving)


class Fitting:
    """Runs batches; what it learns of the memory serves all that follow.

    Out of CUDA memory, a batch is halved and goes on with the same tokens; one as large as one that
    did not fit is split before it is tried.
    """

    def __init__(self) -> None:
        self._too_many: int | None = None  # ids, padding included, that did not fit

    def run(
        self,
        batch: B,
        attempt: Callable[[B], None],
        commit: Callable[[], None],
        discard: Callable[[], None],
    ) -> None:
        """Attempt a batch, or its parts; after each comes commit or, if it did not fit, discard.

        Raises:
            DataError: One sequence does not fit.
        """
        waiting = [batch]
        while waiting:
            part = waiting.pop()
            rows, length = part.input_ids.shape
            if rows > 1 and self._too_many is not None and rows * length >= self._too_many:
                waiting += reversed(part.halves())
                continue
            if _fits(part, attempt):
                commit()
                continue
            discard()
            torch.cuda.empty_cache()
            if rows == 1:
                raise DataError(
                    f"one sequence of {length} tokens does not fit into the memory of the device: "
                    "lower --max-length."
                )
            self._too_many = rows * length
            waiting.append(part)


def side_by_side(tokens: int, budget: int, device: torch.device) -> int:
    """How many variants of a batch of so many ids fill a forward: of the budget, of 512 on CPUs."""
    filled = min(budget, _FILLED) if device.type == "cpu" else budget
    return max(1, filled // tokens)


def _fits(part: B, attempt: Callable[[B], None]) -> bool:
    """Attempt it; False if memory ran out, when nothing of it is held any more."""
    try:
        attempt(part)
    except torch.OutOfMemoryError:
        return False
    return True


def autocast(kind: str | None, device: torch.device) -> AbstractContextManager[Any]:
    """`torch.autocast` with a type by its name; nothing for None."""
    return torch.autocast(device.type, dtype=getattr(torch, kind)) if kind else nullcontext()
