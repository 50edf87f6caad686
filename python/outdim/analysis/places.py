"""Sets of tokens that models treat in their own way: special ones, the first, delimiters."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from outdim.tokens import GROUPS, special_ids
from outdim.tokens.labels import token_labels

if TYPE_CHECKING:
    from outdim.analysis.inputs import Inputs

_MOST_SPECIAL = 8
FIRST, DELIMITERS = "first position", "delimiters"
OTHER_SPECIAL, OTHER = "other special tokens", "other text"


@dataclass(frozen=True, eq=False)
class Places:
    """Names of places, and which ids belong to them.

    Attributes:
        names: Of the special tokens, of the delimiters, and of the first position of a sequence,
            which may be a special token as well.
        labels: The token of each id.
        member: [V, P - 1] float64, on the device of batches: 1 where an id is in a place that ids
            decide.
    """

    names: tuple[str, ...]
    labels: tuple[str, ...]
    member: Tensor

    @classmethod
    def of(cls, tokenizer: Any, vocab: int, device: torch.device) -> Places:
        """Those of a tokenizer: its special tokens but the one that pads, eight at most."""
        labels = token_labels(tokenizer, vocab)
        ids = sorted(i for i in special_ids(tokenizer) if i < vocab)
        special = [i for i in ids if i != tokenizer.pad_token_id or len(ids) == 1][:_MOST_SPECIAL]
        texts = tokenizer.batch_decode([[i] for i in range(min(vocab, len(tokenizer)))])
        delimiters = [i for i, text in enumerate(texts) if is_delimiter(text)]
        member = torch.zeros(vocab, len(special) + 1, dtype=torch.float64)
        member[special, torch.arange(len(special))] = 1
        member[delimiters, -1] = 1
        return cls((*(labels[i] for i in special), DELIMITERS, FIRST), labels, member.to(device))

    @classmethod
    def kept(cls, inputs: Inputs) -> Places:
        """Those of the tokenizer at hand, made once."""
        tokenizer, vocab = inputs.tokenizer, inputs.architecture.vocab_size
        return inputs.keep("places", lambda: cls.of(tokenizer, vocab, inputs.device))

    def of_batch(self, ids: Tensor, position: Tensor) -> Tensor:
        """[B, S, P] float64 of ids and positions [B, S]."""
        first = (position == 0).double()[..., None]
        return torch.cat([self.member[ids], first], -1)

    @property
    def kinds(self) -> tuple[str, ...]:
        """Names of disjoint kinds, of which every token of a group is one."""
        return (*self.names[:-2], OTHER_SPECIAL, FIRST, DELIMITERS, OTHER)

    def kind_of(self, ids: Tensor, group: Tensor) -> Tensor:
        """Which of the `kinds` tokens are of, int64 in the shape of ids.

        A special token is of its own kind, wherever it stands; the first position is that of
        ordinary tokens.
        """
        own, delimiter = (table[ids] for table in self._tables)
        special = len(self.names) - 2
        kind = torch.where(delimiter, special + 2, special + 3)
        kind = torch.where(group == 1 + GROUPS.index("first"), special + 1, kind)
        return torch.where(group == 1 + GROUPS.index("special"), own, kind)

    @cached_property
    def _tables(self) -> tuple[Tensor, Tensor]:
        """By id [V]: which special token it is, their number where none; whether it delimits."""
        special = self.member[:, :-1].bool()
        own = torch.full((len(special),), special.shape[1], device=special.device)
        for place in range(special.shape[1]):
            own[special[:, place]] = place
        return own, self.member[:, -1].bool()


def is_delimiter(text: str) -> bool:
    """Whether a token is punctuation and nothing else.

    >>> is_delimiter(" ."), is_delimiter("a."), is_delimiter(" ")
    (True, False, False)
    """
    text = text.strip()
    return bool(text) and all(unicodedata.category(letter).startswith("P") for letter in text)
