"""How long the sequences of a model may be."""

from __future__ import annotations

from typing import TYPE_CHECKING

from outdim.errors import ArgumentError
from outdim.models.parts import text_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_MAX_LENGTH = 512  # taken where the model has no limit, or a longer one
_NAMES = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "max_sequence_length",
    "max_target_positions",
)


def sequence_length(model: PreTrainedModel, max_length: int | None) -> int:
    """How many tokens a sequence may have; 512 where nobody says.

    Raises:
        ArgumentError: More than the model has positions for.
    """
    positions = _positions(model)
    if max_length is None:
        return min(positions or _MAX_LENGTH, _MAX_LENGTH)
    if max_length < 3 or (positions is not None and max_length > positions):
        allowed = f"3 to {positions}, the number of positions of the model" if positions else "3 up"
        raise ArgumentError(f"max_length: expected {allowed}, got {max_length}.")
    return max_length


def _positions(model: PreTrainedModel) -> int | None:
    """The longest sequence a model has positions for, None where there is no limit.

    Configurations write "no limit" as None or -1 (XLNet), or have no such entry (BLOOM, Mamba).
    """
    config = text_model(model).config
    limits = [getattr(config, name, None) for name in _NAMES]
    found = next((limit for limit in limits if isinstance(limit, int) and limit > 0), None)
    for name, module in model.named_modules():
        # RoBERTa and its kin number positions from padding_idx + 1.
        padding = getattr(module, "padding_idx", None)
        if name.endswith("position_embeddings") and padding is not None:
            own = len(module.weight) - padding - 1
            found = own if found is None else min(found, own)
    return found
