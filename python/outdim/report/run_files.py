"""Reads a run directory: plain files, any of which may be absent."""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from outdim.errors import DataError

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]
Key = tuple[str, str, str]  # statistic, covariate, selection

COVARIATES = ("count", "log1p_count", "mid_rank", "position")
SELECTIONS = ("text", "all")
STATISTICS = ("pearson_abs", "pearson", "gamma", "beta", "nonfinite")
PARTS = ("manifest.json", "counts.parquet", "stats.parquet", "detection.json")

_STRINGS = ("point", "selection", "statistic", "covariate", "reason")
_STATS_COLUMNS = (*_STRINGS, "layer", "dim", "value", "n")
_COUNT_COLUMNS = ("id", "token", "special", "count")
_HIDDEN = re.compile(r"embeddings|final_norm|(.*\.)?block\.\d+")


@dataclass(frozen=True)
class Counts:
    """Token frequencies by token id.

    ids [V] int64, tokens [V] labels for people (never keys), special [V] bool, counts [V] int64.
    """

    ids: Array
    tokens: list[str]
    special: Array
    counts: Array


@dataclass(frozen=True)
class Statistics:
    """What the report shows of the tidy table of statistics (STATISTICS), as dense arrays.

    points [P] names ordered by layer, layers [P]; values maps (statistic, covariate, selection) to
    [P, D] float64, NaN where the table has no row; tokens maps a selection to its number of tokens;
    reasons says how many values of the hidden states are NaN, and why.
    """

    points: tuple[str, ...]
    layers: tuple[int, ...]
    dims: int
    values: dict[Key, Floats]
    tokens: dict[str, int]
    reasons: dict[Key, Counter[str]]

    def get(self, statistic: str, covariate: str = "", selection: str = "") -> Floats | None:
        """[P, D] values of one statistic, or None if the run has not computed it."""
        return self.values.get((statistic, covariate, selection))

    def hidden_rows(self) -> Array:
        """Give the indices [R] of the hidden states: embeddings, blocks, final norm."""
        if not self.correlations():
            return np.zeros(0, dtype=int)
        found = [p for p, name in enumerate(self.points) if _HIDDEN.fullmatch(name)]
        return np.array(found, dtype=int)

    def labels(self, rows: Array) -> list[str]:
        """Name points [R] for an axis: the layer's number, where that is unambiguous."""
        names = [self.points[p] for p in rows]
        short = [
            {"embeddings": "emb", "final_norm": "norm"}.get(name, str(self.layers[p]))
            for name, p in zip(names, rows, strict=True)
        ]
        return short if len(set(short)) == len(short) else names

    def norm_rows(self) -> Array:
        """Give the indices [L] of the points that have LayerNorm parameters."""
        gamma = self.get("gamma")
        if gamma is None:
            return np.zeros(0, dtype=int)
        return np.flatnonzero(np.isfinite(gamma).any(axis=1))

    def correlations(self) -> list[Key]:
        """(statistic, covariate, selection) of every Pearson r there is, the headline one first."""
        return [
            key
            for selection in SELECTIONS
            for statistic in ("pearson_abs", "pearson")
            for covariate in COVARIATES
            if (key := (statistic, covariate, selection)) in self.values
        ]


@dataclass(frozen=True)
class Run:
    """What a run directory holds; None or {} for a part that is absent."""

    path: Path
    manifest: dict[str, Any] = field(default_factory=dict)
    counts: Counts | None = None
    statistics: Statistics | None = None
    detection: dict[str, Any] | None = None

    def left_out(self) -> dict[str, int]:
        """Rows of the data that were left out, by reason as `outdim.corpus` names it."""
        return dict((self.manifest.get("tokens") or {}).get("excluded") or {})

    def outliers(self) -> list[dict[str, Any]]:
        """List the detected dimensions as in detection.json, the most extreme first."""

        def extreme(row: dict[str, Any]) -> float:
            return -max(row.get("max_abs_z_gamma") or 0.0, row.get("max_abs_z_beta") or 0.0)

        return sorted((self.detection or {}).get("dims", []), key=extreme)

    def outlier_dims(self) -> list[int]:
        """List the numbers of the detected dimensions, the most extreme first."""
        return [int(row["dim"]) for row in self.outliers()]


def read_run(run_dir: str | Path) -> Run:
    """Read a run directory.

    Raises DataError where the path is no directory, holds none of the parts of a run, or holds a
    part that cannot be read.
    """
    path = Path(run_dir)
    advice = "give the directory that `outdim correlate`, `outdim detect` or `outdim count` wrote"
    if not path.is_dir():
        found = "a file" if path.exists() else "nothing"
        raise DataError(f"run_dir: expected a run directory at {path}, got {found}; {advice}")
    manifest, counts, stats, detection = (path / name for name in PARTS)
    if not any(part.is_file() for part in (manifest, counts, stats, detection)):
        raise DataError(f"run_dir: {path} holds none of {', '.join(PARTS)}; {advice}")
    return Run(
        path=path,
        manifest=_read_json(manifest) if manifest.is_file() else {},
        counts=read_counts(counts) if counts.is_file() else None,
        statistics=_read_statistics(stats) if stats.is_file() else None,
        detection=_read_json(detection) if detection.is_file() else None,
    )


def read_counts(path: str | Path) -> Counts:
    """Read a counts.parquet; DataError where it is absent, broken, or lacks a column."""
    with _open_parquet(Path(path), _COUNT_COLUMNS) as file:
        table = file.read(columns=list(_COUNT_COLUMNS))
    return Counts(
        ids=table["id"].to_numpy(),
        tokens=[token or "" for token in table["token"].to_pylist()],
        special=table["special"].to_numpy().astype(bool),
        counts=table["count"].to_numpy(),
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as JSON ({error}); run the step again") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: expected a JSON object, got {type(content).__name__}")
    return content


@contextmanager
def _open_parquet(path: Path, columns: Sequence[str]) -> Iterator[pq.ParquetFile]:
    try:
        found = pq.read_schema(path).names
        if missing := [name for name in columns if name not in found]:
            raise DataError(
                f"{path}: column {', '.join(missing)} is missing; it has {', '.join(found)}"
            )
        labels = [name for name in _STRINGS if name in columns]
        with pq.ParquetFile(path, read_dictionary=labels) as file:
            yield file
    except (OSError, pa.ArrowException) as error:
        raise DataError(
            f"{path}: cannot be read as parquet ({error}); run the step again"
        ) from error


def _read_statistics(path: Path) -> Statistics:
    # Batch by batch into dense arrays: 80 layers x 8,192 dimensions are tens of millions of rows.
    with _open_parquet(path, _STATS_COLUMNS) as file:
        layer_of: dict[str, int] = {}
        dims = 0
        for batch in file.iter_batches(columns=["point", "layer", "dim"]):
            if batch.num_rows == 0:
                continue
            codes, names = _encode(batch["point"])
            first = np.unique(codes, return_index=True)[1]
            layers = batch["layer"].to_numpy()
            layer_of.update({names[codes[row]]: int(layers[row]) for row in first})
            dims = max(dims, int(batch["dim"].to_numpy().max()) + 1)
        points = sorted(layer_of, key=lambda name: (layer_of[name], name))
        index = {name: row for row, name in enumerate(points)}
        found = Statistics(
            points=tuple(points),
            layers=tuple(layer_of[name] for name in points),
            dims=dims,
            values={},
            tokens={},
            reasons=defaultdict(Counter),
        )
        for batch in file.iter_batches(columns=list(_STATS_COLUMNS)):
            _scatter(batch, index, found)
    return found


def _scatter(batch: pa.RecordBatch, index: dict[str, int], found: Statistics) -> None:
    point, points = _encode(batch["point"])
    selection, selections = _encode(batch["selection"])
    statistic, statistics = _encode(batch["statistic"])
    covariate, covariates = _encode(batch["covariate"])
    reason, reasons = _encode(batch["reason"])
    row = np.array([index[name] for name in points], dtype=int)[point]
    hidden = np.array([bool(_HIDDEN.fullmatch(name)) for name in points])[point]
    dim, value, n = (batch[name].to_numpy(zero_copy_only=False) for name in ("dim", "value", "n"))
    combined = (statistic * len(covariates) + covariate) * len(selections) + selection
    for code in np.unique(combined):
        rows = np.flatnonzero(combined == code)
        first = rows[0]
        key = (
            statistics[statistic[first]],
            covariates[covariate[first]],
            selections[selection[first]],
        )
        found.tokens[key[2]] = max(found.tokens.get(key[2], 0), int(n[rows].max()))
        if key[0] not in STATISTICS:
            continue
        array = found.values.setdefault(key, np.full((len(index), found.dims), np.nan))
        array[row[rows], dim[rows]] = value[rows]
        undefined = rows[np.isnan(value[rows]) & hidden[rows]]
        found.reasons[key].update(reasons[code] for code in reason[undefined])


def _encode(column: pa.Array) -> tuple[Array, list[str]]:
    """Codes [N] and labels of a string column."""
    if not isinstance(column, pa.DictionaryArray):
        column = column.dictionary_encode()
    codes = column.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    return codes, column.dictionary.to_pylist()
