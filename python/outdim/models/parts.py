"""The part of a model that reads text: what is beside and around it is left out."""

from typing import Any

from outdim.errors import ArgumentError


def text_model(model: Any) -> Any:
    """Return the base model that was made from the text configuration of ``model``.

    Names play no part: of a model for text and images it is the outermost module whose
    configuration is the one that `config.get_text_config()` points to, without its head. For a
    model of text it is the base model itself.
    """
    from transformers import PreTrainedModel

    base = model.base_model
    if has_both(base):
        return base
    config = base.config.get_text_config()
    if config is base.config:
        return base
    inside = (m for m in base.modules() if isinstance(m, PreTrainedModel) and m.config is config)
    found = next(inside, None)
    return base if found is None else text_model(found)


def has_both(base: Any) -> bool:
    """Whether a base model has an encoder and a decoder: two sequences of blocks."""
    both = hasattr(base, "encoder") and hasattr(base, "decoder")
    return both and bool(getattr(base.config, "is_encoder_decoder", False))


def encoder_or_decoder(model: Any, part: str) -> Any:
    """Return the encoder or the decoder of a base model.

    Raises:
        ArgumentError: It has none that stands alone.
    """
    from transformers import PreTrainedModel

    found = getattr(model, part, None)
    if not isinstance(found, PreTrainedModel):
        raise ArgumentError(
            f"part: {type(model).__name__} has no {part} that is a model of its own; leave it out"
        )
    return found
