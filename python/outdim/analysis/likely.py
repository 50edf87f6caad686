"""What is measured of the batches of `outdim.analysis.predictions`, and kept of a unit of text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from outdim.analysis.documents import Documents
from outdim.analysis.parts_of_speech import PartsOfSpeech
from outdim.analysis.variants.runner import Predicted, Rows
from outdim.models import Predictor
from outdim.models.losses import likeliest
from outdim.ops import segment_sums, segments
from outdim.stats.prediction_sums import PredictionSums

_TAGGED_AT_ONCE = 1 << 14  # rows


class Likely(NamedTuple):
    """Of R rows and one variant.

    Attributes:
        ids: The likeliest token, int64 [R]; -1 where the logits are not finite.
        states: Sums of h and |h| by cell, float64 [W B, 2, D]; None where they are not kept.
    """

    ids: Tensor
    states: Tensor | None


def likely(
    predictor: Predictor, states: Sequence[Tensor], rows: Rows, *, cells: int, keep: bool
) -> list[Likely]:
    """The likeliest tokens, and where they are kept sums of states by cell.

    The cell of a row is the number of its document modulo ``cells``.
    """
    found = likeliest(predictor.logits, states, predictor.vocab_size)
    cell = rows.documents % cells
    return [
        Likely(ids, _sums(own, cell, ids >= 0, cells) if keep else None)
        for ids, own in zip(found, states, strict=True)
    ]


class UnitOfText:
    """What is kept of one unit of text."""

    def __init__(
        self, sums: PredictionSums, documents: Documents, tags: PartsOfSpeech | None
    ) -> None:
        self._sums, self._read, self._tags = sums, documents, tags
        self._seen: set[int] = set()
        self._waiting: list[tuple[Tensor, Tensor, Tensor]] = []

    @property
    def documents(self) -> int:
        """How many documents there are in which something was predicted."""
        return len(self._seen)

    def add(self, predicted: Predicted[Likely]) -> None:
        """Take what a batch gave."""
        rows, found = predicted
        cells = self._sums.layout.cells
        documents = rows.documents.cpu()
        number, cell = documents // cells, documents % cells
        self._seen.update(set(number.tolist()))
        ids = torch.stack([rows.targets, *(own.ids for own in found)]).cpu()
        states = [own.states.cpu() for own in found if own.states is not None]
        self._sums.add(cell, ids, states)
        if self._tags is not None:
            place = torch.stack([number, rows.places.cpu() - self._read.before], 1)
            self._waiting.append((cell, place, ids))
            if sum(len(part[0]) for part in self._waiting) >= _TAGGED_AT_ONCE:
                self._tag()

    def state(self) -> dict[str, Tensor]:
        """The sums."""
        self._tag()
        return self._sums.state_dict()

    def _tag(self) -> None:
        if not self._waiting or self._tags is None:
            return
        cell = torch.cat([part[0] for part in self._waiting])
        place = torch.cat([part[1] for part in self._waiting])
        ids = torch.cat([part[2] for part in self._waiting], 1)
        self._waiting = []
        assert self._read.texts is not None
        tags = torch.from_numpy(self._tags(self._read.texts, place.numpy(), ids.numpy()))
        self._sums.add_classes(cell, tags[0], tags[1:])


def _sums(states: Tensor, cell: Tensor, finite: Tensor, cells: int) -> Tensor:
    """Sums of h and |h| by cell, [cells, 2, D] float64, in the order of the rows."""
    sums = torch.zeros(cells, 3, states.shape[-1], dtype=torch.float64, device=states.device)
    segment_sums(states, *segments(torch.where(finite, cell, -1), cells), sums)
    return sums[:, :2]
