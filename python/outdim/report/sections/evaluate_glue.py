"""A labelled task: the variants of the model in a table and a figure, and layer by layer."""

from collections.abc import Sequence

from outdim.report.colours import Palette
from outdim.report.figures.base import Figure
from outdim.report.figures.differences import differences
from outdim.report.section import Section, Table
from outdim.report.sections import _default
from outdim.report.sections._rows import Row, beside_controls, grouped
from outdim.report.study import Study
from outdim.stats.scores import LABELS
from outdim.text import number, p_value, significant


def section(study: Study, step: str, marked: Sequence[int]) -> Section:
    """What each variant scores; of the first metric also as a figure."""
    stem = step.replace("-", "_")
    by_metric = grouped(study.rows(f"{stem}.parquet"), "metric")
    if not by_metric:
        return _default.section(study, step, marked)
    leading = next(iter(by_metric.values()))
    return Section(
        step,
        f"Task {leading[0]['task']}",
        tables=[_table(rows) for rows in by_metric.values()],
        figures=_figures(stem, leading, study.palette),
        definitions="evaluate_glue.html.j2",
    )


def _table(rows: Sequence[Row]) -> Table:
    metric = rows[0]["metric"]
    shown = [row for row in rows if row["role"] != "control"]
    beside = any(row["role"] == "control" for row in rows)
    columns = ["", f"{LABELS[metric]}", "difference"]
    if beside:
        columns += ["random", "beyond random", "times"]
    return Table(
        title=LABELS[metric].capitalize(),
        caption=f"{LABELS[metric]} ({metric}) of {rows[0]['items']:,} items, and the difference to "
        "the intact model on the same items; in brackets 95 % intervals, for which items with the "
        "same first text are drawn together."
        + (
            " Random: the mean difference of as many random dimensions in the same layers, which "
            "is taken off in “beyond random”. Times: the harm as a multiple of the mean size of "
            "what they change."
            if beside
            else ""
        ),
        columns=[*columns, "q"],
        rows=[
            [
                row["variant"],
                _interval(row, "value", ""),
                _interval(row, "difference", "difference_"),
                *(_beside(row) if beside else []),
                p_value(row["q"]),
            ]
            for row in shown
        ],
        brief=True,
    )


def _beside(row: Row) -> list[str]:
    gate = {"passed": " (≥ 5)", "failed": " (< 5)"}.get(row["gate"] or "", "")
    return [
        _rounded(row["control"]),
        _interval(row, "beyond", "beyond_"),
        significant(row["times"]) + gate,
    ]


def _interval(row: Row, name: str, stem: str) -> str:
    if row[name] is None:
        return ""
    said = _rounded(row[name])
    if row[f"{stem}low"] is None:
        return said
    return f"{said} [{_rounded(row[f'{stem}low'])}, {_rounded(row[f'{stem}high'])}]"


def _rounded(value: float | None) -> str:
    """To a thousandth, however small."""
    return number(None if value is None else round(value, 3))


def _figures(stem: str, rows: Sequence[Row], palette: Palette) -> list[Figure]:
    ablated = [row for row in rows if row["role"] == "ablated"]
    drawn = beside_controls(rows, ablated, palette)
    if not drawn:
        return []
    axis = f"difference in {LABELS[rows[0]['metric']]}"
    caption = (
        "Filled dots: the difference to the intact model on the same items, with its 95 % "
        "interval. Open dots: the same for sets of as many random dimensions. Left of the line is "
        "worse."
    )
    return [differences(f"{stem}_differences", "What each ablation changes", caption, axis, drawn)]
