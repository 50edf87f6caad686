"""Tokenizers: load one, check that it belongs to a model, read its template and special ids."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from outdim import gguf, hub
from outdim.errors import ArgumentError, DataError

_ROLES = (
    "bos_token_id",
    "eos_token_id",
    "sep_token_id",
    "pad_token_id",
    "cls_token_id",
    "mask_token_id",
)
_MARKER = (1 << 32) - 1  # stands for the text of a template: no vocabulary is so large


def load_tokenizer(name_or_path: str | os.PathLike[str]) -> Any:
    """The tokenizer of a model: a Hugging Face id, a local directory, tokenizer.json or GGUF file.

    It must be a fast one. No code of its repository is run: a complete tokenizer.json beside such
    code is read as it is, and `check_tokenizer` says so.

    Args:
        name_or_path: Which one.

    Raises:
        DataError: There is none, or it has no fast (``tokenizers``) backend.
    """
    from transformers import PreTrainedTokenizerFast

    name = hub.expand("tokenizer", name_or_path)
    if Path(name).is_file() and not gguf.is_gguf(Path(name)):
        with hub.foreign_errors(f"tokenizer: {name} is no tokenizer.json"):
            return PreTrainedTokenizerFast(tokenizer_file=name)
    name = gguf.directory_of("tokenizer", name)
    first: DataError | None = None
    for kind in _kinds(name):
        try:
            return _usable(hub.from_pretrained("tokenizer", kind, name), name)
        except DataError as error:
            first = first or error
    assert first is not None
    raise first


def _kinds(name: str) -> Iterator[Any]:
    """Classes of tokenizers that may read ``name``, the best one first."""
    from transformers import AutoTokenizer, BertTokenizer, PreTrainedTokenizerFast

    yield AutoTokenizer
    if not Path(name).is_dir() or (Path(name) / "tokenizer.json").is_file():
        yield PreTrainedTokenizerFast
    elif (Path(name) / "vocab.txt").is_file() and not _names_its_class(name):
        yield BertTokenizer  # vocab.txt is the file of WordPiece


def _names_its_class(name: str) -> bool:
    try:
        config = json.loads((Path(name) / "tokenizer_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return bool(config.get("tokenizer_class"))


def _usable(tokenizer: Any, name: str) -> Any:
    if not getattr(tokenizer, "is_fast", False):
        raise DataError(
            f"tokenizer: {name!r} is a {type(tokenizer).__name__} without a fast backend; give a "
            "tokenizer.json of the same vocabulary (transformers.convert_slow_tokenizer makes one "
            "for most classes)"
        )
    inner = tokenizer.backend_tokenizer
    added = set(inner.get_added_tokens_decoder())
    if len(set(inner.get_vocab().values()) - added) <= 1:  # Unigram has the space at least
        raise DataError(
            f"tokenizer: {name!r} knows {len(added)} special ids and no words: the vocabulary that "
            f"a {type(tokenizer).__name__} reads is not there; give a tokenizer.json"
        )
    return tokenizer


def backend(tokenizer: Any) -> Any:
    """A copy of the ``tokenizers.Tokenizer`` inside, with truncation and padding off.

    Raises:
        ArgumentError: ``tokenizer`` is no fast tokenizer of transformers.
    """
    from tokenizers import Tokenizer

    copy = Tokenizer.from_str(inside(tokenizer).to_str())
    copy.no_truncation()
    copy.no_padding()
    copy.encode_special_tokens = bool(getattr(tokenizer, "split_special_tokens", False))
    return copy


def tokenizer_sha256(tokenizer: Any) -> str:
    """Hash of all that decides the ids of a text, without truncation and padding."""
    return hashlib.sha256(backend(tokenizer).to_str().encode()).hexdigest()


def inside(tokenizer: Any) -> Any:
    """The ``tokenizers.Tokenizer`` inside a fast tokenizer of transformers.

    Raises:
        ArgumentError: There is none.
    """
    if not getattr(tokenizer, "is_fast", False) or not hasattr(tokenizer, "backend_tokenizer"):
        raise ArgumentError(
            "tokenizer: expected a fast tokenizer, as outdim.load_tokenizer gives it, got "
            f"{type(tokenizer).__name__}"
        )
    return tokenizer.backend_tokenizer


def vocabulary_size(tokenizer: Any) -> int:
    """One more than the largest id the tokenizer knows, added tokens included."""
    vocabulary = inside(tokenizer).get_vocab()
    if not vocabulary:
        raise DataError("tokenizer: its vocabulary is empty")
    return int(max(vocabulary.values())) + 1


def special_ids(tokenizer: Any) -> set[int]:
    """Ids that stand for no text: [CLS], <s>, <|start_header_id|>, ...

    They are those with a role (bos, pad, ...) and the added tokens that tokenizer.json marks as
    special. The unknown token stands for text and is not among them, unless it has another role too
    (as GPT-2's <|endoftext|> does).
    """
    inner = inside(tokenizer)
    roles = {i for role in _ROLES if isinstance(i := getattr(tokenizer, role, None), int)}
    marked = {i for i, token in inner.get_added_tokens_decoder().items() if token.special}
    unknown = {_unknown_id(inner), tokenizer.unk_token_id} - roles
    return (marked | roles | set(tokenizer.all_special_ids)) - unknown


def _unknown_id(inner: Any) -> int | None:
    """The id of the token that the model itself gives for what it does not know."""
    token = getattr(inner.model, "unk_token", None)
    if token is None:  # Unigram keeps a number
        found = json.loads(inner.to_str())["model"].get("unk_id")
        return found if found is None else int(found)
    found = inner.token_to_id(token)
    return found if found is None else int(found)


def padding_id(tokenizer: Any, vocab_size: int | None = None) -> int:
    """An id for padding: the tokenizer's where the model has it, else 0; nobody looks at it."""
    own = tokenizer.pad_token_id
    fits = isinstance(own, int) and (vocab_size is None or 0 <= own < vocab_size)
    return int(own) if fits else 0


def check_tokenizer(tokenizer: Any, vocab_size: int, config: Any = None) -> tuple[str, ...]:
    """Check that every id that a text can have is below a model's ``vocab_size``.

    Args:
        tokenizer: A fast tokenizer.
        vocab_size: Of the model.
        config: Of the model: where its special ids are others than the tokenizer's, that is worth
            a caution.

    Returns:
        Cautions: what a reader should know of this pair, and what is no reason to stop. Published
        checkpoints disagree with their own tokenizers, and pad their vocabularies.

    Raises:
        DataError: The tokenizer has ids that the model has not.

    Example:
        >>> check_tokenizer(load_tokenizer("bert-base-uncased"), 28996)  # doctest: +SKIP
        Traceback (most recent call last):
        outdim.errors.DataError: tokenizer: it has ids up to 30521, ...
    """
    size = vocabulary_size(tokenizer)
    prefix, suffix = template(backend(tokenizer))
    if lost := [i for i in (*prefix, *suffix) if i >= vocab_size]:
        raise DataError(
            f"tokenizer: its template adds the ids {lost}, the vocabulary ends at {vocab_size - 1}"
        )
    cautions = []
    if size > vocab_size:
        beyond = {i: token for token, i in tokenizer.get_vocab().items() if i >= vocab_size}
        if set(beyond) != {tokenizer.pad_token_id}:
            raise DataError(
                f"tokenizer: it has ids up to {size - 1} ({beyond[size - 1]!r}), the model's "
                f"vocabulary ends at {vocab_size - 1}. They do not belong together: give the "
                "tokenizer that came with the model"
            )
        cautions.append(
            f"The tokenizer's padding token {beyond[size - 1]!r} ({size - 1}) is not in the "
            f"model's vocabulary, which ends at {vocab_size - 1}: id 0 pads instead, masked."
        )
    if size < vocab_size // 2:
        cautions.append(
            f"The tokenizer knows {size} ids, the model {vocab_size}: make sure that they belong "
            "together."
        )
    # Not eos: chat models end a turn with another token than the text they were trained on.
    for role in ("pad_token_id", "bos_token_id", "cls_token_id", "sep_token_id"):
        mine, its = getattr(tokenizer, role, None), getattr(config, role, None)
        if isinstance(mine, int) and isinstance(its, int) and mine != its:
            cautions.append(
                f"The tokenizer's {role} is {mine}, that of the model's config {its}: the "
                "tokenizer's is taken."
            )
    if "auto_map" in getattr(tokenizer, "init_kwargs", ()):
        cautions.append(
            "The tokenizer's repository brings code of its own, which was not run: its "
            "tokenizer.json was read as it is."
        )
    return tuple(cautions)


def template(inner: Any) -> tuple[list[int], list[int]]:
    """The ids a tokenizer puts before and after a text, as ([CLS], [SEP]) of BERT.

    Asked of the post-processor itself, with a text that no vocabulary can have.
    """
    text = inner.encode("", add_special_tokens=False)
    text.pad(len(text.ids) + 1, pad_id=_MARKER)
    full = inner.post_process(text, None, True).ids
    if full.count(_MARKER) != 1:
        raise DataError(f"tokenizer: its template is not of the form prefix, text, suffix: {full}")
    at = full.index(_MARKER)
    return full[: at - len(text.ids) + 1], full[at + 1 :]
