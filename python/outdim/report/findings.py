"""What a run found, and what to beware of, in sentences and tables of plain text."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from outdim.report.figures.correlation import Correlations, describe, read_correlations
from outdim.report.figures.norms import Norms, read_norms
from outdim.report.run_files import Floats, Run
from outdim.report.text import listing, number

MAX_OUTLIERS = 20
_TOP = 3
_SHOWN_OUTLIERS = 4

RULES = {
    "kovaleva2021": "γ and β both further than {k:g} σ from their layer's mean, in at least "
    "{min_layers} of the {layers} layers",
    "puccetti2022": "γ or β further than {k:g} σ from their layer's mean, in at least {min_layers} "
    "of the {layers} layers",
}


@dataclass(frozen=True)
class OutlierRow:
    """z of γ (and β) of one dimension by layer, and in how many layers it is beyond k."""

    dim: int
    both: int
    layers: dict[str, int]
    z: dict[str, list[float]]


@dataclass(frozen=True)
class OutlierTable:
    """The outliers or, if nearest, the dimensions that come nearest to being one."""

    k: float
    nearest: bool
    labels: list[str]
    rows: list[OutlierRow]
    left_out: int


@dataclass(frozen=True)
class LayerRow:
    """The strongest dimensions of one layer, as (dimension, r), beside what is usual there."""

    name: str
    top: list[tuple[int, float]]
    median: float
    high: float
    outliers: list[float]


@dataclass(frozen=True)
class LayerTable:
    """Layer by layer the dimensions with the largest |r|; measure says which r, in words."""

    measure: str
    outliers: list[int]
    rows: list[LayerRow]


def findings(run: Run) -> list[str]:
    """Say what the run found, the most important first."""
    correlations = read_correlations(run)
    return [
        *_about_outliers(run),
        *(_about_correlations(correlations) if correlations else []),
        *_about_tokens(run),
    ]


def layers_in_words(run: Run) -> str:
    """Say which output the number of a layer means; nothing where no layer is spoken of."""
    if run.statistics is None:
        return ""
    last = (
        ", but the last of those is taken after the final norm"
        if (run.manifest.get("model") or {}).get("placement") == "pre"
        else ""
    )
    return (
        "Layer i is the output of block i − 1 (block.0 is the first), Hugging Face's "
        f"hidden_states[i]{last}; layer 0, “emb”, is the embeddings."
    )


def _about_outliers(run: Run) -> list[str]:
    found = run.detection
    if found is None:
        return []
    dims = run.outlier_dims()
    rule = rule_in_words(found, has_beta(found))
    size = (
        run.statistics.dims
        if run.statistics
        else (run.manifest.get("model") or {}).get("hidden_size")
    )
    of = f" of the {size:,}" if size else ""
    verb = "dimension is an outlier" if len(dims) == 1 else "dimensions are outliers"
    start = (
        f"{len(dims)}{of} {verb} by the rule ({rule}): {listing(dims, MAX_OUTLIERS)}."
        if dims
        else f"No dimension{of} is an outlier by the rule ({rule})."
    )
    chance = _by_chance(found.get("false_positives") or {})
    return [f"{start} {chance}" if chance else start]


def _by_chance(found: dict[str, Any]) -> str:
    draws, apart = found.get("permutations"), found.get("expected_dims")
    if not draws or apart is None:
        return ""

    def mean(dims: float) -> str:
        return f"{dims:.2g}" if dims else "none"

    kept = found.get("expected_dims_layers_kept")
    stricter = (
        f"; {mean(kept)} if those of β are shuffled against γ but alike in all layers, as a "
        "dimension that is extreme in one layer often is in the next"
        if kept is not None
        else ""
    )
    return (
        "Dimensions that the rule finds by chance alone, on average over "
        f"{draws:,} permutations of their positions: {mean(apart)} (each layer apart{stricter})."
    )


def rule_in_words(found: dict[str, Any], beta: bool) -> str:
    """Write the rule of a detection out, with its numbers."""
    rule = RULES.get(found.get("rule", ""), str(found.get("rule", "not named")))
    words = rule.format(
        k=found.get("k", 3.0),
        min_layers=found.get("min_layers", "?"),
        layers=found.get("layers", "?"),
    )
    if beta:
        return words
    return (
        words.replace("γ and β both", "γ")
        .replace("γ or β", "γ")
        .replace("their layer", "its layer")
    )


def has_beta(found: dict[str, Any]) -> bool:
    """Say whether the norms of a detection have a β (RMSNorm has none)."""
    return all(bound.get("beta_std") is not None for bound in found.get("bounds", []))


def _about_correlations(correlations: Correlations) -> list[str]:
    signed = correlations.r[correlations.headline]
    r = np.abs(signed)
    if not np.isfinite(r).any():
        return [f"r of {describe(correlations.headline)} is not defined for any dimension."]
    row, dim = np.unravel_index(np.nanargmax(r), r.shape)
    other = (
        f" Dimension {dim} is no outlier: the rule looks for extreme LayerNorm parameters, not "
        "for frequency, and the two need not agree."
        if correlations.outliers and dim not in correlations.outliers
        else ""
    )
    sentences = [
        f"The dimension that follows token frequency most closely is {dim}, at "
        f"{_place(correlations, row)}: r = {number(float(signed[row, dim]), 2)} of "
        f"{describe(correlations.headline)}. The median dimension there has |r| = "
        f"{number(float(np.nanmedian(r[row])), 2)}.{other}"
    ]
    return sentences + [
        _about_outlier(correlations, signed, outlier)
        for outlier in correlations.outliers[:_SHOWN_OUTLIERS]
        if np.isfinite(r[:, outlier]).any()
    ]


def _about_outlier(correlations: Correlations, signed: Floats, outlier: int) -> str:
    r = np.abs(signed)
    peak = int(np.nanargmax(r[:, outlier]))
    points = int(np.isfinite(r[:, outlier]).sum())
    start = correlations.points.index("embeddings") if "embeddings" in correlations.points else peak
    embeddings = (
        f" (at the embeddings {number(float(signed[start, outlier]), 2)})" if start != peak else ""
    )
    return (
        f"Outlier dimension {outlier} follows it most at {_place(correlations, peak)}: r = "
        f"{number(float(signed[peak, outlier]), 2)}, the largest |r| of its {points} "
        f"points{embeddings}, and larger than in {_share_below(r[peak], outlier)} of the other "
        "dimensions there."
    )


def _place(correlations: Correlations, row: int | np.integer[Any]) -> str:
    point = correlations.points[int(row)]
    if point == "embeddings":
        return "the embeddings"
    label = correlations.labels[int(row)]
    return f"layer {label}" if label.isdecimal() else label


def _share_below(r: np.ndarray[Any, Any], dim: int) -> str:
    others = np.delete(r, dim)
    others = others[np.isfinite(others)]
    share = float((others < r[dim]).mean()) if len(others) else 0.0
    return "all" if share == 1.0 else f"{100 * share:.1f} %"


def _about_tokens(run: Run) -> list[str]:
    sentences = []
    documents = (run.manifest.get("tokens") or {}).get("documents")
    source = f" of {documents:,} documents" if isinstance(documents, int) else ""
    if short := run.left_out().get("short"):
        least = (run.manifest.get("options") or {}).get("min_chars")
        limit = f"shorter than {least:,} characters" if least else "too short"
        source += f" ({short:,} more, {limit}, were left out)"
    measured = run.statistics.tokens if run.statistics else {}
    if "text" in measured:
        both = f" ({measured['all']:,} with special tokens)" if "all" in measured else ""
        sentences.append(
            f"{measured['text']:,} text tokens{source} went into the statistics{both}."
        )
    if run.counts is not None:
        ordinary = run.counts.counts[~run.counts.special]
        total = int(ordinary.sum())
        top = int(np.sort(ordinary)[::-1][:100].sum())
        if total:  # special ids are in neither number
            sentences.append(
                f"Frequencies were counted over {total:,} text tokens"
                f"{'' if 'text' in measured else source}; "
                f"{int((ordinary > 0).sum()):,} of {len(ordinary):,} token ids of text occur, and "
                f"the 100 most frequent make up {100 * top / total:.0f} % of the text."
            )
    return sentences


def outlier_table(run: Run) -> OutlierTable | None:
    """Set out each outlier's z per layer; None without parameters or without any |z| beyond k."""
    norms = read_norms(run)
    if norms is None or not norms.named:
        return None
    return OutlierTable(
        k=norms.k,
        nearest=not norms.outliers,
        labels=norms.labels,
        rows=[_outlier_row(dim, norms) for dim in norms.named[:MAX_OUTLIERS]],
        left_out=max(0, len(norms.named) - MAX_OUTLIERS),
    )


def _outlier_row(dim: int, norms: Norms) -> OutlierRow:
    z = {letter: scores[:, dim] for letter, scores in norms.z.items()}
    beyond = {letter: np.abs(values) > norms.k for letter, values in z.items()}
    return OutlierRow(
        dim=dim,
        both=int(np.all(list(beyond.values()), axis=0).sum()),
        layers={letter: int(over.sum()) for letter, over in beyond.items()},
        z={letter: values.tolist() for letter, values in z.items()},
    )


def layer_table(run: Run) -> LayerTable | None:
    """Set out the strongest dimensions of each layer; None without correlations."""
    correlations = read_correlations(run)
    if correlations is None:
        return None
    shown = correlations.outliers[:_SHOWN_OUTLIERS]
    rows = []
    for index, values in enumerate(correlations.r[correlations.headline]):
        size = np.abs(values)
        finite = size[np.isfinite(size)]
        median, high = np.percentile(finite, (50, 95)) if len(finite) else (np.nan, np.nan)
        order = np.argsort(-size, kind="stable")[: min(_TOP, len(finite))]  # NaN sorts last
        rows.append(
            LayerRow(
                name=correlations.labels[index],
                top=[(int(dim), float(values[dim])) for dim in order],
                median=float(median),
                high=float(high),
                outliers=[float(values[dim]) for dim in shown],
            )
        )
    return LayerTable(describe(correlations.headline), shown, rows)
