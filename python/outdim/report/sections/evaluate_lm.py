"""A language model without some of its dimensions: tables, differences, doses, layers."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from outdim.analysis.results.compared import is_sure
from outdim.analysis.results.evaluation import METRICS
from outdim.report.figures.base import Figure
from outdim.report.figures.curves import Curve, curves
from outdim.report.figures.differences import differences
from outdim.report.section import Cell, Section, Table
from outdim.report.sections import _default
from outdim.report.sections._metrics import beside, changes, drawn, heading
from outdim.report.sections._rows import Row, beside_controls, ends, grouped, interval
from outdim.report.study import Study
from outdim.text import number, p_value, significant, together

_TITLES = {"lm": "Predicting the next token", "mlm": "Predicting masked tokens"}
_SHOWN = 40  # variants in a table or a figure; all are in the parquet file
_BESIDE = ("perplexity", "bits_per_byte", "accuracy", "kl", "agreement", "top_agreement",
           "entropy", "frequency_shift")  # fmt: skip


def section(study: Study, step: str, marked: Sequence[int]) -> Section:
    """The loss of every variant beside its controls, and what else changes."""
    stem = step.replace("-", "_")
    by_metric = grouped(study.rows(f"{stem}.parquet"), "metric")
    if not by_metric:
        return _default.section(study, step, marked)
    loss = by_metric["loss"]
    drawn = [_differences(stem, loss), _doses(stem, loss), _layers(stem, loss)]
    return Section(
        step,
        _TITLES[loss[0]["task"]],
        tables=[losses(loss), _others(by_metric)],
        figures=[figure for figure in drawn if figure is not None],
    )


def ranked(rows: Sequence[Row]) -> list[Row]:
    """The intact model, then what was ablated, the worst first."""
    ablated = [row for row in rows if row["role"] == "ablated"]
    ablated.sort(key=lambda row: -_or(row["difference"], float("inf")))
    return [row for row in rows if row["role"] == "intact"] + ablated[:_SHOWN]


def losses(rows: Sequence[Row], *, noun: str = "loss") -> Table:
    """The loss, or another ``noun``, of every variant, the worst first, beside controls."""
    beside = any(row["role"] == "control" for row in rows)
    columns = ["variant", noun, "more than intact"]
    return Table(
        title=f"{noun.capitalize()} of every variant",
        caption=f"Mean {noun} over {amount(rows[0])}, and how much more that is than the intact "
        "model's on the same; in brackets 95 % intervals over "
        f"{drawn(rows[0])}."
        + (
            " Controls: the mean of the same for as many random dimensions, which is taken off in "
            "“beyond controls” (interval over these and over controls). Times: the harm as a "
            "multiple of the mean size of what the controls change; shaded where it is at least "
            "five by its interval, and p of “beyond controls” at most 0.05. q: that p, adjusted "
            "for the number of variants."
            if beside
            else ""
        ),
        columns=[*columns, "controls", "beyond controls", "times", "q"] if beside else columns,
        rows=[[*_values(row), *(_against(row) if beside else [])] for row in ranked(rows)],
        brief=True,
        marks="at least five times the harm of random dimensions, and p at most 0.05"
        if beside
        else "",
    )


def amount(row: Row) -> str:
    """How much a row rests on."""
    if "items" in row:
        return f"{row['items']:,} items of {row['documents']:,} texts"
    return f"{row['tokens']:,} tokens of {row['documents']:,} documents"


def _values(row: Row) -> list[Cell | str]:
    return [row["variant"], interval(row, "value", ""), interval(row, "difference")]


def _against(row: Row) -> list[Cell | str]:
    times = Cell(
        "" if row["times"] is None else significant(row["times"]),
        marked=row["gate"] == "passed" and is_sure(row["p"]),
    )
    return [
        _or_blank(row["control"], 3),
        interval(row, "beyond"),
        times,
        "" if row["q"] is None else p_value(row["q"]),
    ]


def _others(by_metric: Mapping[str, Sequence[Row]]) -> Table:
    words = "; ".join(f"{heading(metric)}: {METRICS[metric].label}" for metric in _BESIDE)
    return beside(
        by_metric,
        _BESIDE,
        [row["variant"] for row in ranked(by_metric["loss"])],
        title="What stands beside the loss",
        caption=f"{words}; {changes(by_metric['loss'][0])}",
    )


def _differences(stem: str, rows: Sequence[Row]) -> Figure | None:
    ablated = ranked(rows)[1:]
    if not ablated:
        return None
    return differences(
        f"{stem}_differences",
        "How much more each variant loses",
        "Filled dots: how much more a variant loses than the intact model on the same tokens, with "
        "its 95 % interval. Open dots: the same for sets of as many random dimensions. Right of "
        "the line is worse.",
        "more loss, in nats",
        beside_controls(rows, ablated),
    )


def _doses(stem: str, rows: Sequence[Row]) -> Figure | None:
    """Loss against the factor by which dimensions are multiplied."""
    lines = _lines([row for row in rows if row["dose"] is not None], lambda row: [row["dose"]])
    return lines and curves(
        f"{stem}_doses",
        "Loss by dose",
        "How much more a variant loses than the intact model, whose dose is 1, when its dimensions "
        "are multiplied by a factor; whiskers: 95 % intervals over documents. Grey: the mean of as "
        "many random dimensions.",
        "factor",
        "more loss, in nats",
        lines,
    )


def _layers(stem: str, rows: Sequence[Row]) -> Figure | None:
    """Loss by layer, where a single one was edited at a time."""
    single = [row for row in rows if row["dose"] is None and len(row["layers"] or ()) == 1]
    lines = _lines(single, lambda row: row["layers"])
    return lines and curves(
        f"{stem}_layers",
        "Loss by layer",
        "How much more a variant loses than the intact model, when its dimensions are changed "
        "after one layer alone; whiskers: 95 % intervals over documents. Grey: the mean of as many "
        "random dimensions.",
        "layer",
        "more loss, in nats",
        lines,
    )


def _lines(rows: Iterable[Row], place: Callable[[Row], Sequence[float]]) -> Any:
    """A curve for each set of dimensions and sense, and one for their controls; None for none."""
    found: dict[str, dict[float, tuple[float, float, float]]] = {}
    beside: dict[str, dict[float, tuple[float, float, float]]] = {}
    for row in rows:
        if row["role"] != "ablated":
            continue
        (x,) = place(row)
        name = f"{together(row['dims'])} ({row['at']}, {row['mode']})"
        found.setdefault(name, {})[x] = ends(row)
        if row["control"] is not None:
            size = f"{len(row['dims'])} random ({row['at']}, {row['mode']})"
            beside.setdefault(size, {})[x] = (row["control"], float("nan"), float("nan"))
    if not any(len(points) > 1 for points in found.values()):
        return None
    return [
        _curve(name, points, beside=grey)
        for kind, grey in ((found, False), (beside, True))
        for name, points in kind.items()
    ]


def _curve(name: str, points: Mapping[float, tuple[float, float, float]], *, beside: bool) -> Curve:
    x = sorted(points)
    y, low, high = ([points[place][part] for place in x] for part in range(3))
    return Curve(name, x, y, low, high, beside)


def _or_blank(value: float | None, digits: int) -> str:
    return "" if value is None else number(value, digits)


def _or(value: float | None, other: float) -> float:
    return other if value is None else value
