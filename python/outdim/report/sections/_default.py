"""The section of any step: its statistics by layer, and the strongest values of each topic."""

import re
from collections.abc import Sequence

import numpy as np

from outdim.report.figures.base import Figure
from outdim.report.figures.layer_curves import layer_curves
from outdim.report.section import Section, Table
from outdim.report.study import Study
from outdim.report.views import View, topics

_STRONGEST = 10


def section(study: Study, step: str, marked: Sequence[int]) -> Section:
    """A figure by layers for each topic, and a table of the strongest values."""
    found = study.statistics.get(step)
    by_topic = topics(found) if found is not None else {}
    return Section(
        step,
        title_of(step),
        tables=[strongest(topic, shown[0]) for topic, shown in by_topic.items()],
        figures=curves(step, by_topic, marked),
    )


def title_of(step: str) -> str:
    """The name of a step as a heading."""
    return step.replace("-", " ").replace("_", " ").capitalize()


def curves(step: str, by_topic: dict[str, list[View]], marked: Sequence[int]) -> list[Figure]:
    """A figure by layers for each topic."""
    figures: dict[str, Figure] = {}
    for topic, shown in by_topic.items():
        id_ = _file_name(f"{step} {topic}")
        id_ = f"{id_}_{len(figures)}" if id_ in figures else id_
        figures[id_] = layer_curves(id_, f"{topic}, layer by layer", shown, marked)
    return list(figures.values())


def _file_name(words: str) -> str:
    """Words of any kind as a name of a file.

    >>> _file_name("Pearson's r of |h|")
    'pearsons_r_of_h'
    """
    return re.sub(r"[^a-z0-9]+", "_", words.lower().replace("'", "")).strip("_")


def strongest(topic: str, view: View) -> Table:
    """The largest values over all points, each with its interval and what chance gives."""
    estimate = view.estimate
    size = np.where(np.isfinite(estimate.value), np.abs(estimate.value), -1.0)
    order = np.argsort(-size, axis=None, kind="stable")[:_STRONGEST]
    places = [divmod(int(place), size.shape[1]) for place in order]
    compared = estimate.null is not None or estimate.p is not None
    return Table(
        title=f"Strongest: {topic}",
        caption=f"{view.words}: the largest values over all layers"
        + (", in brackets their interval." if estimate.low is not None else "."),
        columns=["layer", *([view.of] if view.of else []), "value"]
        + (["chance"] if compared else []),
        rows=[
            [
                view.labels[row],
                *([str(column)] if view.of else []),
                estimate[row, column].words(3),
                *([estimate[row, column].chance()] if compared else []),
            ]
            for row, column in places
            if size[row, column] >= 0
        ],
        brief=True,
    )
