"""Heads: what a model predicts with, and whether one at hand has it."""

from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import nn

from outdim.errors import ArgumentError
from outdim.models.parts import text_model
from outdim.models.trace import alone, dummy_inputs
from outdim.models.unchanged import unchanged

if TYPE_CHECKING:
    from transformers import PreTrainedModel

#: "mlm": logits of the vocabulary for masked tokens; "lm": for the next token; "classifier": of the
#: labels of a text.
Head = Literal["mlm", "lm", "classifier"]

_AUTO = {
    "mlm": "AutoModelForMaskedLM",
    "lm": "AutoModelForCausalLM",
    "classifier": "AutoModelForSequenceClassification",
}
_WORDS = {"mlm": "masked language model", "lm": "language model", "classifier": "classifier"}
_MAPPINGS = {
    "mlm": "MODEL_FOR_MASKED_LM_MAPPING",
    "lm": "MODEL_FOR_CAUSAL_LM_MAPPING",
    "classifier": "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING",
}


def auto_class(head: Head, config: Any) -> Any:
    """The class of transformers that loads a model of this configuration with ``head``.

    Raises:
        ArgumentError: There is no such head, or transformers has none for this family.
    """
    import transformers

    _check_name(head)
    if getattr(config, "is_encoder_decoder", False):
        raise ArgumentError(
            f"head: expected None for {config.model_type}, which has an encoder and a decoder, got "
            f"{head!r}"
        )
    if type(config) not in _mapping(head):
        having = [name for name in get_args(Head) if type(config) in _mapping(name)]
        raise ArgumentError(
            f"head: transformers has no {_WORDS[head]} of the family {config.model_type} "
            f"({_AUTO[head]}); expected {' or '.join(map(repr, [*having, None]))}, got {head!r}"
        )
    return getattr(transformers, _AUTO[head])


def natural_head(config: Any) -> Head:
    """The head with which a model of this configuration completes a text.

    A family with a head for masked tokens may be configured as a decoder, which sees none after.

    >>> from transformers import BertConfig
    >>> natural_head(BertConfig()), natural_head(BertConfig(is_decoder=True))
    ('mlm', 'lm')
    """
    causal = getattr(config, "is_decoder", False) or getattr(config, "is_encoder_decoder", False)
    return "mlm" if type(config) in _mapping("mlm") and not causal else "lm"


def check_head(model: "PreTrainedModel", head: Head) -> None:
    """Check that ``model`` has ``head``, and sees later tokens or not, as the head needs it.

    transformers gives BERT a head for the next token on an encoder that sees it already.

    Raises:
        ArgumentError: It has not.
    """
    _check_name(head)
    if not _has(model, head):
        raise ArgumentError(
            f"model: expected a {_WORDS[head]} (head={head!r}), got {type(model).__name__}; load "
            f"it with outdim.load_model(name, head={head!r})"
        )
    if head == "lm" and _sees_later_tokens(model):
        raise ArgumentError(
            f"head: expected 'mlm' or 'classifier' for {type(model).__name__}, got 'lm': its "
            "tokens see those after them, so that it knows the next one without predicting it"
        )
    if head == "mlm" and not _sees_later_tokens(model):
        raise ArgumentError(
            f"head: expected 'lm' for {type(model).__name__}, got 'mlm': its tokens see only those "
            "before them, and it was trained without masks"
        )


def _check_name(head: Any) -> None:
    if head not in get_args(Head):
        raise ArgumentError(f"head: expected 'mlm', 'lm', 'classifier' or None, got {head!r}")


def _has(model: Any, head: Head) -> bool:
    if isinstance(model, _mapping(head).get(type(model.config), ())):
        return True
    # A class of the user's own.
    return head != "classifier" and model.get_output_embeddings() is not None


def _mapping(head: Head) -> Any:
    from transformers.models.auto import modeling_auto

    return getattr(modeling_auto, _MAPPINGS[head])


def _sees_later_tokens(model: nn.Module) -> bool:
    """Whether the logits of the first tokens change with the last one, by more than rounding."""
    ids = dummy_inputs(model)["input_ids"]
    other = ids.clone()
    other[:, -1] = ids[:, 0]
    with alone(model), unchanged(model), torch.no_grad():
        first, second = (model(input_ids=x).logits[:, :-1].double() for x in (ids, other))
    return bool((first - second).abs().max() > 1e-3 * first.std())


def share_weights(model: "PreTrainedModel", base: nn.Module) -> None:
    """Let ``model``, which has a head, use the tensors of its ``base``: one copy is in memory.

    Only tensors that are equal are shared; the modules stay two, so that hooks on one do not fire
    in the other.
    """
    own = dict(base.named_parameters(remove_duplicate=False))
    shared = {
        id(tensor): own[name]
        for name, tensor in text_model(model).named_parameters(remove_duplicate=False)
        if name in own and _equal(tensor, own[name])
    }
    for module in model.modules():  # tied weights of the head, too
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = shared.get(id(parameter), parameter)


def _equal(first: torch.Tensor, second: torch.Tensor) -> bool:
    same_kind = (first.dtype, first.device) == (second.dtype, second.device)
    return same_kind and torch.equal(first, second)
