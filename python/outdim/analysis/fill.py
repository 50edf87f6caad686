"""Fill in or continue given sentences: intact, ablated and with random dimensions off.

Kovaleva et al. 2021, table 2: a paragraph with masks, filled by the model, by the model without its
outlier dimensions, and without as many random ones. For language models a continuation.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from outdim.analysis.gathered import Gathered
from outdim.analysis.heads import WithHead
from outdim.analysis.in_memory import run_variants
from outdim.analysis.input_options import ModelOptions, TokenizerOptions
from outdim.analysis.inputs import Inputs
from outdim.analysis.results.filling import Filling
from outdim.analysis.step import Json, Progress
from outdim.analysis.variants.variant import AblationOptions, Kind, Variant
from outdim.errors import ArgumentError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from outdim.models import Ablation, Head

_MASKS = re.compile(r"\[MASK\]|<mask>")
_TOKENS, _TOP = 40, 5
_ALONE = {
    "tokens": "this model fills masks, and continues no prompt",
    "top": "this model continues a prompt, and fills no masks",
}


class FittingHead(WithHead):
    """Of the head for masked tokens and that for the next one the first that a model has."""

    @classmethod
    def identity(cls, inputs: Inputs) -> dict[str, Any]:
        """Class of the model with its head, and hash of all its weights."""
        return {"head": inputs.about_head(head_of(inputs))}


def head_of(inputs: Inputs) -> Head:
    """The head with which the model of ``inputs`` completes a text."""
    from outdim.models import natural_head

    return natural_head(inputs.model.config)


@dataclass(frozen=True, kw_only=True)
class FillOptions:
    """What is completed.

    Args:
        text: Sentences, each a word of the command line: with masks ([MASK], <mask> or the
            tokenizer's own) for a masked language model, else prompts that a language model
            continues.
        tokens: How many tokens a prompt is continued by, always the likeliest; none takes 40.
        top: How many tokens are kept for each mask; none takes 5.
        threads: Threads of a process.
    """

    text: list[str] = field(
        default_factory=list,
        metadata={"positional": "SENTENCE", "example": "'Paris is the capital of [MASK].'"},
    )
    tokens: int | None = None
    top: int | None = None
    threads: int = 1


class Fill(Gathered):
    """What each variant of the model puts into, or behind, each text.

    State: by text ids [M, masks, top] with probability, or ids [M, tokens].
    """

    name = "evaluate-fill"
    Options = FillOptions
    ablates = True
    reads = (ModelOptions, TokenizerOptions, AblationOptions, FittingHead)

    def __init__(self, recorded: Mapping[str, Any], inputs: Inputs) -> None:
        super().__init__(recorded, inputs)
        self.variants = [Variant.from_dict(plain) for plain in recorded["variants"]]

    @classmethod
    def resolve(cls, options: FillOptions, inputs: Inputs) -> Json:
        """Texts have masks for a masked language model, and none for another; all fit the model."""
        head = head_of(inputs)
        for name, its_head in (("tokens", "lm"), ("top", "mlm")):
            if (given := getattr(options, name)) is None:
                continue
            if given < 1:
                raise ArgumentError(f"{name}: expected at least 1, got {given}.")
            if head != its_head:
                raise ArgumentError(f"{name}: {_ALONE[name]}; leave it out.")
        if options.threads < 1:
            raise ArgumentError(f"threads: expected at least 1, got {options.threads}.")
        if not options.text:
            raise ArgumentError("text: name the sentences, each in quotes.")
        numbers = {"tokens": options.tokens or _TOKENS, "top": options.top or _TOP}
        recorded = {**super().resolve(options, inputs), **numbers, "head": head}
        for text in options.text:
            _encode(text, recorded, inputs)
        return recorded

    @classmethod
    def work(cls, recorded: Mapping[str, Any], inputs: Inputs) -> list[Json]:
        """One text a shard."""
        return [{"text": number} for number in range(len(recorded["text"]))]

    def update(self, unit: Mapping[str, Any], progress: Progress) -> Self:
        """Complete one text."""
        from outdim.models import architecture
        from outdim.models.completion import continue_prompt, fill_masks

        inputs, recorded, number = self.inputs, self.recorded, unit["text"]
        model = inputs.model_with(recorded["head"])
        inputs.resources.check_stop()
        found = inputs.keep("fill_architecture", lambda: architecture(model))
        ids = _encode(recorded["text"][number], recorded, inputs)
        ablations = [variant.ablation for variant in self.variants]
        if recorded["head"] == "mlm":
            mask = inputs.tokenizer.mask_token_id
            tokens, chance = fill_masks(
                model, ids, mask, ablations, top=recorded["top"], found=found
            )
            self.tensors |= {f"{number}/ids": tokens, f"{number}/probability": chance}
        else:
            tokens = continue_prompt(model, ids, recorded["tokens"], ablations, found=found)
            self.tensors[f"{number}/ids"] = tokens
        progress(len(ids))
        return self

    def result(self) -> Filling:
        """The texts side by side."""
        return Filling(
            head=self.recorded["head"],
            texts=tuple(self.recorded["text"]),
            prompts=tuple(
                tuple(_encode(text, self.recorded, self.inputs)) for text in self.recorded["text"]
            ),
            variants=tuple(self.variants),
            found=self.state_dict(),
            tokenizer=self.inputs.tokenizer,
        )


def _encode(text: str, recorded: Mapping[str, Any], inputs: Inputs) -> list[int]:
    """Ids of a text with its template, or of a prompt with what stands before a text.

    Raises:
        ArgumentError: A text without a mask where one is expected, or the other way round; one that
            is too long.
    """
    from outdim.models import sequence_length
    from outdim.tokens.tokenizer import backend, template

    tokenizer = inputs.tokenizer
    mask, masked = tokenizer.mask_token, recorded["head"] == "mlm"
    own = text if mask is None else _MASKS.sub(lambda found: mask, text)
    prefix, suffix = template(backend(tokenizer))
    ids: list[int] = prefix + tokenizer(own, add_special_tokens=False)["input_ids"]
    if masked:
        ids += suffix
        if tokenizer.mask_token_id is None or tokenizer.mask_token_id not in ids:
            raise ArgumentError(f"text: expected a mask ([MASK] or <mask>) in {text!r}, got none.")
    elif _MASKS.search(text):
        raise ArgumentError(
            f"text: this model continues a text; expected a prompt without masks, got {text!r}."
        )
    room = sequence_length(inputs.model, None)
    if (length := len(ids) + (0 if masked else recorded["tokens"])) > room:
        raise ArgumentError(f"text: expected at most {room} tokens, got {length} with {text!r}.")
    return ids


def fill(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    texts: str | Sequence[str],
    *,
    ablations: Sequence[Ablation | int | Sequence[int]] = (),
    controls: int = 10,
    control_kind: Kind = "random",
    tokens: int | None = None,
    top: int | None = None,
    seed: int = 0,
) -> Filling:
    """Let a model fill in or continue texts, intact, ablated and with other dimensions off.

    Args:
        model: A masked or causal language model of Hugging Face, in eval mode.
        tokenizer: Its tokenizer.
        texts: Sentences with masks ([MASK], <mask>), or prompts.
        ablations: What is disabled, a variant each: `outdim.Ablation`, or dimensions.
        controls: Sets of as many other dimensions, for each kind of ablation.
        control_kind: See `outdim.controls`.
        tokens: By how many tokens a prompt is continued; None takes 40.
        top: How many tokens are kept for each mask; None takes 5.
        seed: Of the controls.

    Raises:
        ArgumentError: The model has no such head or dimensions, or is in training mode; a text
            without masks for a masked language model, or with masks for another; tokens for the
            one or top for the other, without effect.

    Example:
        >>> print(fill(model, tokenizer, "The capital of France is", ablations=[507]).markdown())
        ... # doctest: +SKIP
    """
    inputs = Inputs.of(model=model, tokenizer=tokenizer)
    given = [texts] if isinstance(texts, str) else list(texts)
    options = FillOptions(text=given, tokens=tokens, top=top)
    beside = {"controls": controls, "kind": control_kind}
    return (
        run_variants(Fill, options, inputs, ablations, seed=seed, **beside).result().beside(inputs)
    )
