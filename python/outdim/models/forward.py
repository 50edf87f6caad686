"""The forward of a model over ids, as every pass over text needs it."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import torch

from outdim.hub import quiet_unless_terminal
from outdim.models.trace import alone, dummy_inputs
from outdim.models.unchanged import unchanged

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Forward:
    """Runs a model without its cache, and leaves it as it was.

    What a forward gives must not depend on those before it. A model that is found to change in a
    forward (BigBird takes full attention for good once it has seen a short sequence) is put back
    after each.

    Args:
        model: A model of text.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        taken = inspect.signature(model.forward).parameters
        takes_any = any(one.kind is one.VAR_KEYWORD for one in taken.values())
        self._masked = "attention_mask" in taken or takes_any
        self._extra = {"use_cache": False} if "use_cache" in taken else {}
        quiet = quiet_unless_terminal()  # some models tell that they change, each time
        with torch.no_grad(), quiet, alone(model), unchanged(model) as changes:
            self._call(**dummy_inputs(model))
        self._changes = changes.found

    def __call__(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **others: torch.Tensor
    ) -> Any:
        """What the model gives for ids and mask [B, S], and others such as ``token_type_ids``.

        The mask is left out if it takes none.
        """
        if not self._changes:
            return self._call(input_ids, attention_mask, **others)
        with quiet_unless_terminal(), unchanged(self._model):
            return self._call(input_ids, attention_mask, **others)

    def _call(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        **others: torch.Tensor,
    ) -> Any:
        masked = self._masked and attention_mask is not None
        mask = {"attention_mask": attention_mask} if masked else {}
        return self._model(input_ids=input_ids, **mask, **others, **self._extra)
