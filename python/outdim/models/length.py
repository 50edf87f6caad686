"""How long the sequences of a model may be."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from outdim.errors import ArgumentError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

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
