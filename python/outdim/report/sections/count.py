"""Token frequency: how often each token occurs."""

from collections.abc import Sequence

from outdim.report.figures.rank_curve import rank_curve
from outdim.report.section import Section
from outdim.report.study import Study


def section(study: Study, step: str, marked: Sequence[int]) -> Section:
    """The counts by rank."""
    counts = study.frequencies
    occurring = counts is not None and bool((counts.counts > 0).any())
    return Section(
        step,
        "Token frequency",
        figures=[rank_curve(counts)] if counts is not None and occurring else [],
        definitions="count.html.j2",
    )
