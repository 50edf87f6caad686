"""Labelled texts: one or two texts a row, and a label or a score."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.json
from numpy.typing import NDArray

from outdim.errors import DataError
from outdim.tables import read_parquet
from outdim.text import listing

_KINDS = ".tsv, .csv, .jsonl or .parquet"


@dataclass(frozen=True)
class Columns:
    """How a file names its columns.

    Attributes:
        texts: Of the text, or of the two texts.
        label: Of the label or score.
        headerless: Names of all columns of a .tsv whose first line is a row; none where such a file
            does not exist.
    """

    texts: tuple[str, ...]
    label: str = "label"
    headerless: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Those that are read."""
        return (*self.texts, self.label)

    def in_(self, names: Sequence[str]) -> bool:
        """Whether each is there once."""
        return all(names.count(name) == 1 for name in self.names)


@dataclass(frozen=True)
class LabelledTexts:
    """N rows.

    Attributes:
        texts: The first text of each.
        pairs: The second text of each; None where there is one.
        labels: [N]: numbers of labels as int64, or scores as float64.
    """

    texts: list[str]
    pairs: list[str] | None
    labels: NDArray[Any]

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, rows: int | None, seed: int) -> LabelledTexts:
        """So many rows drawn at random, in their order; all of them where there are no more."""
        if rows is None or rows >= len(self):
            return self
        return self.only(np.sort(np.random.default_rng(seed).permutation(len(self))[:rows]))

    def only(self, rows: NDArray[np.int64]) -> LabelledTexts:
        """Those with these numbers."""
        pairs = None if self.pairs is None else [self.pairs[i] for i in rows]
        return LabelledTexts([self.texts[i] for i in rows], pairs, self.labels[rows])

    @property
    def clusters(self) -> NDArray[np.int64]:
        """[N]: the same number for rows of the same first text, as MNLI has three a premise."""
        first = {text: number for number, text in reversed(list(enumerate(self.texts)))}
        return np.array([first[text] for text in self.texts], np.int64)

    @property
    def sha256(self) -> str:
        """Hash of texts and labels, wherever they came from."""
        content = [self.texts, self.pairs, self.labels.tolist()]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def read_labelled(
    files: Sequence[Path], columns: Sequence[Columns], labels: Sequence[str]
) -> LabelledTexts:
    """Read labelled files, one after the other.

    Args:
        files: .tsv (GLUE's: no quotes), .csv, .jsonl or .parquet.
        columns: Ways in which files name their columns; the first that fits is taken.
        labels: Names of the labels in the order of their numbers; none where they are scores.

    Raises:
        DataError: A file cannot be read or is empty, a column is missing, a label is unknown.
    """
    parts = [labelled_texts(_read(path, columns), str(path), columns, labels) for path in files]
    pairs = [text for part in parts for text in part.pairs or ()]
    return LabelledTexts(
        [text for part in parts for text in part.texts],
        pairs if parts[0].pairs is not None else None,
        np.concatenate([part.labels for part in parts]),
    )


def read_hub(
    dataset: str, config: str, split: str, columns: Columns, labels: Sequence[str]
) -> LabelledTexts:
    """Read a split of a data set of the Hugging Face hub.

    Raises:
        DataError: It cannot be reached, or lacks a column; its labels are hidden.
    """
    import datasets

    from outdim.hub import foreign_errors

    advice = "; give a local file with --data where the hub cannot be reached"
    with foreign_errors(f"data: {dataset} ({config}, {split}) cannot be loaded", advice):
        found = datasets.load_dataset(dataset, config, split=split)
        table = found.with_format("arrow")[:]
    return labelled_texts(table, f"{dataset} ({config}, {split})", [columns], labels)


def labelled_texts(
    table: pa.Table, source: str, columns: Sequence[Columns], labels: Sequence[str]
) -> LabelledTexts:
    """The rows of a table; ``source`` names it in errors. Raises as `read_labelled` does."""
    chosen = next((c for c in columns if c.in_(table.column_names)), None)
    if chosen is None:
        expected = " or ".join(listing(c.names) for c in columns)
        raise DataError(
            f"{source}: expected columns {expected}, got {listing(table.column_names)}; name them "
            "with --text and --label."
        )
    if not table.num_rows:
        raise DataError(f"{source}: there is no row in it.")
    texts = [_texts(table[name], f"{source}: {name}") for name in chosen.texts]
    values = table[chosen.label].to_pylist()
    where = f"{source}: {chosen.label}"
    return LabelledTexts(
        texts[0],
        texts[1] if len(texts) > 1 else None,
        _numbers(values, labels, where) if labels else _scores(values, where),
    )


def _read(path: Path, columns: Sequence[Columns]) -> pa.Table:
    if not path.is_file():
        raise DataError(f"data: there is no file {path}.")
    if not path.stat().st_size:
        raise DataError(f"{path}: the file is empty.")
    try:
        match path.suffix:
            case ".tsv":
                return _read_fields(path, "\t", columns, _names_of(path, columns))
            case ".csv":
                return _read_fields(path, ",", columns)
            case ".jsonl":
                return pa.json.read_json(path)
            case ".parquet":
                return read_parquet(path)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: it cannot be read ({error}).") from error
    raise DataError(f"{path}: expected a name that ends in {_KINDS}.")


def _names_of(path: Path, columns: Sequence[Columns]) -> Sequence[str] | None:
    """Names for a .tsv whose first line is a row, as CoLA's; None where it holds the names."""
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        first = file.readline().rstrip("\r\n").split("\t")
    if any(c.in_(first) for c in columns):
        return None
    return next((c.headerless for c in columns if len(c.headerless) == len(first)), None)


def _read_fields(
    path: Path, delimiter: str, columns: Sequence[Columns], names: Sequence[str] | None = None
) -> pa.Table:
    """Fields as text: whether 1 is a label or a number its column says, not its look."""
    quoted = delimiter == ","  # GLUE's .tsv hold quotes that are never closed
    return pa.csv.read_csv(
        path,
        read_options=pa.csv.ReadOptions(column_names=names),
        parse_options=pa.csv.ParseOptions(
            delimiter=delimiter, quote_char='"' if quoted else False, newlines_in_values=quoted
        ),
        convert_options=pa.csv.ConvertOptions(
            column_types={name: pa.string() for c in columns for name in c.names},
            strings_can_be_null=False,
        ),
    )


def _texts(column: pa.ChunkedArray, where: str) -> list[str]:
    values: list[str] = column.to_pylist()
    for row, value in enumerate(values, 1):
        if not isinstance(value, str):
            raise DataError(f"{where}: expected text, got {value!r} in row {row}.")
    return values


def _numbers(values: Sequence[Any], labels: Sequence[str], where: str) -> NDArray[np.int64]:
    """Labels by name or by number."""
    known = {name: number for number, name in enumerate(labels)}
    known |= {str(number): number for number in range(len(labels))}
    found = [known.get(_plain(value), -1) for value in values]
    if -1 in found:
        row = found.index(-1)
        if all(_plain(value) == "-1" for value in values):
            raise DataError(f"{where}: the labels are hidden (-1), as those of GLUE's test splits.")
        raise DataError(
            f"{where}: expected {listing(labels)}, or numbers 0 to {len(labels) - 1}, got "
            f"{values[row]!r} in row {row + 1}."
        )
    return np.array(found, np.int64)


def _plain(value: Any) -> str:
    """A label as text; 1, 1.0, True and "1" are the same."""
    if isinstance(value, bool | float) and float(value).is_integer():
        value = int(value)
    return str(value)


def _scores(values: Sequence[Any], where: str) -> NDArray[np.float64]:
    found = np.empty(len(values))
    for row, value in enumerate(values):
        try:
            found[row] = float(value)
        except (TypeError, ValueError):
            found[row] = np.nan
        if not np.isfinite(found[row]):
            raise DataError(f"{where}: expected a number, got {value!r} in row {row + 1}.")
    return found
