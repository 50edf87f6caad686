"""Tokens of a text by the characters they stand for, and the text with another in the place."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

from outdim.tokens.tokenizer import backend, special_ids

#: Characters of a text that are kept on either side of a token that is exchanged.
CONTEXT = 100


class Placed(NamedTuple):
    """A text, and from where to where a token stands in it."""

    text: str
    start: int
    end: int


class InPlace:
    """Writes tokens where others stand.

    Args:
        tokenizer: A fast tokenizer.

    Example:
        >>> from transformers import AutoTokenizer  # doctest: +SKIP
        >>> tokenizer = AutoTokenizer.from_pretrained("bert-base-uncased")  # doctest: +SKIP
        >>> place, (cat,) = InPlace(tokenizer), tokenizer.convert_tokens_to_ids(["cat"])
        ... # doctest: +SKIP
        >>> place.written("The dog sat.", (4, 7), cat)  # doctest: +SKIP
        Placed(text='The cat sat.', start=4, end=7)
    """

    def __init__(self, tokenizer: Any) -> None:
        self._inner = backend(tokenizer)
        added = self._inner.get_added_tokens_decoder()
        marked = {i for i, token in added.items() if token.special}
        self._special = special_ids(tokenizer) | marked | {tokenizer.unk_token_id}
        self._anchor = next(
            (i for i in range(self._inner.get_vocab_size()) if self._is_anchor(i)), None
        )
        self._surface = lru_cache(maxsize=None)(self._surface_of)

    def spans(self, text: str) -> list[tuple[int, int]]:
        """From which to which character each token of a text stands, blanks around it left out."""
        offsets = self._inner.encode(text, add_special_tokens=False).offsets
        return [_stripped(text, start, end) for start, end in offsets]

    def is_special(self, token: int) -> bool:
        """Whether a token stands for no word: special ones, that for what is unknown.

        And ids that the tokenizer does not have: models pad their vocabularies.
        """
        return token in self._special or self._inner.id_to_token(token) is None

    def surface(self, token: int) -> tuple[str, bool]:
        """What a token stands for without blanks around it, and whether a blank comes before it."""
        return self._surface(token)

    def written(self, text: str, span: tuple[int, int], token: int) -> Placed:
        """A text with ``token`` where another stands, within `CONTEXT` characters of it.

        A token that begins a word is written with a blank before it, one that goes on with a word
        without; what comes after stays as it is, so that the rest of a word is the rest of the
        other one.
        """
        start, end = span
        word, apart = self.surface(token)
        left, right = text[_blank_before(text, start) : start], text[end : _blank_after(text, end)]
        if apart and left and not left[-1].isspace():
            left += " "
        elif not apart:
            left = left.rstrip()
        return Placed(left + word + right, len(left), len(left) + len(word))

    def _is_anchor(self, token: int) -> bool:
        """Whether a token is a plain word, after which others show how they are written."""
        text = self._inner.decode([token], skip_special_tokens=False).strip()
        return token not in self._special and text.isascii() and text.isalnum()

    def _surface_of(self, token: int) -> tuple[str, bool]:
        before = [] if self._anchor is None else [self._anchor]
        alone = self._inner.decode(before, skip_special_tokens=False)
        both = self._inner.decode([*before, token], skip_special_tokens=False)
        # What a decoder cleans up (" n't") may reach into what comes before.
        text = both[len(alone) :] if both.startswith(alone) else self._inner.decode([token])
        return text.strip(), text[:1].isspace()


def _stripped(text: str, start: int, end: int) -> tuple[int, int]:
    own = text[start:end]
    if not own.strip():
        return end, end  # blanks alone
    return end - len(own.lstrip()), start + len(own.rstrip())


def _blank_before(text: str, start: int) -> int:
    """A place about `CONTEXT` characters before, at a blank where there is one."""
    first = start - CONTEXT
    if first <= 0:
        return 0
    blank = text.rfind(" ", max(0, first - CONTEXT), first)
    return max(0, first - CONTEXT) if blank < 0 else blank + 1


def _blank_after(text: str, end: int) -> int:
    """A place about `CONTEXT` characters after, at a blank where there is one."""
    last = end + CONTEXT
    blank = text.find(" ", last, last + CONTEXT)
    return min(len(text), last + CONTEXT if blank < 0 else blank)
