"""The tidy table of statistics as dense arrays, by step."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from outdim.analysis.results.estimate import Estimate
from outdim.analysis.table import COVARIATES, SELECTIONS, STATISTICS, Statistic
from outdim.errors import DataError

Array = NDArray[Any]
Floats = NDArray[np.float64]

_LABELS = ("step", "point", "selection", "statistic", "covariate")
_WORTH = ("low", "high", "null", "p")
_COLUMNS = (*_LABELS, "layer", "dim", "head", "value", "n", *_WORTH)


class Key(NamedTuple):
    """Which values: names of the vocabulary; covariate and selection may be empty."""

    statistic: str
    covariate: str
    selection: str

    @property
    def definition(self) -> Statistic:
        """The statistic; one that no installed step defines goes by its name."""
        return STATISTICS.get(self.statistic) or Statistic(self.statistic, self.statistic)


@dataclass
class StepStatistics:
    """The values of one step: arrays [P, S] over points and, in each, dimensions or heads.

    Attributes:
        points: Names [P], ordered by layer.
        layers: Layers [P].
        width: Dimensions (or heads) S, the most that any statistic has.
        values: Estimates [P, S]; NaN where the table has no row.
        tokens: Number of tokens of each selection.
        heads: Names of the statistics that are about attention heads.
    """

    points: list[str]
    layers: list[int]
    width: int
    values: dict[Key, Estimate] = field(default_factory=dict)
    tokens: dict[str, int] = field(default_factory=dict)
    heads: set[str] = field(default_factory=set)

    def get(self, statistic: Statistic, covariate: str = "", selection: str = "") -> Estimate:
        """Estimates [P, S]; a KeyError where there are none."""
        return self.values[Key(statistic.name, covariate, selection)]

    def has(self, statistic: Statistic) -> bool:
        """Whether there is any value of a statistic that is a number."""
        return any(
            key.statistic == statistic.name and bool(np.isfinite(found.value).any())
            for key, found in self.values.items()
        )

    def ordered(self) -> list[Key]:
        """What there is, what leads in the vocabulary first.

        A selection that holds no other token than an earlier one is left out.
        """
        selections = _distinct(self.tokens)
        orders = [list(names) for names in (STATISTICS, COVARIATES, SELECTIONS)]

        def place(key: Key) -> list[int]:
            return [
                order.index(name) if name in order else len(order)
                for name, order in zip(key, orders, strict=True)
            ]

        return sorted((key for key in self.values if key.selection in selections), key=place)


def _distinct(tokens: dict[str, int]) -> set[str]:
    """All selections but those of the vocabulary, which are nested, that add no token."""
    nested = [name for name in SELECTIONS if name in tokens]
    same = {
        name
        for place, name in enumerate(nested)
        if tokens[name] in [tokens[earlier] for earlier in nested[:place]]
    }
    return set(tokens) - same


def read_statistics(path: Path) -> dict[str, StepStatistics]:
    """Read ``stats.parquet``: dense arrays by step.

    The file is read batch by batch: 80 layers x 8,192 dimensions are tens of millions of rows. What
    is held is 8 bytes a value, and as much for each of low, high, null and p where a batch has any.

    Raises:
        DataError: It cannot be read, or lacks a column.
    """
    try:
        found = pq.read_schema(path).names
        if missing := [name for name in _COLUMNS if name not in found]:
            raise DataError(
                f"{path}: column {', '.join(missing)} is missing; it has {', '.join(found)}."
            )
        with pq.ParquetFile(path, read_dictionary=list(_LABELS)) as file:
            steps = _outline(file)
            for batch in file.iter_batches(columns=list(_COLUMNS)):
                for name, rows in _by_step(batch):
                    _scatter(rows, steps[name])
    except (OSError, pa.ArrowException) as error:
        raise DataError(
            f"{path}: it cannot be read as parquet ({error}); run the step again."
        ) from error
    return steps


def _outline(file: pq.ParquetFile) -> dict[str, StepStatistics]:
    """Points, layers and width of every step, without values."""
    layers: dict[str, dict[str, int]] = {}
    width: dict[str, int] = {}
    for batch in file.iter_batches(columns=["step", "point", "layer", "dim", "head"]):
        for step, rows in _by_step(batch):
            codes, names = _encode(rows["point"])
            first = np.unique(codes, return_index=True)[1]
            layer = rows["layer"].to_numpy()
            at = layers.setdefault(step, {})
            at |= {names[codes[row]]: int(layer[row]) for row in first}
            width[step] = max(width.get(step, 0), int(_columns_of(rows)[0].max()) + 1)
    return {
        step: StepStatistics(
            points=(points := sorted(at, key=lambda name: (at[name], name))),
            layers=[at[name] for name in points],
            width=width[step],
        )
        for step, at in layers.items()
    }


def _by_step(batch: pa.RecordBatch) -> Iterator[tuple[str, pa.RecordBatch]]:
    """The rows of each step."""
    if not batch.num_rows:
        return
    codes, names = _encode(batch["step"])
    for code in np.unique(codes):
        rows = np.flatnonzero(codes == code)
        whole = len(rows) == batch.num_rows
        yield names[code], batch if whole else batch.take(pa.array(rows))


def _columns_of(batch: pa.RecordBatch) -> tuple[Array, Array]:
    """The column of each row in the dense array, and whether it is about a head."""
    dim = batch["dim"].to_numpy(zero_copy_only=False)
    if batch["head"].null_count == batch.num_rows:
        return dim, np.zeros(len(dim), bool)
    of_head = ~np.asarray(batch["head"].is_null())
    head = batch["head"].fill_null(0).to_numpy(zero_copy_only=False)
    return np.where(of_head, head, dim), of_head


def _scatter(batch: pa.RecordBatch, found: StepStatistics) -> None:
    index = {name: row for row, name in enumerate(found.points)}
    point, points = _encode(batch["point"])
    row = np.array([index.get(name, -1) for name in points], dtype=int)[point]
    column, of_head = _columns_of(batch)
    names = [_encode(batch[name]) for name in ("statistic", "covariate", "selection")]
    numbers = {
        name: batch[name].to_numpy(zero_copy_only=False)
        for name in ("value", "n", *_WORTH)
        if batch[name].null_count < batch.num_rows
    }
    combined = np.zeros(batch.num_rows, np.int64)
    for codes, labels in names:
        combined = combined * len(labels) + codes
    for code in np.unique(combined):
        rows = np.flatnonzero(combined == code)
        key = Key(*(labels[codes[rows[0]]] for codes, labels in names))
        n = int(numbers["n"][rows].max())
        found.tokens[key.selection] = max(found.tokens.get(key.selection, 0), n)
        if of_head[rows[0]]:
            found.heads.add(key.statistic)
        parts = dict(found.values[key].parts()) if key in found.values else {}
        for name in ("value", *_WORTH):
            given = numbers[name][rows] if name in numbers else None
            if given is None or (name not in parts and name != "value" and np.isnan(given).all()):
                continue
            if name not in parts:
                parts[name] = np.full((len(index), found.width), np.nan)
            parts[name][row[rows], column[rows]] = given
        found.values[key] = Estimate(**parts)


def _encode(column: pa.Array) -> tuple[Array, list[str]]:
    """Codes [N] and labels of a string column."""
    if not isinstance(column, pa.DictionaryArray):
        column = column.dictionary_encode()
    codes = column.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    return codes, column.dictionary.to_pylist()
