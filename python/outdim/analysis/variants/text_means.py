"""Means of the hidden states over the beginning of a text, for ablations that set them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from outdim.errors import ArgumentError, DataError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from outdim.analysis.inputs import Inputs
    from outdim.analysis.variants.items import ItemBatch
    from outdim.tokens import Piece

_TOKENS = 1 << 16  # a mean of so many is known to half a percent of a standard deviation
_DIGITS = 4  # that are kept: more would differ from machine to machine, and with them the plan


Means = Mapping[str, Mapping[str, Sequence[float]]]


def text_means(inputs: Inputs) -> Means:
    """By group of tokens and name of a point the mean [D], over the first 65,536 tokens.

    The same to the bit however the text is cut into units: a plan records them.

    Raises:
        ArgumentError: No text is read.
        DataError: It has no token.
    """
    from outdim.analysis.reading import Reading
    from outdim.corpus import Accounting
    from outdim.tokens import batches

    if "max_length" not in inputs.options:
        raise ArgumentError("mode: mean is that of a text, and none is read here.")
    reading, sums = Reading(inputs), _Sums(inputs.model)
    units = (unit.as_dict() for unit in inputs.corpus.units)
    pieces = chain.from_iterable(reading.pieces(unit, Accounting()) for unit in units)
    for batch in batches(_beginning(pieces), inputs.options["token_budget"], **reading.padding):
        batch = batch.to(inputs.model.device)
        sums.add(batch.group, batch.input_ids, batch.attention_mask)
    if not sums.tokens:
        raise DataError(f"source: {inputs.corpus.source}: the corpus has no token.")
    return sums.means()


def _beginning(pieces: Iterable[Piece]) -> Iterator[Piece]:
    """The first pieces, until they have so many tokens as are read."""
    tokens = 0
    for piece in pieces:
        yield piece
        tokens += len(piece.ids)
        if tokens >= _TOKENS:
            return


def item_means(inputs: Inputs, batches: Iterable[ItemBatch]) -> Means:
    """By group of tokens and name of a point the mean [D] over the items of a task."""
    from outdim.models.sequence_tokens import SequenceTokens
    from outdim.tokens import special_ids

    sums, special = _Sums(inputs.model), sorted(special_ids(inputs.tokenizer))
    for batch in batches:
        tokens = SequenceTokens.of_call(inputs.model, (), batch.inputs)
        sums.add(tokens.group(special), batch.input_ids, batch.attention_mask, batch.others)
    return sums.means()


class _Sums:
    """Sums of the hidden states of a model by group of tokens and point.

    Attributes:
        tokens: How many were read.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        from outdim.models import Forward

        self._model, self._forward = model, Forward(model)
        self._sums: dict[str, dict[str, Tensor]] = {}
        self._counts: dict[str, int] = {}
        self.tokens = 0

    def add(
        self, groups: Tensor, ids: Tensor, mask: Tensor, others: Mapping[str, Tensor] | None = None
    ) -> None:
        """Run the model on a batch [B, S] whose tokens are of these groups, 0 for padding."""
        from outdim.models import observe
        from outdim.tokens import GROUPS

        with torch.inference_mode(), observe(self._model) as seen:
            self._forward(ids, mask, **(others or {}))
        for number, group in enumerate(GROUPS, 1):
            rows = groups == number
            if not rows.any():
                continue
            self._counts[group] = self._counts.get(group, 0) + int(rows.sum())
            own = self._sums.setdefault(group, {})
            for point, hidden in seen.items():
                own[point] = own.get(point, 0) + hidden[rows].double().sum(0).cpu()
        self.tokens += int(mask.bool().sum())

    def means(self) -> Means:
        """With so many digits as are kept."""
        return {
            group: {
                point: [float(f"{x:.{_DIGITS}g}") for x in (total / self._counts[group]).tolist()]
                for point, total in own.items()
            }
            for group, own in self._sums.items()
        }
