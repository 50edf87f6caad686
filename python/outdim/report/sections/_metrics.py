"""Metrics that stand beside the one that leads: of each variant, and how much they change."""

from collections.abc import Mapping, Sequence

from outdim.report.section import Table
from outdim.report.sections._rows import Row
from outdim.text import number, with_interval


def drawn(row: Row) -> str:
    """What the intervals of a row draw: documents, or of labelled items what has one first text."""
    return "texts" if "items" in row else "documents"


def changes(row: Row) -> str:
    """What stands in the table of `beside`, of which ``row`` is one."""
    return (
        "in brackets how much more that is than the intact model's, with its 95 % interval over "
        f"{drawn(row)}. Controls are in the table of results."
    )


def beside(
    by_metric: Mapping[str, Sequence[Row]],
    metrics: Sequence[str],
    variants: Sequence[str],
    *,
    title: str,
    caption: str,
    brief: bool = False,
) -> Table:
    """Of ``variants``, by their names, the value of each of ``metrics`` and its change."""
    of = {metric: {row["variant"]: row for row in by_metric[metric]} for metric in metrics}
    return Table(
        title=title,
        caption=caption,
        columns=["variant", *map(heading, metrics)],
        rows=[[name, *(_with_change(of[metric][name]) for metric in metrics)] for name in variants],
        brief=brief,
    )


def heading(metric: str) -> str:
    """The name of a metric for people."""
    return metric.replace("_", " ")


def _with_change(row: Row) -> str:
    """A value, and in brackets its difference to the intact model's."""
    said, change = number(row["value"], 3), row["difference"]
    if change is None:
        return said
    sign = "+" if change > 0 else ""
    ends = (row["difference_low"], row["difference_high"])
    return f"{said} ({sign}{with_interval(change, *ends)})"
