"""The states a model predicts from, and its logits a part of the vocabulary at a time.

The logits of 4,096 tokens over 150,000 entries take 2.4 GB in float32, and their softmax as much
again. The states that go into the output layer take a hundredth of that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from outdim.errors import ArgumentError
from outdim.models.forward import Forward
from outdim.models.replaced import replace_forward
from outdim.models.trace import alone, dummy_inputs
from outdim.models.unchanged import unchanged

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Of the standard deviation of the logits; products of other shapes round otherwise.
_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}


class Predictor:
    """Runs a model up to its output layer, and the output layer in parts.

    Whether that gives the model's own logits is tried once, on a few dummy tokens; a model whose
    logits are something else (a vocabulary in parts, a mixture of several) is run as a whole, and
    ``note`` says so.

    Args:
        model: A model whose logits are over the vocabulary.

    Attributes:
        vocab_size: V, the number of logits.
        output: The output layer, where the logits are those of it, or a scale or soft cap of them,
            else None.
        note: Why the logits are taken whole; "" where they are not.

    Raises:
        ArgumentError: The model has no such logits.

    Example:
        >>> from transformers import GPT2Config, GPT2LMHeadModel
        >>> model = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_layer=1, n_embd=8, n_head=2)).eval()
        >>> predictor, ids = Predictor(model), torch.tensor([[1, 2, 3]])
        >>> with torch.no_grad():
        ...     states = predictor.states(ids, torch.ones_like(ids))
        ...     part = predictor.logits(states[0], slice(10, 20))
        ...     whole = model(ids).logits[0, :, 10:20]
        >>> torch.allclose(part, whole, atol=1e-6)
        True
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._forward = Forward(model)
        self._layer = model.get_output_embeddings()
        ids = dummy_inputs(model)["input_ids"]
        with torch.no_grad(), alone(model), unchanged(model):
            whole = getattr(self._forward(ids, torch.ones_like(ids)), "logits", None)
        if whole is None or whole.dim() != 3:
            raise ArgumentError(
                f"model: expected one with logits over the vocabulary, got {type(model).__name__}; "
                "load it with outdim.load_model(name, head='lm') or head='mlm'"
            )
        self.vocab_size: int = whole.shape[-1]
        self._finish, self.note = self._split(model, ids, whole)
        self.output: nn.Linear | None = None if self._finish is None else self._layer

    def states(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """What `logits` takes, [B, S, D]: the states before the output layer, else the logits."""
        if self.output is None:
            return torch.as_tensor(self._forward(input_ids, attention_mask).logits)
        with _passing(self.output) as passed:
            self._forward(input_ids, attention_mask)
        (states,) = passed
        return states

    def logits(self, states: Tensor, columns: slice) -> Tensor:
        """The logits [R, C] of some entries of the vocabulary, of states [R, D]; float32 at least.

        As in the model, the product is taken in the type of the model.
        """
        if self.output is None:
            return self.finish(states[:, columns])
        bias = self.output.bias
        part = linear(states, self.output.weight[columns], None if bias is None else bias[columns])
        return self.finish(part)

    def finish(self, outputs: Tensor) -> Tensor:
        """The logits of what the output layer gives [R, C]: a scale, a soft cap; float32 at least.

        Of each entry alone.
        """
        found = outputs if self._finish is None else self._finish(outputs)
        return found if found.dtype == torch.float64 else found.float()

    def _split(
        self, model: PreTrainedModel, ids: Tensor, whole: Tensor
    ) -> tuple[Callable[[Tensor], Tensor] | None, str]:
        """What the model does to the output of its output layer; None, and why, if not that."""
        name = type(model).__name__
        output = self._layer
        if type(output) is not nn.Linear:
            kind = type(output).__name__
            return None, (
                f"The output layer of {name} is no plain linear layer ({kind}): its logits are "
                "computed whole."
            )
        with torch.no_grad(), alone(model), unchanged(model), _passing(output) as passed:
            self._forward(ids, torch.ones_like(ids))
        if len(passed) == 1 and passed[0].shape[:2] == whole.shape[:2]:
            with torch.no_grad():
                plain = linear(passed[0], output.weight, output.bias)
            tolerance = _TOLERANCE[whole.dtype] * float(whole.double().std())
            for finish in _finishes(model.config):
                found = finish(plain)
                if found.shape == whole.shape and bool(
                    ((found.double() - whole.double()).abs() <= tolerance).all()
                ):
                    return finish, ""
        return None, (
            f"The logits of {name} are not those of its output layer alone: they are computed "
            "whole."
        )


def _finishes(config: Any) -> Iterator[Callable[[Tensor], Tensor]]:
    """What models are known to do to their logits."""
    yield lambda logits: logits
    cap = getattr(config, "final_logit_softcapping", None)  # Gemma 2 and 3
    if cap:
        yield lambda logits: torch.tanh(logits / cap) * cap
    for name, scaled in (("logit_scale", torch.mul), ("logits_scaling", torch.div)):
        scale = getattr(config, name, None)  # Cohere, Granite
        if isinstance(scale, int | float) and scale:
            yield partial(scaled, other=scale)


@contextmanager
def _passing(output: nn.Module) -> Iterator[list[Tensor]]:
    """The output layer gives one column of what it takes, which is kept, and computes nothing."""
    passed: list[Tensor] = []

    def forward(states: Tensor) -> Tensor:
        passed.append(states)
        return states[..., :1]

    put_back = replace_forward(output, forward)
    try:
        yield passed
    finally:
        put_back()
