"""The section of any step: a table by layer, the strongest values of each topic, and curves."""

import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from outdim.report.figures.base import Figure
from outdim.report.figures.head_map import head_map
from outdim.report.figures.layer_curves import layer_curves
from outdim.report.section import Section, Table
from outdim.report.study import Study
from outdim.report.views import View, topics

OUTLIERS = "outliers by parameters"
_STRONGEST = 10
_STEMS = {"screen": "Screening by gradients"}
#: What a step reads, by the end of its name.
TASKS = {"lm": "next tokens", "mlm": "masked tokens", "glue": "labelled texts"}


def section(study: Study, step: str, marked: Sequence[int]) -> Section:
    """A figure by layers for each topic, what there is one of a layer, and the strongest values."""
    found = study.statistics.get(step)
    by_topic = topics(found) if found is not None else {}
    leading = {topic: shown[0] for topic, shown in by_topic.items()}
    of_points = [view for view in leading.values() if not view.of]
    return Section(
        step,
        title_of(step),
        tables=[
            *([by_layer({view.words: view for view in of_points})] if of_points else []),
            *(strongest(topic, view) for topic, view in leading.items() if view.of),
        ],
        figures=curves(study, step, by_topic, marked),
    )


def title_of(step: str) -> str:
    """The name of a step as a heading.

    >>> title_of("screen-mlm"), title_of("norm-share")
    ('Screening by gradients, masked tokens', 'Norm share')
    """
    stem, _, task = step.partition("-")
    if stem in _STEMS and task in TASKS:
        return f"{_STEMS[stem]}, {TASKS[task]}"
    return step.replace("-", " ").replace("_", " ").capitalize()


def curves(
    study: Study,
    step: str,
    by_topic: dict[str, list[View]],
    marked: Sequence[int],
    marks: str = OUTLIERS,
) -> list[Figure]:
    """A figure by layers for each topic; ``marks`` says what ``marked`` dimensions are."""
    figures: dict[str, Figure] = {}
    for topic, shown in by_topic.items():
        id_ = _file_name(f"{step} {topic}")
        id_ = f"{id_}_{len(figures)}" if id_ in figures else id_
        figures[id_] = (
            head_map(id_, f"{topic}, head by head", shown)
            if shown[0].of == "head"
            else layer_curves(id_, f"{topic}, layer by layer", shown, study.palette, marked, marks)
        )
    return list(figures.values())


def _file_name(words: str) -> str:
    """Words of any kind as a name of a file.

    >>> _file_name("Pearson's r of |h|")
    'pearsons_r_of_h'
    """
    return re.sub(r"[^a-z0-9]+", "_", words.lower().replace("'", "")).strip("_")


def by_layer(columns: Mapping[str, View], caption: str = "") -> Table:
    """What there is one of a point: a row a point in the order of the layers, a column a view."""
    intervals = any(view.estimate.low is not None for view in columns.values())
    said = [caption, "In brackets the interval." if intervals else ""]
    return Table(
        title="By layer",
        caption=" ".join(filter(None, said)),
        columns=["layer", *columns],
        rows=[
            [label, *(value_at(view, point) for view in columns.values())]
            for point, label in labels_of(columns.values()).items()
        ],
        brief=True,
    )


def labels_of(shown: Iterable[View]) -> dict[str, str]:
    """The points at which any of some views has a value, in the order of the layers."""
    places: dict[str, tuple[int, str]] = {}
    for view in shown:
        for point, layer, label in zip(view.points, view.layers, view.labels, strict=True):
            places.setdefault(point, (layer, label))
    order = sorted(places, key=lambda point: places[point][0])
    return {point: places[point][1] for point in order}


def value_at(view: View, point: str) -> str:
    """The value of a view that has one a point; "" where there is none."""
    if point not in view.points:
        return ""
    return view.estimate[view.points.index(point), 0].words(2)


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
        columns=["layer", view.of, "value"] + (["chance"] if compared else []),
        rows=[
            [
                view.labels[row],
                str(column),
                estimate[row, column].words(3),
                *([estimate[row, column].chance()] if compared else []),
            ]
            for row, column in places
            if size[row, column] >= 0
        ],
        brief=True,
    )
