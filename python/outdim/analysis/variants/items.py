"""Labelled items in batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
import torch
from torch import Tensor

from outdim.errors import DataError
from outdim.models import padding_reaches_text

if TYPE_CHECKING:
    from transformers import PreTrainedModel

#: Called with the number of tokens of each batch that is done.
Progress = Callable[[int], object]


class Batching(TypedDict, total=False):
    """How items are read: so many in a batch, of so many ids at most, and who is told."""

    batch_size: int
    max_length: int
    progress: Progress


@dataclass(frozen=True)
class ItemBatch:
    """Some items.

    Attributes:
        rows: Their numbers, int64 [B].
        input_ids, attention_mask: [B, S], on the device of the model.
        others: What else it takes, such as token types.
    """

    rows: Tensor
    input_ids: Tensor
    attention_mask: Tensor
    others: dict[str, Tensor]

    @property
    def inputs(self) -> dict[str, Tensor]:
        """All that the model takes."""
        return {"input_ids": self.input_ids, "attention_mask": self.attention_mask, **self.others}

    def halves(self) -> tuple[ItemBatch, ItemBatch]:
        """The first and the second half of them."""
        middle = len(self.rows) // 2
        return self._part(slice(None, middle)), self._part(slice(middle, None))

    def _part(self, rows: slice) -> ItemBatch:
        others = {name: one[rows] for name, one in self.others.items()}
        return ItemBatch(self.rows[rows], self.input_ids[rows], self.attention_mask[rows], others)


def item_batches(
    model: PreTrainedModel,
    tokenizer: Any,
    texts: Sequence[str],
    pairs: Sequence[str] | None,
    *,
    batch_size: int = 256,
    max_length: int = 256,
    progress: Progress = lambda tokens: None,
) -> Iterator[ItemBatch]:
    """Batches of N texts (or pairs of texts), the longest first: they need the most memory.

    Texts of like length share a batch, which is padded to its longest, at the tokenizer's side:
    XLNet reads its label off the last position. Where padding would change what the model says of a
    text (`outdim.models.padding_reaches_text`), only texts of one length share a batch.

    Raises:
        DataError: The model takes batches only with a padding token, and has none.
    """
    if tokenizer.pad_token_id is None or getattr(model.config, "pad_token_id", 0) is None:
        raise DataError(
            "model: its configuration or its tokenizer has no padding token, which a batch of "
            "texts needs; set pad_token_id in both and save them."
        )
    encoded = tokenizer(
        list(texts),
        None if pairs is None else list(pairs),
        truncation=True,
        max_length=max_length,
    )
    lengths = np.array([len(ids) for ids in encoded["input_ids"]])
    order = np.argsort(-lengths, kind="stable")
    alone = padding_reaches_text(model.base_model, side=tokenizer.padding_side)
    changes = np.flatnonzero(np.diff(lengths[order])) + 1
    for alike in np.split(order, changes) if alone else [order]:
        for first in range(0, len(alike), batch_size):
            rows = alike[first : first + batch_size]
            own = {name: [values[row] for row in rows] for name, values in encoded.items()}
            others = dict(tokenizer.pad(own, return_tensors="pt").to(model.device))
            ids = others.pop("input_ids")
            mask = others.pop("attention_mask", ids.new_ones(())).expand_as(ids)
            yield ItemBatch(torch.from_numpy(rows), ids, mask, others)
            progress(int(lengths[rows].sum()))
