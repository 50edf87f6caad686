"""What a correlation with token frequency found, and what to beware of, in sentences."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator

import numpy as np

from outdim.analysis.count import unread_rows
from outdim.analysis.results.correlation import PEARSON_OF, Correlation
from outdim.analysis.table import COVARIATES, PEARSON_ABS, SELECTIONS, describe, place
from outdim.text import counted, listing, number, p_in_words

_LEADING, _BESIDE = "log1p_count", "count"
_SELECTION = "text"

# Below this many the standard error of r, 1/sqrt(n - 3) for independent tokens, exceeds 0.01.
_FEW_TOKENS = 10_003

_REASONS = {  # as MomentsResult.reason gives them
    "fewer than two tokens": "as there are fewer than two tokens",
    "constant covariate": "as this measure is the same for every token",
    "constant dimension": "where the dimension is constant",
    "nonfinite values": "where values are NaN or infinite",
}


def headline(found: Correlation) -> list[str]:
    """The dimension that follows token frequency most closely, and on how many tokens."""
    first = found.points[0]
    text, everything = (found.results[first, name].n for name in (_SELECTION, "all"))
    return [
        *_leading(found),
        f"{text:,} text tokens went into the statistics ({everything:,} with special tokens).",
    ]


def cautions(found: Correlation) -> list[str]:
    """Rows left out, values that are not finite, r that is not defined, few tokens."""
    read = found.read or {}
    return [
        *unread_rows(read.get("excluded", {}), read.get("places", ())),
        *_nonfinite(found),
        *_undefined(found),
        *(_few_tokens(found) if found.worth is None else found.worth.cautions()),
    ]


def _leading(found: Correlation) -> list[str]:
    """The largest |r| of |h|: with the logarithm of the count and, beside it, with the count."""
    of = describe(PEARSON_ABS, _LEADING, _SELECTION)
    strongest = _strongest(found, _LEADING)
    if strongest is None:
        return [f"{of} is not defined for any dimension."]
    point, dim, r = strongest
    median = float(np.nanmedian(np.abs(found.estimate(point, _LEADING).value)))
    sentences = [
        f"The dimension that follows token frequency most closely is {dim}, at "
        f"{_place(found, point)}: {of} is {r}. The median dimension there has |r| = "
        f"{number(median, 2)}."
    ]
    sentences += _changed_by(found)
    if strongest := _strongest(found, _BESIDE):
        point, dim, r = strongest
        sentences.append(
            f"With the {COVARIATES[_BESIDE]} itself, in which a few very frequent tokens weigh "
            f"most, it is dimension {dim}, at {_place(found, point)}: r is {r}."
        )
    return sentences


def _changed_by(found: Correlation) -> list[str]:
    """The types that change the largest r most, in which direction, and what it is without."""
    leader = found.worth.leading(_LEADING) if found.worth is not None else None
    if found.worth is None or leader is None or not len(leader.drivers.ids):
        return []
    words = [f"“{found.worth.labels[i]}”" for i in leader.drivers.ids]
    without = float(leader.drivers.without_all[-1])
    beside = f"{number(without, 2)}, where it was {number(leader.r, 2)}"
    work = "works" if len(words) == 1 else "work"
    way = "for" if without * np.sign(leader.r) < abs(leader.r) else "against"
    return [
        f"Without {listing(words)}, which change it most, r of dimension {leader.dim} at "
        f"{_place(found, leader.point)} is {beside}: together they {work} {way} it; "
        f"chance gives as large an |r| to any dimension of any layer with "
        f"{p_in_words(leader.p_all)}."
    ]


def _strongest(found: Correlation, covariate: str) -> tuple[str, int, str] | None:
    """Point, dimension and r in words of the largest |r| of |h|."""
    best = None
    for point in found.points:
        for dim, r in found.top(point, covariate, n=1):
            if best is None or abs(r) > best[0]:
                best = abs(r), point, dim
    if best is None:
        return None
    _, point, dim = best
    estimate = found.estimate(point, covariate)[dim]
    return point, dim, ", ".join(filter(None, [estimate.words(), estimate.chance()]))


def _place(found: Correlation, point: str) -> str:
    return place(point, found.layers[found.points.index(point)])


def _nonfinite(found: Correlation) -> list[str]:
    counts = np.stack([found.results[point, "all"].nonfinite.numpy() for point in found.points])
    rows, dims = np.nonzero(counts)
    if not len(rows):
        return []
    worst = np.argsort(-counts[rows, dims], kind="stable")[:6]
    places = [
        f"{found.points[rows[w]]} dimension {dims[w]} ({int(counts[rows[w], dims[w]]):,})"
        for w in worst
    ]
    return [
        f"{int(counts.sum()):,} values were NaN or infinite, in "
        f"{counted(len(np.unique(dims)), 'dimension')}; their statistics are left undefined. "
        f"Most at {listing(places[:5])}{' and elsewhere' if len(places) > 5 else ''}."
    ]


def _undefined(found: Correlation) -> list[str]:
    """Why r is NaN, for each measure for which it ever is; equal reasons are told once."""
    told: dict[str, list[str]] = defaultdict(list)
    for name, reasons, places in _reasons(found):
        if not reasons:
            continue
        parts = [f"{count:,} {_REASONS.get(why, why)}" for why, count in reasons.most_common()]
        why = f"in {reasons.total():,} of {places:,} places: {', '.join(parts)}"
        if name not in told[why]:
            told[why].append(name)
    return [f"r is not defined {why} ({'; '.join(names)})." for why, names in told.items()]


def _reasons(found: Correlation) -> Iterator[tuple[str, Counter[str], int]]:
    """Measure and selection in words, how often r is NaN for which reason, and of how many r."""
    for selection in SELECTIONS.values():
        results = [found.results[point, selection.name] for point in found.points]
        for covariate in results[0].names:
            for _, of in PEARSON_OF:
                why = np.stack([result.reason(covariate, of) for result in results])
                counts = Counter(why[why != ""].tolist())
                yield f"{COVARIATES.get(covariate, covariate)}, {selection.label}", counts, why.size


def _few_tokens(found: Correlation) -> list[str]:
    n = found.results[found.points[0], _SELECTION].n
    if n >= _FEW_TOKENS:
        return []
    error = 1 / np.sqrt(n - 3) if n > 3 else float("nan")
    return [
        f"Only {n:,} text tokens: even if they were independent, r would have a standard error of "
        f"{number(float(error), 3)}, and tokens of one text are not independent."
    ]
