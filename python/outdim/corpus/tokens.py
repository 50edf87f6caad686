"""Tokenizers, and documents cut into pieces and batches for a model, nothing lost."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from outdim import hub
from outdim.errors import ArgumentError, DataError

_ENCODE_BATCH = 256  # documents
_MAX_WASTE = 0.05


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


@dataclass(frozen=True)
class Piece:
    """At most ``max_length`` ids of one document: template, text, template.

    ``ids`` int64 [S]; ``special`` bool [S]: ids of the template and special tokens that stand in
    the text; ``document``: number of the document in the order read; ``offset``: which of its
    tokens is the first here.
    """

    ids: NDArray[np.int64]
    special: NDArray[np.bool_]
    document: int
    offset: int


def encode_pieces(texts: Iterable[str], tokenizer: Any, max_length: int) -> Iterator[Piece]:
    """Tokenize documents and cut each into pieces of at most ``max_length`` ids, template and all.

    The text ids of the pieces of a document are, put together, exactly those of ``tokenizer(text)``
    without truncation. A document without any token gives no piece.

    Raises:
        ArgumentError: ``max_length`` leaves no room for text.
    """
    inner = backend(tokenizer)
    prefix, suffix = template(inner)
    room = max_length - len(prefix) - len(suffix)
    if room < 1:
        raise ArgumentError(
            f"max_length: expected at least {max_length - room + 1}, got {max_length}"
        )
    special = np.zeros(vocabulary_size(tokenizer), bool)
    special[list(special_ids(tokenizer))] = True
    document = 0
    for group in _groups(texts, _ENCODE_BATCH):
        for encoding in inner.encode_batch_fast(group, add_special_tokens=False):
            text_ids = np.array(encoding.ids, np.int64)
            for offset in range(0, len(text_ids), room):
                part = text_ids[offset : offset + room]
                ids = np.concatenate([np.array(prefix, np.int64), part, np.array(suffix, np.int64)])
                mask = special[ids]
                mask[: len(prefix)] = True
                mask[len(prefix) + len(part) :] = True
                yield Piece(ids, mask, document, offset)
            document += 1


def _groups(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    group = []
    for item in items:
        group.append(item)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


@dataclass(frozen=True)
class Batch:
    """Pieces side by side, padded at the right to the longest: all tensors are [B, S].

    ``input_ids`` int64; ``attention_mask`` int64, 0 where padded; ``special`` bool: template and
    special tokens; ``position`` int64: 0, 1, 2, ... within the piece; ``documents`` int64 [B]:
    which document each piece is of.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    special: torch.Tensor
    position: torch.Tensor
    documents: torch.Tensor

    @property
    def tokens(self) -> int:
        """Ids that are not padding."""
        return int(self.attention_mask.sum())

    @property
    def padded(self) -> int:
        """Padding ids."""
        return self.input_ids.numel() - self.tokens

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on a device."""
        return Batch(*(getattr(self, field.name).to(device) for field in fields(self)))

    def halves(self) -> tuple[Batch, Batch]:
        """The first and the second half of the pieces."""
        middle = len(self.input_ids) // 2
        parts = (slice(None, middle), slice(middle, None))
        first, second = (
            Batch(*(getattr(self, field.name)[part] for field in fields(self))) for part in parts
        )
        return first, second


def batches(
    pieces: Iterable[Piece], token_budget: int, window: int = 4096, *, pad_id: int = 0
) -> Iterator[Batch]:
    """Put pieces of similar length together in batches of at most ``token_budget`` ids, padded.

    Within every ``window`` pieces the longest come first; a batch is closed before its padding
    would exceed 5 %. A piece longer than the budget is a batch of its own. Every piece comes
    exactly once.
    """
    if token_budget < 1:
        raise ArgumentError(f"token_budget: expected at least 1, got {token_budget}")
    if window < 1:
        raise ArgumentError(f"window: expected at least 1, got {window}")
    for group in _groups(pieces, window):
        group.sort(key=lambda piece: -len(piece.ids))
        held: list[Piece] = []
        used = 0
        for piece in group:
            if held:
                cells = (len(held) + 1) * len(held[0].ids)
                if cells > token_budget or cells - used - len(piece.ids) > _MAX_WASTE * cells:
                    yield _batch(held, pad_id)
                    held, used = [], 0
            held.append(piece)
            used += len(piece.ids)
        yield _batch(held, pad_id)


def _batch(pieces: list[Piece], pad_id: int) -> Batch:
    shape = (len(pieces), len(pieces[0].ids))
    ids = np.full(shape, pad_id, np.int64)
    mask = np.zeros(shape, np.int64)
    special = np.zeros(shape, bool)
    for row, piece in enumerate(pieces):
        ids[row, : len(piece.ids)] = piece.ids
        mask[row, : len(piece.ids)] = 1
        special[row, : len(piece.ids)] = piece.special
    position = torch.arange(shape[1]).expand(shape).contiguous()
    documents = torch.tensor([piece.document for piece in pieces])
    return Batch(
        torch.from_numpy(ids),
        torch.from_numpy(mask),
        torch.from_numpy(special),
        position,
        documents,
    )
