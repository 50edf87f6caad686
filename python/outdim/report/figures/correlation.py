"""What the figures of correlations share: which r there are, and their names."""

import math
from dataclasses import dataclass

import numpy as np

from outdim.report.figures.base import Choice
from outdim.report.run_files import Array, Floats, Key, Run

COVARIATE_NAMES = {
    "count": "token count",
    "log1p_count": "log(1 + token count)",
    "mid_rank": "rank of the token count",
    "position": "position in the sequence",
}
OF_NAMES = {"pearson_abs": "|h| (magnitude)", "pearson": "h (signed)"}
SELECTION_NAMES = {"text": "text tokens only", "all": "all, with special tokens"}


@dataclass(frozen=True)
class Correlations:
    """Every Pearson r of a run at the hidden states.

    r maps (statistic, covariate, selection) to [R, D]; points, layers and labels describe its rows.
    """

    r: dict[Key, Floats]
    points: list[str]
    layers: list[int]
    labels: list[str]
    outliers: list[int]

    @property
    def headline(self) -> Key:
        """The r that is shown first and that the findings speak of."""
        return next(iter(self.r))

    def choices(self) -> tuple[Choice, ...]:
        """Ask for covariate, h or |h|, and selection, as far as there is more than one answer."""
        asked = (
            ("covariate", "Frequency measured by", COVARIATE_NAMES, 1),
            ("of", "Correlated with", OF_NAMES, 0),
            ("selection", "Tokens", SELECTION_NAMES, 2),
        )
        choices = []
        for name, label, names, part in asked:
            answers = dict.fromkeys(key[part] for key in self.r)
            if len(answers) > 1:
                choices.append(Choice(name, label, {a: names.get(a, a) for a in answers}))
        return tuple(choices)

    def strongest(self) -> Array:
        """All dimensions, the outliers first, then by their largest |r| over layers and choices."""
        largest = np.max([_largest(r) for r in self.r.values()], axis=0)
        largest[self.outliers] = np.inf
        return np.argsort(-largest, kind="stable")


def read_correlations(run: Run) -> Correlations | None:
    """Collect the r of a run; None where it has none."""
    statistics = run.statistics
    if statistics is None or not statistics.correlations():
        return None
    rows = statistics.hidden_rows()
    if not len(rows):
        return None
    return Correlations(
        r={key: statistics.values[key][rows] for key in statistics.correlations()},
        points=[statistics.points[p] for p in rows],
        layers=[statistics.layers[p] for p in rows],
        labels=statistics.labels(rows),
        outliers=[dim for dim in run.outlier_dims() if dim < statistics.dims],
    )


def meta(key: Key) -> dict[str, str]:
    """Give the answers under which a trace of this r is shown."""
    statistic, covariate, selection = key
    return {"covariate": covariate, "of": statistic, "selection": selection}


def describe(key: Key) -> str:
    """Say in words what an r correlates: '|h| with token count (text tokens only)'."""
    statistic, covariate, selection = key
    of = "|h|" if statistic == "pearson_abs" else "h"
    name = COVARIATE_NAMES.get(covariate, covariate)
    return f"{of} with {name} ({SELECTION_NAMES.get(selection, selection)})"


def largest_bound(r: Correlations) -> float:
    """Give the bound of a symmetric scale: the largest |r|, rounded up to a tenth."""
    largest = max(float(_largest(values).max(initial=0.0)) for values in r.r.values())
    return min(1.0, max(0.1, math.ceil(largest * 10 - 1e-9) / 10))


def _largest(r: Floats) -> Floats:
    """Give the largest |r| over layers [D]; 0 where r is never defined."""
    largest: Floats = np.nan_to_num(np.abs(r), nan=0.0).max(axis=0)
    return largest
