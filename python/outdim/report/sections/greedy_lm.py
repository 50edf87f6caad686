"""A set of dimensions that grew round by round: what it does, beside random ones."""

from collections.abc import Mapping, Sequence

from outdim.report.figures.base import Figure
from outdim.report.figures.curves import Curve, curves
from outdim.report.section import Section, Table
from outdim.report.sections import _default
from outdim.report.sections._metrics import beside, changes, drawn
from outdim.report.sections._rows import Row, column, grouped, interval
from outdim.report.sections.evaluate_lm import amount
from outdim.report.study import Study
from outdim.text import number


def section(study: Study, step: str, marked: Sequence[int]) -> Section:
    """The loss that a growing set costs."""
    stem = step.replace("-", "_")
    rows, choices = (study.rows(f"{stem}{part}.parquet") for part in ("", "_rounds"))
    if not rows or not choices:
        return _default.section(study, step, marked)
    by_metric = grouped((row for row in rows if row["role"] != "control"), "metric")
    intact, *sets = next(iter(by_metric.values()))
    return Section(
        step,
        "Sets of dimensions, chosen one by one",
        tables=[_table(sets, choices), _others(by_metric, [intact, *sets])],
        figures=[_figure(stem, sets, choices)],
    )


def _table(sets: Sequence[Row], choices: Sequence[Row]) -> Table:
    return Table(
        title="Round by round",
        caption="The dimension that each round takes out beside those before. More loss: that of "
        f"the set so far, over {amount(sets[0])} on which no round chose; in brackets 95 % "
        f"intervals over {drawn(sets[0])}. Random: the mean of random sets of the same size, which "
        "is taken off in “beyond random”. On the half that chose: what the choice went by, which "
        "is no estimate.",
        columns=["round", "dimension", "of", "more loss", "random", "beyond random",
                 "on the half that chose", "runner-up there"],
        rows=[
            [
                str(choice["round"]),
                str(choice["dim"]),
                str(choice["tried"]),
                interval(row, "difference"),
                "" if row["control"] is None else number(row["control"], 3),
                interval(row, "beyond"),
                number(choice["chosen_by"], 3),
                _runner_up(choice),
            ]
            for row, choice in zip(sets, choices, strict=True)
        ],
        brief=True,
    )  # fmt: skip


def _others(by_metric: Mapping[str, Sequence[Row]], shown: Sequence[Row]) -> Table:
    _, *others = by_metric
    return beside(
        by_metric,
        others,
        [row["variant"] for row in shown],
        title="What else the sets change",
        caption=f"The other metrics of the same sets on the same {drawn(shown[0])}, and "
        f"{changes(shown[0])}",
        brief=True,
    )


def _runner_up(choice: Row) -> str:
    if choice["runner_up"] is None:
        return ""
    return f"{choice['runner_up']} ({number(choice['runner_up_by'], 3)})"


def _figure(stem: str, sets: Sequence[Row], choices: Sequence[Row]) -> Figure:
    size = [choice["round"] for choice in choices]
    y, low, high = (column(sets, f"difference{end}") for end in ("", "_low", "_high"))
    lines = [Curve("chosen", size, y, low, high)]
    if any(row["control"] is not None for row in sets):
        lines.append(Curve.of_others("random sets", size, column(sets, "control")))
    return curves(
        f"{stem}_rounds",
        "What the set does as it grows",
        "How much more than the intact model the one without the first dimensions of the table "
        f"loses, on {drawn(sets[0])} on which no round chose; whiskers: 95 % intervals over "
        "these. Dotted: the mean of random sets of the same size.",
        "dimensions taken out",
        "more loss, in nats",
        lines,
    )
