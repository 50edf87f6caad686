"""What a reader must know before trusting the numbers: undefined r, NaN, little data."""

from collections import defaultdict

import numpy as np

from outdim.report.figures.correlation import COVARIATE_NAMES, SELECTION_NAMES
from outdim.report.run_files import Run, Statistics
from outdim.report.text import counted, listing, number

# Below this many the standard error of r, 1/sqrt(n - 3) for independent tokens, exceeds 0.01.
FEW_TOKENS = 10_003

# Rows that hold no document, and those that the user left out: all others could not be read.
_NOT_AMISS = ("blank", "null", "short")

_REASONS = {  # as MomentsResult.reason gives them
    "fewer than two tokens": "as there are fewer than two tokens",
    "constant covariate": "as this measure is the same for every token",
    "constant dimension": "where the dimension is constant",
    "nonfinite values": "where values are NaN or infinite",
}


def cautions(run: Run) -> list[str]:
    """List the warnings, none if all is well."""
    found = [*_about_the_run(run), *_unreadable(run), *_about_detection(run)]
    if run.statistics is not None:
        found += [
            *_nonfinite(run.statistics),
            *_undefined(run.statistics),
            *_few_tokens(run.statistics),
            *_other_points(run.statistics),
        ]
    return found


def _about_the_run(run: Run) -> list[str]:
    if run.manifest and run.manifest.get("finished") is None:
        return [
            "The manifest does not say that this run finished: its numbers may cover part of the "
            "data."
        ]
    return []


def _unreadable(run: Run) -> list[str]:
    amiss = {why: n for why, n in run.left_out().items() if n and why not in _NOT_AMISS}
    if not amiss:
        return []
    parts = [f"{n:,} × {why}" for why, n in sorted(amiss.items(), key=lambda item: -item[1])]
    counting = run.manifest.get("counting") or {}
    places = (counting.get("accounting") or {}).get("places") or []
    first = f" The first: {places[0]}." if places else ""
    return [
        f"Rows were left out because they could not be read: {listing(parts)}. The numbers are "
        f"about the rest.{first}"
    ]


def _about_detection(run: Run) -> list[str]:
    found = run.detection or {}
    chance = (found.get("false_positives") or {}).get("expected_dims") or 0.0
    warnings = [str(found["note"])] if found.get("note") else []
    if chance > 0.1:
        warnings.append(
            f"The outlier rule finds {number(float(chance), 2)} dimensions by chance alone: some "
            "of those listed are likely to mean nothing. A larger k or a larger share of layers is "
            "safer."
        )
    return warnings


def _nonfinite(statistics: Statistics) -> list[str]:
    warnings = []
    for selection in ("all", "text"):
        counts = statistics.get("nonfinite", "", selection)
        if counts is None or not np.nansum(counts):
            continue
        rows, dims = np.nonzero(np.nan_to_num(counts))
        worst = np.argsort(-counts[rows, dims], kind="stable")
        places = [
            f"{statistics.points[rows[w]]} dimension {dims[w]} ({int(counts[rows[w], dims[w]]):,})"
            for w in worst
        ]
        warnings.append(
            f"{int(np.nansum(counts)):,} values were NaN or infinite, in "
            f"{counted(len(np.unique(dims)), 'dimension')}; their statistics are left undefined. "
            f"Most at {listing(places, 5)}."
        )
        break  # 'all' includes 'text'
    return warnings


def _undefined(statistics: Statistics) -> list[str]:
    """Say why r is NaN, for each choice that has a NaN; equal reasons are told once."""
    told: dict[str, list[str]] = defaultdict(list)
    places = len(statistics.hidden_rows()) * statistics.dims
    for key in statistics.correlations():
        _, covariate, selection = key
        reasons = statistics.reasons[key]
        if not reasons:
            continue
        measure = COVARIATE_NAMES.get(covariate, covariate)
        name = f"{measure}, {SELECTION_NAMES.get(selection, selection)}"
        parts = [f"{count:,} {_REASONS.get(why, why)}" for why, count in reasons.most_common()]
        why = f"in {reasons.total():,} of {places:,} places: {', '.join(parts)}"
        if name not in told[why]:
            told[why].append(name)
    return [f"r is not defined {why} ({'; '.join(names)})." for why, names in told.items()]


def _few_tokens(statistics: Statistics) -> list[str]:
    n = statistics.tokens.get("text", statistics.tokens.get("all", 0))
    if not statistics.correlations() or n >= FEW_TOKENS:
        return []
    error = 1 / np.sqrt(n - 3) if n > 3 else float("nan")
    return [
        f"Only {n:,} text tokens: even if they were independent, r would have a standard error of "
        f"{number(float(error), 3)}, and tokens of one text are not independent."
    ]


def _other_points(statistics: Statistics) -> list[str]:
    keys = statistics.correlations()
    if not keys:
        return []
    drawn = set(statistics.hidden_rows().tolist())
    others = [
        name
        for p, name in enumerate(statistics.points)
        if p not in drawn and any(np.isfinite(statistics.values[key][p]).any() for key in keys)
    ]
    if not others:
        return []
    return [f"Also measured, in stats.parquet but in no figure: {listing(others, 6)}."]
