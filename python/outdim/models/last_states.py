"""The last hidden states of a model, where a step that measures variants reads no logits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from outdim.errors import ArgumentError
from outdim.models.forward import Forward
from outdim.models.trace import alone, dummy_inputs

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class LastStates:
    """Runs a model to its last hidden states; `outdim.models.Predictor` for one without a head.

    Args:
        model: A base model, without a head.

    Attributes:
        note: What a reader has to know of the model; "" as there is nothing.

    Raises:
        ArgumentError: The model gives no ``last_hidden_state``.

    Example:
        >>> from transformers import GPT2Config, GPT2Model
        >>> last = LastStates(GPT2Model(GPT2Config(n_layer=1, n_embd=8, n_head=2)).eval())
        >>> ids = torch.tensor([[1, 2, 3]])
        >>> last.states(ids, torch.ones_like(ids)).shape
        torch.Size([1, 3, 8])
    """

    note = ""

    def __init__(self, model: PreTrainedModel) -> None:
        self._forward = Forward(model)
        ids = dummy_inputs(model)["input_ids"]
        with torch.no_grad(), alone(model):
            given = getattr(self._forward(ids, torch.ones_like(ids)), "last_hidden_state", None)
        if given is None:
            raise ArgumentError(
                f"model: expected one that gives last_hidden_state, got {type(model).__name__}; "
                "load it without a head, or take its base_model"
            )

    def states(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """The last hidden states [B, S, D] of ids and mask [B, S]."""
        return torch.as_tensor(self._forward(input_ids, attention_mask).last_hidden_state)
