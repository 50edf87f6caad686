"""Token frequencies: how often each id of a vocabulary occurs, kept by id."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from outdim.errors import ArgumentError, DataError
from outdim.stats.ranks import double_mid_ranks
from outdim.tokens.labels import token_bytes, token_labels
from outdim.tokens.tokenizer import special_ids, vocabulary_size

Top = list[tuple[int, str, int]]


@dataclass(frozen=True)
class Coverage:
    """How frequencies and a tokenizer fit: see `TokenFrequencies.coverage`.

    Attributes:
        vocabulary: Ids of the tokenizer.
        seen: How many of them were counted at least once.
        differing: Ids where the labels of the two differ.
        lost: Counted tokens at ids that the tokenizer does not have.
    """

    vocabulary: int
    seen: int
    differing: tuple[int, ...]
    lost: int

    @property
    def fits(self) -> bool:
        """Whether both speak of the same vocabulary."""
        return not self.differing and not self.lost


@dataclass(frozen=True)
class TokenFrequencies:
    """Counts by token id.

    Attributes:
        counts: int64 [V], occurrences, those of the template's special tokens included, exactly as
            in ``tokenizer(text)``.
        special: bool [V], ids that stand for no text.
        tokens: Labels for people, never keys.
        documents: int64 [V], in how many documents an id occurs; None where that was not counted.
        raw: The bytes an id stands for where that is defined (byte-level and byte-fallback
            vocabularies).
        unjoined: Published counts that belong to no single id (`from_counts_json`).
        info: How it was counted (method, why, accounting).

    Raises:
        ArgumentError: A field is not as long as the others.

    Example:
        >>> counts = np.array([5, 0, 2])
        >>> freq = TokenFrequencies(counts, np.array([True, False, False]), ("[CLS]", "a", "b"))
        >>> (freq + freq).of([2]).tolist(), freq.total_tokens, freq.special_tokens
        ([4], 7, 5)
    """

    counts: NDArray[np.int64]
    special: NDArray[np.bool_]
    tokens: tuple[str, ...]
    documents: NDArray[np.int64] | None = None
    raw: tuple[bytes | None, ...] | None = None
    unjoined: tuple[tuple[str, int], ...] = ()
    info: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        size = len(self.counts)
        for name in ("special", "tokens", "documents", "raw"):
            value = getattr(self, name)
            if value is not None and len(value) != size:
                raise ArgumentError(
                    f"{name}: expected one for each of the {size} ids, got {len(value)}"
                )

    @classmethod
    def for_tokenizer(
        cls,
        tokenizer: Any,
        counts: NDArray[np.int64],
        documents: NDArray[np.int64] | None = None,
        info: dict[str, Any] | None = None,
    ) -> TokenFrequencies:
        """Counts with the labels of a tokenizer.

        Args:
            tokenizer: A fast tokenizer.
            counts: int64 [V].
            documents: int64 [V], in how many documents an id occurs.
            info: How it was counted.
        """
        special = np.zeros(len(counts), bool)
        special[[i for i in special_ids(tokenizer) if i < len(counts)]] = True
        labels = token_labels(tokenizer, len(counts))
        return cls(
            counts, special, labels, documents, token_bytes(tokenizer, labels), (), info or {}
        )

    @property
    def total_tokens(self) -> int:
        """All tokens counted."""
        return int(self.counts.sum())

    @property
    def special_tokens(self) -> int:
        """Those of them with special ids."""
        return int(self.counts[self.special].sum())

    def __len__(self) -> int:
        return len(self.counts)

    def __add__(self, other: TokenFrequencies) -> TokenFrequencies:
        if self.tokens != other.tokens:
            raise ArgumentError(
                f"frequencies of different vocabularies ({len(self)} and {len(other)} ids) "
                "cannot be added"
            )
        documents = None
        if self.documents is not None and other.documents is not None:
            documents = self.documents + other.documents
        unjoined = (*self.unjoined, *other.unjoined)
        return TokenFrequencies(
            self.counts + other.counts,
            self.special | other.special,
            self.tokens,
            documents,
            self.raw,
            unjoined,
        )

    def log1p(self) -> NDArray[np.float64]:
        """log(1 + count), float64 [V]."""
        return np.log1p(self.counts.astype(np.float64))

    def mid_rank(self) -> NDArray[np.float64]:
        """Rank of each id's occurrences among all, sorted by their id's count; float64 [V].

        Ties share the middle of their ranks, so that Pearson's r against it has in it what
        Spearman's has on the side of the frequency, over the text that was counted. Always a
        multiple of 1/2; the rarest come first.
        """
        return double_mid_ranks(self.counts) / 2

    def of(self, ids: ArrayLike) -> NDArray[np.int64]:
        """Counts of the given ids, int64 in their shape.

        Args:
            ids: Integers of any shape.

        Raises:
            ArgumentError: An id lies outside the vocabulary.
        """
        wanted = np.asarray(ids, dtype=np.int64)
        if wanted.size and (wanted.min() < 0 or wanted.max() >= len(self)):
            bad = wanted[(wanted < 0) | (wanted >= len(self))].flat[0]
            raise ArgumentError(f"ids: expected 0 to {len(self) - 1}, got {bad}")
        return self.counts[wanted]

    def top(self, n: int = 20, *, special: bool = False) -> Top:
        """The most frequent as (id, token, count), ties by id.

        Args:
            n: How many.
            special: Whether special ids are among them.
        """
        counts = self.counts if special else np.where(self.special, -1, self.counts)
        order = np.argsort(-counts, kind="stable")[:n]
        return [(int(i), self.tokens[i], int(self.counts[i])) for i in order if counts[i] >= 0]

    def coverage(self, tokenizer: Any) -> Coverage:
        """How these counts fit a tokenizer: seen ids, differing labels, counts beyond it."""
        size = vocabulary_size(tokenizer)
        labels = token_labels(tokenizer, size)
        shared = min(size, len(self))
        differing = tuple(i for i in range(shared) if labels[i] != self.tokens[i])
        seen = int(np.count_nonzero(self.counts[:shared]))
        return Coverage(size, seen, differing, int(self.counts[shared:].sum()))

    def table(self) -> Any:
        """The Arrow table with id, token, bytes, special, count, documents; one row an id."""
        import pyarrow as pa

        size = len(self)
        columns = {
            "id": pa.array(np.arange(size), pa.int64()),
            "token": pa.array(self.tokens, pa.string()),
            "bytes": pa.array(self.raw or [None] * size, pa.binary()),
            "special": pa.array(self.special, pa.bool_()),
            "count": pa.array(self.counts, pa.int64()),
            "documents": pa.array(
                [None] * size if self.documents is None else self.documents, pa.int64()
            ),
        }
        notes = {
            "outdim": json.dumps({"info": self.info, "unjoined": self.unjoined}, ensure_ascii=True)
        }
        return pa.table(columns).replace_schema_metadata(notes)

    def to_parquet(self, path: str | Path) -> None:
        """Write `table` as parquet."""
        import pyarrow.parquet as pq

        pq.write_table(self.table(), path, compression="zstd")

    @classmethod
    def from_parquet(cls, path: str | Path) -> TokenFrequencies:
        """Read what `to_parquet` wrote.

        Raises:
            DataError: There is no such file, or it is of another kind, or a column is not as it
                was written: int64 counts of 0 or more, none missing.
        """
        from outdim.tables import read_parquet

        table = read_parquet(Path(path))
        for name, kind in _COLUMNS.items():
            _check_column(table, name, kind, path)
        if not np.array_equal(table["id"].to_numpy(), np.arange(len(table))):
            raise DataError(f"{path}: id: expected 0, 1, 2, ... in this order")
        try:
            notes = json.loads((table.schema.metadata or {}).get(b"outdim", b"{}"))
            unjoined = tuple((str(text), int(count)) for text, count in notes.get("unjoined", ()))
            info = dict(notes.get("info", {}))
        except (ValueError, TypeError, AttributeError) as error:
            raise DataError(f"{path}: its notes cannot be read ({error})") from error
        given = {name: table[name] for name in ("documents", "bytes") if name in table.column_names}
        kept = {name: column for name, column in given.items() if column.null_count < len(table)}
        if "documents" in kept:
            _check_column(table, "documents", "int64", path)
        return cls(
            counts=table["count"].to_numpy(),
            special=np.array(table["special"].to_pylist(), bool),
            tokens=tuple(table["token"].to_pylist()),
            documents=kept["documents"].to_numpy() if "documents" in kept else None,
            raw=tuple(kept["bytes"].to_pylist()) if "bytes" in kept else None,
            unjoined=unjoined,
            info=info,
        )

    @classmethod
    def load(cls, path: str | Path, tokenizer: Any = None) -> TokenFrequencies:
        """Read counts from a file of any kind: of a run, as parquet, or published as JSON.

        Args:
            path: A run directory (whose checksum is checked), a counts.parquet, or a JSON list of
                [string, count].
            tokenizer: Whose strings those of a JSON list are.

        Raises:
            ArgumentError: JSON is given without a tokenizer.
            DataError: There is no such file, or it holds no counts.
        """
        from outdim import manifest

        file = Path(path)
        if file.is_dir():
            file = manifest.result_path(file, "counts.parquet")
        try:
            with file.open("rb") as opened:
                beginning = opened.read(64).lstrip(b"\xef\xbb\xbf \t\r\n")
        except OSError as error:
            raise DataError(
                f"counts: there is no {file}; write one with `outdim count` ({error.strerror})"
            ) from error
        if not beginning.startswith((b"[", b"{")):
            return cls.from_parquet(file)
        if tokenizer is None:
            raise ArgumentError(f"tokenizer: expected one, as {file} counts strings and not ids")
        return cls.from_counts_json(file, tokenizer)

    @classmethod
    def from_counts_json(cls, path: str | Path, tokenizer: Any) -> TokenFrequencies:
        """Published counts: a JSON list of [decoded string, count], joined by how each id decodes.

        A string that several ids decode to (all partial UTF-8 bytes of a byte-level vocabulary give
        U+FFFD), or none, is listed in ``unjoined`` and counted nowhere: what cannot be known is not
        made up. Encoding the strings again instead, as has been done, gives every ``##`` piece of
        BERT the count 0.

        Args:
            path: The file.
            tokenizer: By which the strings are decoded.

        Raises:
            DataError: It is no such list.
        """
        try:
            rows = json.loads(Path(path).read_text(encoding="utf-8-sig"))
            pairs = [(text, count) for text, count in rows]
        except (OSError, ValueError, TypeError, RecursionError) as error:
            raise DataError(f"{path}: expected a JSON list of [string, count] ({error})") from error
        for text, count in pairs:
            if not isinstance(text, str) or type(count) is not int or not 0 <= count < 1 << 63:
                raise DataError(
                    f"{path}: expected [string, count] with a count of 0 or more, got "
                    f"{json.dumps([text, count])[:80]}"
                )
        size = vocabulary_size(tokenizer)
        known = sorted(set(tokenizer.get_vocab().values()))
        ids_of: dict[str, list[int]] = defaultdict(list)
        for i in known:
            ids_of[tokenizer.decode([i])].append(i)
        counts = np.zeros(size, np.int64)
        unjoined = []
        for text, count in pairs:
            ids = ids_of.get(text, ())
            if len(ids) == 1:
                counts[ids[0]] += count
            else:
                unjoined.append((text, count))
        freq = cls.for_tokenizer(tokenizer, counts, info={"published": str(path)})
        return cls(
            freq.counts, freq.special, freq.tokens, None, freq.raw, tuple(unjoined), freq.info
        )


_COLUMNS = {"id": "int64", "token": "string", "special": "bool", "count": "int64"}


def _check_column(table: Any, name: str, kind: str, path: str | Path) -> None:
    """Raise DataError unless a column is there once, of a type, whole, and not negative."""
    times = table.column_names.count(name)
    if times != 1:
        raise DataError(f"{path}: no token counts: the column {name} is there {times} times")
    column = table[name]
    if str(column.type) != kind or column.null_count:
        raise DataError(
            f"{path}: {name}: expected {kind} without nulls, got {column.type} with "
            f"{column.null_count} nulls"
        )
    if kind == "int64" and len(column) and (least := int(column.to_numpy().min())) < 0:
        raise DataError(f"{path}: {name}: expected 0 or more, got {least}")
