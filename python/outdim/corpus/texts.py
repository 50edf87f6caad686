"""Blocks of documents as bytes, and the account of what was read and what was left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

ASCII_BLANKS = b" \t\n\v\f\r"
_IS_BLANK = np.zeros(256, dtype=bool)
_IS_BLANK[list(ASCII_BLANKS)] = True
#: Places that an account names.
KEPT_PLACES = 20


@dataclass
class Accounting:
    """What became of the rows of some units: add two with ``+``.

    Attributes:
        documents: That were read.
        characters: Code points in them.
        bytes: Of them as UTF-8.
        tokens: All ids of them.
        special: Those among them that the tokenizer's template added.
        skipped: Rows that are no documents by reason ("blank", "null", "short", "broken line",
            ...).
        places: Names the first of the broken ones.
    """

    documents: int = 0
    characters: int = 0
    bytes: int = 0
    tokens: int = 0
    special: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    places: list[str] = field(default_factory=list)

    def __add__(self, other: Accounting) -> Accounting:
        return Accounting(
            self.documents + other.documents,
            self.characters + other.characters,
            self.bytes + other.bytes,
            self.tokens + other.tokens,
            self.special + other.special,
            self.skipped + other.skipped,
            (self.places + other.places)[:KEPT_PLACES],
        )

    @property
    def has_room(self) -> bool:
        """Whether one more place would be kept."""
        return len(self.places) < KEPT_PLACES

    def skip(self, reason: str, place: str | None = None, rows: int = 1) -> None:
        """Count ``rows`` rows as left out; ``place`` says where, for what should be looked at."""
        if rows:
            self.skipped[reason] += rows
        if place is not None and self.has_room:
            self.places.append(place)

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON-able fields; `from_dict` is the way back."""
        return {
            "documents": self.documents,
            "characters": self.characters,
            "bytes": self.bytes,
            "tokens": self.tokens,
            "special": self.special,
            "skipped": dict(sorted(self.skipped.items())),
            "places": list(self.places),
        }

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Accounting:
        """Read what `as_dict` wrote."""
        return cls(**{**fields, "skipped": Counter(fields["skipped"])})


@dataclass(frozen=True)
class Texts:
    """A block of documents: document i is ``data[starts[i]:ends[i]]``, valid UTF-8.

    Attributes:
        data: uint8; bytes between documents belong to none.
        starts: int64 [documents].
        ends: int64 [documents].
    """

    data: NDArray[np.uint8]
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.starts)

    @classmethod
    def of(cls, strings: Sequence[str]) -> Texts:
        """A block of the given strings."""
        return cls.of_bytes([text.encode() for text in strings])

    @classmethod
    def of_bytes(cls, encoded: Sequence[bytes]) -> Texts:
        """A block of the given documents, encoded as UTF-8."""
        ends = np.cumsum([len(text) for text in encoded], dtype=np.int64)
        starts = np.concatenate([np.zeros(1, np.int64), ends[:-1]])[: len(encoded)]
        return cls(np.frombuffer(b"".join(encoded), np.uint8), starts, ends)

    @classmethod
    def of_arrow(cls, array: Any) -> Texts:
        """A block of an Arrow string array (nulls become empty), without a copy of its bytes."""
        import pyarrow as pa

        array = array.cast(pa.large_string())
        _, offsets, values = array.buffers()
        bounds = np.frombuffer(offsets, np.int64)[array.offset : array.offset + len(array) + 1]
        if not len(array) or values is None or not values.size:
            return cls.of_bytes([b""] * len(array))
        data = np.frombuffer(values, np.uint8)[bounds[0] : bounds[-1]]
        bounds = bounds - bounds[0]
        return cls(data, bounds[:-1], bounds[1:])

    def strings(self) -> Iterator[str]:
        """The documents as Python strings."""
        return (str(view, "utf-8") for view in self.views())

    def bytes(self) -> Iterator[bytes]:
        """The documents as bytes."""
        return map(bytes, self.views())

    def views(self) -> Iterator[memoryview]:
        """The documents as views of the block's bytes."""
        view = self.data.data
        for start, end in zip(self.starts.tolist(), self.ends.tolist(), strict=True):
            yield view[start:end]

    def take(self, keep: NDArray[np.bool_]) -> Texts:
        """Only the documents chosen by a boolean mask."""
        return self if keep.all() else Texts(self.data, self.starts[keep], self.ends[keep])

    def lengths(self) -> NDArray[np.int64]:
        """Bytes of each document."""
        return self.ends - self.starts

    def blank(self) -> NDArray[np.bool_]:
        """Which documents are empty or hold nothing but ASCII blanks."""
        blank: NDArray[np.bool_] = self.starts == self.ends
        filled = np.flatnonzero(~blank)
        if len(filled):
            at_ends = _IS_BLANK[self.data[self.starts[filled]]]
            at_ends &= _IS_BLANK[self.data[self.ends[filled] - 1]]
            for i in filled[at_ends]:
                blank[i] = _IS_BLANK[self.data[self.starts[i] : self.ends[i]]].all()
        return blank

    def characters(self) -> NDArray[np.int64]:
        """Code points of each document: its bytes without UTF-8 continuation bytes."""
        continues = self.data.view(np.int8) < -64
        if len(self) << 16 < len(self.data):  # long ones: positions take eight times the bytes
            inside = [
                np.count_nonzero(continues[start:end])
                for start, end in zip(self.starts, self.ends, strict=True)
            ]
            return self.lengths() - np.array(inside, np.int64)
        at = np.flatnonzero(continues)
        if not len(at):
            return self.lengths()
        return self.lengths() - np.searchsorted(at, self.ends) + np.searchsorted(at, self.starts)


def admit(block: Texts, min_chars: int, account: Accounting) -> Texts:
    """Leave blank and short documents out, and enter the rest in the account."""
    blank = block.blank()
    if blank.any():
        account.skip("blank", rows=int(blank.sum()))
        block = block.take(~blank)
    characters = block.characters()
    if min_chars > 0:
        short = characters < min_chars
        if short.any():
            account.skip("short", rows=int(short.sum()))
            block, characters = block.take(~short), characters[~short]
    account.documents += len(block)
    account.characters += int(characters.sum())
    account.bytes += int(block.lengths().sum())
    return block
