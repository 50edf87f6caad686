"""Outlier dimensions: z by layer in a table, and the parameters of every norm."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from outdim.analysis.table import BETA, BETA_Z, GAMMA, GAMMA_Z, Statistic
from outdim.report.figures.base import Figure
from outdim.report.figures.scatter import MAX_LABELLED, Axis, Panels, scatter
from outdim.report.section import Cell, Section, Table
from outdim.report.sections import _default
from outdim.report.statistics import Floats
from outdim.report.study import Study
from outdim.report.views import View, views
from outdim.text import number

DOCUMENT = "detection.json"
MAX_OUTLIERS = 20
_NEAREST = 5
_NONE_MEETS_THE_RULE = (
    "No dimension meets the rule. These come nearest: beyond the bound in the most layers. "
)


def outliers(study: Study) -> list[int]:
    """Outlier dimensions of a study, the most extreme first; none where nobody looked for any."""
    found = (study.document(DOCUMENT) or {}).get("dims", [])

    def extreme(row: dict[str, Any]) -> float:
        return -max(row["max_abs_z_gamma"] or 0.0, row["max_abs_z_beta"] or 0.0)

    return [int(row["dim"]) for row in sorted(found, key=extreme)]


def section(study: Study, step: str, marked: Sequence[int]) -> Section:
    """Scores of the outliers or, where there is none, of what comes nearest; and the parameters."""
    document = study.document(DOCUMENT)
    if document is None or step not in study.statistics:
        return _default.section(study, step, marked)
    norms = Norms(study, step, document, list(marked))
    return Section(
        step,
        "Outlier dimensions" if marked else "Nearest to outlier dimensions",
        tables=[_table(norms)] if norms.named else [],
        figures=[_figure(step, norms)],
        definitions="detect.html.j2",
    )


@dataclass(frozen=True)
class Norms:
    """The parameters of the norms of a study, and what was decided from them."""

    study: Study
    step: str
    document: dict[str, Any]
    outliers: list[int]

    def view(self, statistic: Statistic) -> View:
        """Values [L, D] of a parameter."""
        found = self.study.statistics[self.step]
        return next(
            view
            for key in found.ordered()
            if key.definition == statistic
            for view in views(found, key)
        )

    @property
    def k(self) -> float:
        """The bound, in standard deviations."""
        return float(self.document["k"])

    @property
    def has_beta(self) -> bool:
        """Whether the norms have a β; RMSNorm has none."""
        return self.study.statistics[self.step].has(BETA)

    @cached_property
    def z(self) -> dict[str, Floats]:
        """Scores z [L, D] by the letter of the parameter."""
        scores = {"γ": self.view(GAMMA_Z).estimate.value}
        return scores | ({"β": self.view(BETA_Z).estimate.value} if self.has_beta else {})

    @cached_property
    def furthest(self) -> Floats:
        """The largest |z| of each dimension [D]."""
        sizes = [np.nan_to_num(np.abs(z)).max(axis=0) for z in self.z.values()]
        largest: Floats = np.max(sizes, axis=0)
        return largest

    @cached_property
    def named(self) -> list[int]:
        """Dimensions to speak of: the outliers or, where there is none, the nearest to being one.

        Nearest are those beyond k in the most layers in all parameters at once, then in any.
        """
        if self.outliers:
            return self.outliers
        beyond = np.stack([np.abs(z) > self.k for z in self.z.values()])
        together, somewhere = beyond.all(axis=0).sum(axis=0), beyond.sum(axis=(0, 1))
        order = np.lexsort((-self.furthest, -somewhere, -together))[:_NEAREST]
        return [int(dim) for dim in order if somewhere[dim]]

    def axis(self, statistic: Statistic, label: str) -> Axis:
        """Values and bounds of a parameter."""
        bounds = [
            (bound[f"{statistic.name}_mean"], bound[f"{statistic.name}_std"])
            for bound in self.document["bounds"]
        ]
        mean, std = np.array(bounds, np.float64).T
        ends = np.stack([mean - self.k * std, mean + self.k * std], axis=1)
        return Axis(statistic.name, label, self.view(statistic).estimate.value, ends)


def _table(norms: Norms) -> Table:
    shown = norms.named[:MAX_OUTLIERS]
    letters = list(norms.z)
    left_out = len(norms.named) - len(shown)
    rows = []
    for dim in shown:
        beyond = {letter: np.abs(z[:, dim]) > norms.k for letter, z in norms.z.items()}
        together = int(np.all(list(beyond.values()), axis=0).sum())
        for place, letter in enumerate(letters):
            span = len(letters)
            first = [Cell(str(dim), rows=span, heading=True), Cell(str(together), rows=span)]
            rows.append(
                [
                    *(first if place == 0 else []),
                    Cell(letter, heading=True),
                    Cell(str(int(beyond[letter].sum()))),
                    *(
                        Cell(number(float(z), 1), marked=bool(over))
                        for z, over in zip(norms.z[letter][:, dim], beyond[letter], strict=True)
                    ),
                ]
            )
    return Table(
        title="Outlier dimensions, layer by layer",
        caption=("" if norms.outliers else _NONE_MEETS_THE_RULE)
        + f"z of {' and '.join(letters)} by layer: how many standard deviations the "
        f"dimension lies from its layer's mean. Shaded: beyond ±{norms.k:g}. “Layers” counts the "
        "shaded ones"
        + (f", “both” those where {' and '.join(letters)} are" if len(letters) > 1 else "")
        + "."
        + (
            f" The {len(shown)} most extreme of {len(norms.named)}; all are in {DOCUMENT} and "
            "stats.parquet."
            if left_out
            else ""
        ),
        columns=["dimension", "both", "", "layers", *norms.view(GAMMA_Z).labels],
        rows=rows,
        over="z in layer",
        over_from=4,
    )


def _figure(step: str, norms: Norms) -> Figure:
    gamma = norms.view(GAMMA)
    dashed = f"Dashed lines: {norms.k:g} standard deviations from the layer's mean"
    reading = (
        "In each layer, one dot is one dimension of the layer's norm, its scale γ to the right and "
        f"its shift β upwards. {dashed}. The rule of Kovaleva et al. asks for dots in the four "
        "corners, beyond the lines of both, at the same dimension in many layers."
        if norms.has_beta
        else "In each layer, one dot is one dimension of the layer's norm, which has no β: its "
        f"number to the right, its scale γ upwards. {dashed}."
    )
    labels = (
        "the outlier dimensions found"
        if norms.outliers
        else "the dimensions nearest to being outliers, as none was found"
    )
    scale = norms.axis(GAMMA, "γ (scale)")
    panels = Panels(
        points=gamma.points,
        layers=gamma.layers,
        labels=gamma.labels,
        upwards=norms.axis(BETA, "β (shift)") if norms.has_beta else scale,
        across=scale if norms.has_beta else None,
        bound=f"mean ± {norms.k:g} σ",
        rank=norms.furthest,
        named=norms.named,
        palette=norms.study.palette,
    )
    return scatter(
        f"{step}_parameters",
        "Parameters of the norm of each layer",
        panels,
        f"{reading} Coloured and labelled: {labels}, at most {MAX_LABELLED}.",
    )
