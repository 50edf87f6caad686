"""Correlation of what a run kept with other token frequencies, and those frequencies."""

from collections.abc import Sequence
from dataclasses import replace

from outdim.report.section import Section
from outdim.report.sections import correlate, count
from outdim.report.study import Study


def section(study: Study, step: str, marked: Sequence[int]) -> Section:
    """As that of correlate; the other frequencies come last."""
    found = correlate.section(study, step, marked)
    others = count.section(study, step, marked)
    return replace(
        found,
        title="Correlation with other token frequencies",
        figures=[*found.figures, *others.figures],
    )
