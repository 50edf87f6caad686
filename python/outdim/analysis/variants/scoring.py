"""What batches of documents predict, added up by document."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
import xxhash
from torch import Tensor

from outdim.analysis.inputs import Inputs
from outdim.analysis.results.evaluation import SUMS
from outdim.analysis.variants.runner import Predicted
from outdim.tokens import Piece
from outdim.tokens.tokenizer import backend, template


class Documents:
    """What is noted of the documents of a unit while they are read, by their number.

    Attributes:
        keys: 64 bits of the text and the seed, by which its masks are drawn.
        bytes: UTF-8.
        tokens: Without those of the template.
        texts: Themselves, where they are kept.
        before: Tokens of the template before a text.
    """

    def __init__(
        self, inputs: Inputs, seed: int, *, words: bool = False, texts: bool = False
    ) -> None:
        self._seed = seed
        self._inner = backend(inputs.tokenizer)
        self._template = tuple(map(len, template(self._inner)))
        self.before = self._template[0]
        self.texts: list[str] | None = [] if texts else None
        self._words: list[list[int | None]] | None = [] if words else None
        self.keys: list[int] = []
        self.bytes: list[int] = []
        self.tokens: dict[int, int] = {}

    def watch(self, texts: Iterable[str]) -> Iterator[str]:
        """Hand documents on, noting what they are."""
        for text in texts:
            encoded = text.encode()
            self.keys.append(xxhash.xxh64_intdigest(encoded, self._seed))
            self.bytes.append(len(encoded))
            if self._words is not None:
                self._words.append(self._inner.encode(text, add_special_tokens=False).word_ids)
            if self.texts is not None:
                self.texts.append(text)
            yield text

    def noting(self, pieces: Iterable[Piece]) -> Iterator[Piece]:
        """Hand pieces on, adding up their tokens."""
        for piece in pieces:
            own = len(piece.ids) - sum(self._template)
            self.tokens[piece.document] = self.tokens.get(piece.document, 0) + own
            yield piece

    def share(self, unit: Mapping[str, Any], tokens: int) -> float:
        """Which share of a unit so many tokens are, as far as what was read of it tells."""
        read, whole = sum(self.bytes), unit.get("size_bytes") or 0
        expected = sum(self.tokens.values()) * max(1.0, whole / read if read else 1.0)
        return min(1.0, tokens / expected) if expected else 1.0

    def words_of(self, piece: Piece) -> list[int | None]:
        """Which word of its document each token of a piece belongs to."""
        assert self._words is not None
        before, after = self._template
        own = len(piece.ids) - before - after
        words = self._words[piece.document][piece.offset : piece.offset + own]
        return [*[None] * before, *words, *[None] * after]


class Tally:
    """Sums by document of one unit.

    Attributes:
        columns: K, what is added up.
    """

    columns = len(SUMS)

    def __init__(self, variants: int, log_counts: Tensor, documents: Documents) -> None:
        self._variants, self._log_counts, self._read = variants, log_counts, documents
        self._parts: list[tuple[Tensor, Tensor, Tensor]] = []

    @property
    def documents(self) -> int:
        """How many documents there are in which something was predicted."""
        return len({number for part in self._parts for number in part[0].tolist()})

    @classmethod
    def nothing(cls, variants: int) -> dict[str, Tensor]:
        """The state of no document."""
        return {
            "sums": torch.zeros(0, variants, cls.columns, dtype=torch.float64),
            "tokens": torch.zeros(0, dtype=torch.int64),
            "bytes": torch.zeros(0, dtype=torch.float64),
        }

    def add(self, predicted: Predicted[Any]) -> None:
        """Take what a batch gave."""
        (documents, _, targets, _), found = predicted
        numbers, which = _numbered(documents.cpu())
        values = torch.stack([self._values(targets, one, found[0]) for one in found], 1)
        shape = (len(numbers), *values.shape[1:])
        sums = torch.zeros(shape, dtype=torch.float64).index_add_(0, which, values)
        self._parts.append((numbers, sums, which.bincount(minlength=len(numbers))))

    def _values(self, targets: Tensor, own: Any, intact: Any) -> Tensor:
        """[R, K]; on the CPU, where sums have one order."""
        predicted, true = own.predicted.cpu(), targets.cpu()
        # A logit of -inf that is not the true token's leaves the loss finite alone.
        finite = own.loss.isfinite() & own.kl.isfinite()
        if not own.brief:
            finite &= own.entropy.isfinite()
        return torch.stack(
            [
                own.loss.cpu(),
                (predicted == true).double(),
                own.entropy.cpu(),
                own.kl.cpu(),
                (predicted == intact.predicted.cpu()).double(),
                own.top.cpu(),
                self._log_counts[predicted] - self._log_counts[true],
                (~finite).double().cpu(),
            ],
            1,
        )

    def state(self) -> dict[str, Tensor]:
        """Of the documents in which something was predicted, in the order read."""
        if not self._parts:
            return self.nothing(self._variants)
        every, sums, tokens = (torch.cat(each) for each in zip(*self._parts, strict=True))
        numbers, which = _numbered(every)
        total = torch.zeros(len(numbers), *sums.shape[1:], dtype=torch.float64)
        scored = torch.zeros(len(numbers), dtype=torch.int64).index_add_(0, which, tokens)
        # What is not predicted is as long as what is.
        share = [self._read.bytes[n] / self._read.tokens[n] for n in numbers.tolist()]
        return {
            "sums": total.index_add_(0, which, sums),
            "tokens": scored,
            "bytes": scored * torch.tensor(share, dtype=torch.float64),
        }


def _numbered(documents: Tensor) -> tuple[Tensor, Tensor]:
    """The documents that there are, in order, and which of these each is."""
    numbers, which = np.unique(documents.numpy(), return_inverse=True)
    return torch.from_numpy(numbers), torch.from_numpy(which)
