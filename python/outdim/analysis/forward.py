"""Batches through a model: how long sequences may be, and what to do when memory runs out."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from outdim.analysis.statistics import PointStatistics
from outdim.errors import ArgumentError, DataError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from outdim.tokens import Batch

_MAX_LENGTH = 512  # taken where the model has no limit, or a longer one


def sequence_length(model: PreTrainedModel, max_length: int | None) -> int:
    """How many tokens a sequence may have.

    Raises:
        ArgumentError: More than the model has positions for.
    """
    positions = int(getattr(model.config, "max_position_embeddings", None) or _MAX_LENGTH)
    for name, module in model.named_modules():
        # RoBERTa and its kin number positions from padding_idx + 1.
        numbered = name.endswith("position_embeddings") and isinstance(module, nn.Embedding)
        if numbered and module.padding_idx is not None:
            positions = min(positions, module.num_embeddings - module.padding_idx - 1)
    if max_length is None:
        return min(positions, _MAX_LENGTH)
    if not 3 <= max_length <= positions:
        raise ArgumentError(
            f"max_length: expected 3 to {positions}, the number of positions of the model, got "
            f"{max_length}."
        )
    return max_length


class Forward:
    """Runs batches; out of CUDA memory it halves them and goes on with the same tokens.

    A batch as large as one that did not fit is split before it is tried.

    Args:
        model: The model; it is called without a cache of keys and values.
        autocast: Gives the context in which it is called.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        self._model = model
        self._autocast = autocast
        cached = "use_cache" in inspect.signature(model.forward).parameters
        self._extra = {"use_cache": False} if cached else {}
        self._too_many: int | None = None  # ids, padding included, that did not fit

    def __call__(self, batch: Batch, statistics: PointStatistics) -> None:
        """Run one batch, whose statistics then count.

        Raises:
            DataError: A single sequence does not fit.
        """
        waiting = [batch]
        while waiting:
            part = waiting.pop()
            rows, length = part.input_ids.shape
            if rows > 1 and self._too_many is not None and rows * length >= self._too_many:
                waiting += reversed(part.halves())
                continue
            if self._fits(part.to(self._model.device), statistics):
                statistics.commit()
                continue
            statistics.discard()
            torch.cuda.empty_cache()
            if rows == 1:
                raise DataError(
                    f"one sequence of {length} tokens does not fit into the memory of "
                    f"{self._model.device}: lower --max-length."
                )
            self._too_many = rows * length
            waiting.append(part)

    def _fits(self, batch: Batch, statistics: PointStatistics) -> bool:
        """Run a batch; False if memory ran out, when nothing of it is held any more."""
        try:
            statistics.begin(batch)
            with self._autocast():
                self._model(
                    input_ids=batch.input_ids, attention_mask=batch.attention_mask, **self._extra
                )
        except torch.OutOfMemoryError:
            return False
        return True
