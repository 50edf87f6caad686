"""The cosine of texts without each dimension: spikes, and the dimensions that matter."""

from collections.abc import Sequence

from outdim.report.figures.spikes import spikes
from outdim.report.section import Section, Table
from outdim.report.sections import _default
from outdim.report.sections._rows import Row, grouped, interval
from outdim.report.sections.sweep_lm import spikes_of
from outdim.report.study import Study
from outdim.stats.scores import LABELS

_SHOWN = 20


def section(study: Study, step: str, marked: Sequence[int]) -> Section:
    """What each dimension adds to the agreement with people."""
    by_metric = grouped(study.rows("sweep_sts.parquet"), "metric")
    if not by_metric:
        return _default.section(study, step, marked)
    shown = [
        spikes_of(LABELS[metric], [row for row in rows if row["role"] == "ablated"])
        for metric, rows in by_metric.items()
    ]
    leading = next(iter(by_metric))
    figure = spikes(
        "sweep_sts_spikes",
        "What each dimension adds to the cosine of texts",
        "How much closer the cosine follows what people say when one dimension of the last layer "
        "is taken out of both vectors: above the line it is better without. The largest are "
        "named, with their 95 % intervals, for which items with the same first text are drawn "
        "together.",
        "difference of the correlation with people",
        shown,
        study.palette,
    )
    return Section(
        step,
        "Every dimension, similarity of texts",
        tables=[_table(leading, by_metric[leading])],
        figures=[figure],
    )


def _table(metric: str, rows: Sequence[Row]) -> Table:
    own = [row for row in rows if row["role"] == "ablated" and row["difference"] is not None]
    own.sort(key=lambda row: -abs(row["difference"]))
    return Table(
        title="Dimensions that matter most to the cosine",
        caption=f"{LABELS[metric]} ({metric}) of {rows[0]['items']:,} pairs, and the difference to "
        "all dimensions on the same pairs; in brackets 95 % intervals.",
        columns=["without", LABELS[metric], "difference"],
        rows=[
            [
                "nothing" if row["role"] == "intact" else str(row["dims"][0]),
                interval(row, "value", ""),
                "" if row["role"] == "intact" else interval(row, "difference"),
            ]
            for row in (rows[0], *own[:_SHOWN])
        ],
        brief=True,
    )
