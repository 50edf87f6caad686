"""Tokenizers: load one, check that it belongs to a model, read its template."""

from __future__ import annotations

import hashlib
from typing import Any

from outdim import hub
from outdim.errors import ArgumentError, DataError


def load_tokenizer(name_or_path: str) -> Any:
    """The tokenizer of a model: a Hugging Face id or a local directory; it must be a fast one.

    Raises:
        DataError: there is none, or it has no fast (``tokenizers``) backend.
    """
    from transformers import AutoTokenizer

    name = hub.expand("tokenizer", name_or_path)
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
    except (
        Exception
    ) as error:  # missing files, no network, unknown class, code that would have to be run
        raise DataError(f"tokenizer: {name_or_path!r} cannot be loaded ({error})") from error
    if not getattr(tokenizer, "is_fast", False):
        raise DataError(
            f"tokenizer: {name_or_path!r} is a {type(tokenizer).__name__} without a fast backend; "
            "convert it to a tokenizer.json (transformers.convert_slow_tokenizer)"
        )
    return tokenizer


def backend(tokenizer: Any) -> Any:
    """A copy of the ``tokenizers.Tokenizer`` inside, with truncation and padding off.

    Raises:
        ArgumentError: ``tokenizer`` is no fast tokenizer of transformers.
    """
    from tokenizers import Tokenizer

    if not hasattr(tokenizer, "backend_tokenizer"):
        raise ArgumentError(
            f"tokenizer: expected what outdim.load_tokenizer gives, got {type(tokenizer).__name__}"
        )
    copy = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    copy.no_truncation()
    copy.no_padding()
    copy.encode_special_tokens = bool(getattr(tokenizer, "split_special_tokens", False))
    return copy


def tokenizer_sha256(tokenizer: Any) -> str:
    """Hash of all that decides the ids of a text, without truncation and padding."""
    return hashlib.sha256(backend(tokenizer).to_str().encode()).hexdigest()


def vocabulary_size(tokenizer: Any) -> int:
    """One more than the largest id the tokenizer knows, added tokens included."""
    vocabulary = tokenizer.get_vocab()
    if not vocabulary:
        raise DataError("tokenizer: its vocabulary is empty")
    return int(max(vocabulary.values())) + 1


def special_ids(tokenizer: Any) -> set[int]:
    """Ids that stand for no text: [CLS], [SEP], [PAD], <s>, ...

    The unknown token stands for text and is not among them, unless it serves as another special
    token too (as GPT-2's <|endoftext|> does).
    """
    found = set(tokenizer.all_special_ids)
    unknown = tokenizer.unk_token_id
    roles = (
        "bos_token_id",
        "eos_token_id",
        "sep_token_id",
        "pad_token_id",
        "cls_token_id",
        "mask_token_id",
    )
    if unknown is not None and all(getattr(tokenizer, role, None) != unknown for role in roles):
        found.discard(unknown)
    return found


def check_tokenizer(tokenizer: Any, vocab_size: int, config: Any = None) -> None:
    """Raise DataError unless every id of the tokenizer is below a model's ``vocab_size``.

    >>> check_tokenizer(load_tokenizer("bert-base-uncased"), 28996)  # doctest: +SKIP
    Traceback (most recent call last):
    outdim.errors.DataError: tokenizer: it has ids up to 30521, ...
    """
    size = vocabulary_size(tokenizer)
    if size > vocab_size:
        last = next(token for token, i in tokenizer.get_vocab().items() if i == size - 1)
        raise DataError(
            f"tokenizer: it has ids up to {size - 1} ({last!r}), the model's vocabulary ends at "
            f"{vocab_size - 1}. They do not belong together: give the tokenizer that came with "
            "the model"
        )
    if size < vocab_size // 2:
        raise DataError(
            f"tokenizer: it knows {size} ids, the model's vocabulary has {vocab_size}. They do not "
            "belong together: give the tokenizer that came with the model"
        )
    # Not eos: chat models end a turn with another token than the text they were trained on.
    for role in ("pad_token_id", "bos_token_id", "cls_token_id", "sep_token_id"):
        mine, its = getattr(tokenizer, role, None), getattr(config, role, None)
        if isinstance(mine, int) and isinstance(its, int) and mine != its:
            raise DataError(
                f"tokenizer: its {role} is {mine}, that of the model's config {its}. They do "
                "not belong together: give the tokenizer that came with the model"
            )
    prefix, suffix = template(backend(tokenizer))
    lost = [i for i in (*prefix, *suffix) if i >= vocab_size]
    if lost:
        raise DataError(
            f"tokenizer: its template adds the ids {lost}, the vocabulary ends at {vocab_size - 1}"
        )


def template(inner: Any) -> tuple[list[int], list[int]]:
    """The ids a tokenizer puts before and after a text, as ([CLS], [SEP]) of BERT."""
    bare: list[int] = []
    for text in ("a", "1", ".", "A b c"):
        bare = inner.encode(text, add_special_tokens=False).ids
        if bare:
            break
    full = inner.encode(text, add_special_tokens=True).ids
    for at in range(len(full) - len(bare) + 1):
        if full[at : at + len(bare)] == bare:
            return full[:at], full[at + len(bare) :]
    raise DataError(
        f"tokenizer: its template is not of the form prefix, text, suffix: {text!r} gives {full}"
    )
