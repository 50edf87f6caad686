"""A sample of the tokens of a stream: as many rows as fit, each token as likely as any other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from outdim.errors import DataError
from outdim.stats.splitmix import splitmix64


class Sample(NamedTuple):
    """Rows of one point, [n, D] float32 or float64, and the key of the document of each, [n]."""

    rows: Tensor
    keys: Tensor


class TokenSample:
    """The hidden states of T tokens at some points, drawn evenly from a stream of batches.

    Every token has a random number, a hash of the key of its document and its place in it; kept are
    the tokens with the smallest ones (bottom-k sampling, Cohen and Kaplan 2007). So any split of
    the text into shards and batches and any order of merging keeps the same tokens. Of equal
    documents, which have the same numbers, one is drawn: else the copies of a single line could be
    all of the sample.

    Args:
        points: Names of the points; others are left alone.
        kept: T.
    """

    def __init__(self, points: Sequence[str], kept: int) -> None:
        self.points, self.kept = tuple(points), kept
        self._found: dict[str, Tensor] = {}
        self._pending: dict[str, Tensor] = {}
        self._rows = torch.zeros(0, dtype=torch.int64)

    def begin(self, keys: Tensor, places: Tensor, chosen: Tensor) -> None:
        """The next forward has N rows.

        Args:
            keys: int64 [N], of the documents.
            places: Which token of its document each row is, int64 [N].
            chosen: Whether a row may be drawn, bool [N].
        """
        self.discard()
        rows = chosen.nonzero()[:, 0] if self.points else self._rows[:0]
        keys, places = keys[rows].cpu(), places[rows].cpu()
        numbers = _numbers(keys, places)
        if "number" in self._found and len(self._found["number"]) == self.kept:
            below = numbers < self._found["number"][-1]
            rows, keys, numbers = rows[below.to(rows.device)], keys[below], numbers[below]
        first = _ascending(numbers)[: self.kept]
        self._rows = rows[first.to(rows.device)]
        self._pending = {"number": numbers[first], "key": keys[first]}

    def add(self, point: str, hidden: Tensor) -> None:
        """Take ``hidden`` [..., D] of a point."""
        if point in self.points:
            rows = hidden.reshape(-1, hidden.shape[-1])[self._rows]
            self._pending[point] = rows if rows.dtype == torch.float64 else rows.float()

    def commit(self) -> None:
        """The forward is complete: what it gave counts."""
        if len(self._pending.get("number", ())):
            later = {name: part.cpu() for name, part in self._pending.items()}
            self._found = self._smallest(self._found, later)
        self.discard()

    def discard(self) -> None:
        """The forward failed: nothing of it counts."""
        self._pending = {}

    def _smallest(
        self, one: Mapping[str, Tensor], other: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        if not one:
            return dict(other)
        both = {name: torch.cat([part, other[name]]) for name, part in one.items()}
        order = _ascending(both["number"])[: self.kept]
        return {name: part[order] for name, part in both.items()}

    def sample(self, point: str) -> Sample | None:
        """The rows of a point; None where there is none."""
        if point not in self._found:
            return None
        return Sample(self._found[point], self._found["key"])

    def state_dict(self) -> dict[str, Tensor]:
        """``number`` and ``key`` int64 [n], and the rows [n, D] of each point."""
        return {name: part.clone() for name, part in self._found.items()}

    def merge(self, state: Mapping[str, Tensor]) -> Self:
        """Take a sample of other tokens.

        Raises:
            DataError: A state of other points or of another D; nothing of it was merged.
        """
        if not state:
            return self
        alike = state.keys() == {"number", "key", *self.points}
        alike = alike and len({len(part) for part in state.values()}) == 1
        if not alike or any(state[n].shape[1:] != p.shape[1:] for n, p in self._found.items()):
            raise DataError(
                f"state: expected rows of {', '.join(self.points)}, got {', '.join(state)}"
            )
        self._found = self._smallest(self._found, state)
        return self


def _ascending(numbers: Tensor) -> Tensor:
    """Where each of the different numbers [n] is first, the smallest first."""
    order = numbers.argsort(stable=True)
    ordered = numbers[order]
    different = torch.ones_like(ordered, dtype=torch.bool)
    different[1:] = ordered[1:] != ordered[:-1]
    return order[different]


def _numbers(keys: Tensor, places: Tensor) -> Tensor:
    """A random number for each token, int64 from 0 on."""
    mixed = splitmix64(keys.numpy().astype(np.uint64))
    mixed = splitmix64(mixed ^ places.numpy().astype(np.uint64))
    return torch.from_numpy((mixed >> np.uint64(1)).astype(np.int64))
