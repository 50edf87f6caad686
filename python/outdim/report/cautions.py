"""What a reader must know before trusting the numbers: undefined r, NaN, little data."""

import numpy as np

from outdim.report.figures.correlation import COVARIATE_NAMES, SELECTION_NAMES
from outdim.report.run_files import Array, Run, Statistics
from outdim.report.text import counted, listing, number

# Below this many the standard error of r, 1/sqrt(n - 3) for independent tokens, exceeds 0.01.
FEW_TOKENS = 10_003


def cautions(run: Run) -> list[str]:
    """List the warnings, none if all is well."""
    found = [*_about_the_run(run), *_about_detection(run)]
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
    reasons: dict[str, list[str]] = {}
    rows = statistics.hidden_rows()
    for key in statistics.correlations():
        _, covariate, selection = key
        missing = np.isnan(statistics.values[key][rows])
        if not missing.any():
            continue
        measure = COVARIATE_NAMES.get(covariate, covariate)
        name = f"{measure}, {SELECTION_NAMES.get(selection, selection)}"
        why = _reason(statistics, rows, selection, missing)
        if name not in reasons.setdefault(why, []):
            reasons[why].append(name)
    return [f"r is not defined {why} ({'; '.join(names)})." for why, names in reasons.items()]


def _reason(statistics: Statistics, rows: Array, selection: str, missing: Array) -> str:
    if statistics.tokens.get(selection, 0) < 2:
        return "anywhere, as there are fewer than two tokens"
    deviation = statistics.get("std", "", selection)
    counted = statistics.get("nonfinite", "", selection)
    constant = missing & (deviation[rows] == 0) if deviation is not None else np.zeros_like(missing)
    broken = missing & (counted[rows] > 0) if counted is not None else np.zeros_like(missing)
    rest = missing & ~constant & ~broken
    if (missing.all(axis=1) & rest.any(axis=1)).any():
        return "at some points for any dimension, as this measure is the same for every token"
    parts = [
        f"{int(part.sum()):,} {reason}"
        for part, reason in (
            (constant, "where the dimension is constant"),
            (broken, "where values are NaN or infinite"),
            (rest, "for a reason that the files do not tell"),
        )
        if part.any()
    ]
    return f"in {int(missing.sum()):,} of {missing.size:,} places: " + ", ".join(parts)


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
