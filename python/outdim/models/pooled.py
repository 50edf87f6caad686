"""Which ablation of the last layer takes a dimension out of what is pooled, and nothing else."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import torch

from outdim.errors import ArgumentError
from outdim.models.ablate import apply_ablation
from outdim.models.ablation import Ablation, At
from outdim.models.architecture import Architecture, architecture
from outdim.models.last_states import LastStates
from outdim.models.trace import alone, dummy_inputs
from outdim.models.unchanged import unchanged

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_PLACES: tuple[At, ...] = ("state", "parameters", "readers")


def exact_at(model: PreTrainedModel, found: Architecture | None = None) -> tuple[At, ...]:
    """Where zeroing dimensions of the last layer zeroes them in `last_hidden_state`, and no others.

    There `outdim.stats.leave_one_out`, which looks at pooled vectors alone, gives what an ablation
    of the model would: a mean over tokens, or the state of [CLS], keeps dimensions apart. Where the
    norm that ends the last block gives the last hidden state (post-LN), that is "state" and
    "parameters"; where another norm follows the last block (pre-LN), it is "readers", since a state
    edit changes the mean and the variance which that norm takes. Tried on a few dummy tokens.

    Args:
        model: A base model, without a head.
        found: architecture(model).

    Returns:
        None at all where something else follows, as a projection.

    Raises:
        ArgumentError: The model gives no `last_hidden_state`.

    Example:
        >>> from transformers import BertConfig, BertModel, GPT2Config, GPT2Model
        >>> size = {"num_hidden_layers": 1, "hidden_size": 8, "num_attention_heads": 2}
        >>> exact_at(BertModel(BertConfig(**size)).eval())
        ('state', 'parameters')
        >>> exact_at(GPT2Model(GPT2Config(n_layer=1, n_embd=8, n_head=2)).eval())
        ('readers',)
    """
    found = architecture(model) if found is None else found
    dims = sorted({0, found.hidden_size // 2})
    exact: list[At] = []
    last, ids = LastStates(model), dummy_inputs(model)["input_ids"]
    mask = torch.ones_like(ids)
    with torch.no_grad(), alone(model), unchanged(model):
        expected = last.states(ids, mask).clone()
        if expected.shape[-1] != found.hidden_size:
            return ()
        expected[..., dims] = 0
        for at in _PLACES:
            with suppress(ArgumentError):  # no such norm
                ablation = Ablation(tuple(dims), (found.layers,), at)
                with apply_ablation(model, ablation, found=found):
                    states = last.states(ids, mask)
                if torch.equal(states, expected):
                    exact.append(at)
    return tuple(exact)
