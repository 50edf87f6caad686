"""Embeddings taken apart: where each outlier dimension stands among the columns of each part."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from outdim.analysis.results.embedding_columns import BOUND, PART_LABELS
from outdim.report.figures.histograms import histograms
from outdim.report.section import Cell, Section, Table
from outdim.report.sections import _default
from outdim.report.statistics import Key, StepStatistics
from outdim.report.study import Study
from outdim.text import number

_SHOWN, _DRAWN = 12, 4


def section(study: Study, step: str, marked: Sequence[int]) -> Section:
    """Where outliers stand, or what stands out in most parts, and histograms of columns."""
    document = study.document("embeddings.json")
    table = study.table("embedding_histograms.parquet")
    found = study.statistics.get(step)
    if document is None or table is None or found is None:
        return _default.section(study, step, marked)
    parts = [one["part"] for one in document["parts"]]
    counts = {part: _counts(table, part) for part in parts}
    dims = _dims(document, found, parts, marked)
    return Section(
        step,
        "Where outliers begin: the embeddings",
        tables=[_z(found, table, document, dims, marked)],
        figures=[
            histograms(
                "embedding_histograms",
                "Weights of single columns among all",
                counts,
                document["edges"],
                dims[:_DRAWN],
                {part: PART_LABELS[part] for part in parts},
                study.palette,
            )
        ],
        definitions="embeddings.html.j2",
    )


def _counts(table: Any, part: str) -> NDArray[np.int64]:
    return np.asarray(
        [
            row["counts"]
            for row in table.select(["part", "counts"]).to_pylist()
            if row["part"] == part
        ],
        np.int64,
    )


def _values(found: StepStatistics, statistic: str, part: str) -> NDArray[np.float64] | None:
    estimate = found.values.get(Key(statistic, "", ""))
    point = f"embeddings.{part}"
    if estimate is None or point not in found.points:
        return None
    values = estimate.value[found.points.index(point)]
    return values if np.isfinite(values).any() else None


def _dims(
    document: dict[str, Any], found: StepStatistics, parts: Sequence[str], marked: Sequence[int]
) -> list[int]:
    """Those marked, then those that stand out in most parts, the furthest first."""
    size = np.zeros(found.width)
    for part in parts:
        for statistic in ("column_mean_z", "column_sd_z"):
            if (values := _values(found, statistic, part)) is not None:
                size = np.maximum(size, np.abs(values))
    outside = [dim for one in document["parts"] for dim in one["outside"]]
    often = sorted(set(outside), key=lambda dim: (-outside.count(dim), -size[dim]))
    furthest = np.argsort(-size, kind="stable").tolist()
    return list(dict.fromkeys([*marked, *often, *furthest[:_DRAWN]]))[:_SHOWN]


def _z(
    found: StepStatistics,
    table: Any,
    document: dict[str, Any],
    dims: Sequence[int],
    marked: Sequence[int],
) -> Table:
    rows = {
        (row["part"], row["dim"]): row["row"]
        for row in table.select(["part", "dim", "row"]).to_pylist()
    }
    columns, cells = ["dimension"], [
        [Cell(str(dim), heading=True, marked=dim in marked)] for dim in dims
    ]  # fmt: skip
    for one in document["parts"]:
        part, single = one["part"], one["rows"] == 1
        for statistic, name in (("column_mean_z", "z" if single else "z of the mean"),
                                ("column_sd_z", "z of the spread")):  # fmt: skip
            if (values := _values(found, statistic, part)) is None:
                continue
            columns.append(f"{PART_LABELS[part]}: {name}")
            for dim, row in zip(dims, cells, strict=True):
                value = float(values[dim])
                row.append(Cell(number(value, 1), marked=abs(value) > BOUND))
        extreme = _values(found, "column_extreme", part)
        if extreme is not None and not single:
            columns.append(f"{PART_LABELS[part]}: furthest (row)")
            for dim, row in zip(dims, cells, strict=True):
                row.append(Cell(f"{number(float(extreme[dim]), 2)} ({rows[part, dim]})"))
    return Table(
        title="Columns of the embeddings",
        caption="How far the mean and the standard deviation of a dimension's column are from "
        "those of the others, and its value furthest from the mean of all weights, with its row: "
        "the token id, the position, the type.",
        columns=columns,
        rows=cells,
        brief=True,
        marks=f"beyond {BOUND:g} σ; of a dimension's number: an outlier by parameters",
    )
