"""What variants of a model predict, in counts and sums by block of documents."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from outdim.errors import DataError
from outdim.stats.keyed_sums import KeyedSums
from outdim.stats.named import under

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_PENDING = 1 << 22  # keys that are held back before they are added


@dataclass(frozen=True)
class Layout:
    """What is counted, by which the tensors of `PredictionSums` are laid out.

    Attributes:
        readings: W ways in which a document is read.
        blocks: B blocks of documents.
        variants: M variants of the model; with the truth before them they are S = 1 + M series.
        vocab_size: V.
        hidden_size: D of the states before the output layer; 0 where they are not kept.
        classes: P parts of speech; 0 where there are none.
    """

    readings: int
    blocks: int
    variants: int
    vocab_size: int
    hidden_size: int = 0
    classes: int = 0

    @property
    def cells(self) -> int:
        """W B."""
        return self.readings * self.blocks


class PredictionSums:
    """Counts of predicted tokens and sums of the states they come from, by cell.

    A cell is a reading and a block, number ``reading * blocks + block``. Counts are kept of the
    tokens that occur; sums are float64. A row that a variant predicts nothing for, as its logits
    are not finite, is in ``amiss`` and in no other sum of that variant.

    Attributes:
        layout: L.
        counts: By key ``(cell * S + series) * V + id``.
        rows: Rows of each cell, int64 [W B].
        amiss: [W B, M] int64.
        states: Sums of h and |h|, float64 [W B, M, 2, D].
        classes: Of true by predicted part of speech, int64 [W B, M, P, P].
        untagged: Rows that have no part of speech, int64 [W B, M].
        read_out: What is known of the output layer [4, D]; empty until it is given.

    Example:
        >>> sums = PredictionSums(Layout(1, 1, variants=2, vocab_size=10))
        >>> cell = torch.zeros(3, dtype=torch.int64)
        >>> sums.add(cell, torch.tensor([[7, 7, 3], [7, 7, 7], [-1, 3, 3]]), [])
        >>> sums.of_reading(0).counts.sum(0).tolist()  # of the tokens 3 and 7
        [[1.0, 2.0], [0.0, 3.0], [2.0, 0.0]]
    """

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        cells, variants = layout.cells, layout.variants
        size, classes = layout.hidden_size, layout.classes
        whole = torch.int64
        self.counts = KeyedSums(1)
        self.rows = torch.zeros(cells, dtype=whole)
        self.amiss = torch.zeros(cells, variants, dtype=whole)
        self.states = torch.zeros(cells, variants, 2, size, dtype=torch.float64)
        self.classes = torch.zeros(cells, variants, classes, classes, dtype=whole)
        self.untagged = torch.zeros(cells, variants, dtype=whole)
        self.read_out = torch.zeros(0, size, dtype=torch.float64)
        self._pending: list[tuple[Tensor, Tensor]] = []
        self._held = 0

    def add(self, cell: Tensor, ids: Tensor, states: list[Tensor]) -> None:
        """Take R rows.

        Args:
            cell: int64 [R].
            ids: True and predicted ids, int64 [S, R]; -1 where nothing is predicted.
            states: Sums of each variant by cell, [W B, 2, D] each; none where they are not kept.
        """
        layout = self.layout
        self.rows += cell.bincount(minlength=layout.cells)
        for variant, own in enumerate(ids[1:]):
            self.amiss[:, variant] += cell[own < 0].bincount(minlength=layout.cells)
        series = torch.arange(len(ids))[:, None]
        keys = (cell * len(ids) + series) * layout.vocab_size + ids
        unique: Any = torch.unique
        found, times = unique(keys[ids >= 0], return_counts=True)
        self._pending.append((found, times))
        self._held += len(found)
        if self._held > _PENDING:
            self._settle()
        for variant, own in enumerate(states):
            self.states[:, variant] += own

    def add_classes(self, cell: Tensor, true: Tensor, predicted: Tensor) -> None:
        """Take the parts of speech of R rows, int64 [R] and of each variant [M, R]; -1 for none."""
        size = self.layout.classes
        for variant, own in enumerate(predicted):
            known = (own >= 0) & (true >= 0)
            self.untagged[:, variant] += cell[~known].bincount(minlength=self.layout.cells)
            key = (cell[known] * size + true[known]) * size + own[known]
            table = key.bincount(minlength=self.layout.cells * size * size)
            self.classes[:, variant] += table.view(-1, size, size)

    def _settle(self) -> None:
        if self._pending:
            keys, times = (torch.cat(part) for part in zip(*self._pending, strict=True))
            self.counts.add(keys[:, None], times[:, None])
        self._pending, self._held = [], 0

    def _plain(self) -> dict[str, Tensor]:
        names = ("rows", "amiss", "states", "classes", "untagged")
        return {name: getattr(self, name) for name in names}

    def state_dict(self) -> dict[str, Tensor]:
        """Flat tensors."""
        self._settle()
        counts = under({"counts": self.counts.state_dict()})
        return {**self._plain(), "read_out": self.read_out, **counts}

    def merge(self, state: Mapping[str, Tensor]) -> Self:
        """Add what `state_dict` of another one gave, as of later rows.

        Raises:
            DataError: It is laid out otherwise; nothing of it was merged.
        """
        for name, mine in self._plain().items():
            if state[name].shape != mine.shape:
                raise DataError(
                    f"state: expected {tuple(mine.shape)} at {name}, got {tuple(state[name].shape)}"
                )
        for name, mine in self._plain().items():
            mine += state[name]
        self.counts.add(state["counts/keys"], state["counts/sums"])
        if not len(self.read_out):
            self.read_out = state["read_out"]
        return self

    def of_reading(self, reading: int) -> Reading:
        """What is known of one way of reading."""
        self._settle()
        layout = self.layout
        blocks, series, vocab = layout.blocks, 1 + layout.variants, layout.vocab_size
        keys, found = self.counts.keys[:, 0].numpy(), self.counts.sums[:, 0].numpy()
        cell, ids = keys // (series * vocab), keys % vocab
        own = cell // blocks == reading
        used, column = np.unique(ids[own], return_inverse=True)
        counts = np.zeros((blocks, series, len(used)))
        counts[cell[own] % blocks, keys[own] // vocab % series, column] = found[own]
        part = slice(reading * blocks, (reading + 1) * blocks)
        names = ("rows", "amiss", "states", "classes", "untagged")
        return Reading(used, counts, *(getattr(self, name)[part].numpy() for name in names))


@dataclass(frozen=True, eq=False)
class Reading:
    """Counts and sums of one way of reading, by block.

    Attributes:
        ids: The U tokens that are true or predicted, ascending, int64 [U].
        counts: How often, by series, float64 [B, S, U].
        rows, amiss, states, classes, untagged: As those of `PredictionSums`, of B blocks.
    """

    ids: Ints
    counts: Floats
    rows: Ints
    amiss: Ints
    states: Floats
    classes: Ints
    untagged: Ints
