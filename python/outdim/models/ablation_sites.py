"""Where in a model an ablation takes place, and what has no meaning there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from outdim.errors import ArgumentError
from outdim.models.ablation import Ablation
from outdim.models.architecture import Architecture
from outdim.models.edits import Edit
from outdim.models.points import Point

_OTHERS = "; at='state' takes the dimension out of the hidden state of any model"


@dataclass(frozen=True, eq=False)
class Site:
    """A point, what is done there, and how many parameters of a norm that changes."""

    point: Point
    edit: Edit
    parameters: int = 0


def sites(found: Architecture, ablation: Ablation) -> tuple[Site, ...]:
    """The sites of an ablation in a model, in the order of the layers.

    Raises:
        ArgumentError: Dimensions or layers that are not there; an `at` that has no meaning for the
            architecture: it says what has; a parameter that the norms lack.
        DataError: The hidden states of the model cannot be named.
    """
    found.select(None)
    layers = layers_of(found, ablation)
    if outside := [layer for layer in layers if layer > found.layers]:
        raise ArgumentError(
            f"layers: expected 0 (the embeddings) to {found.layers}, got {outside[0]}"
        )
    if (last := ablation.all_dims[-1]) >= found.hidden_size:
        raise ArgumentError(f"dims: expected 0 to {found.hidden_size - 1}, got {last}")
    rows = ablation.rows(len(layers))
    _check_others(found, ablation, rows)
    seen: set[tuple[str, str]] = set()
    result = []
    for place, (layer, dims) in enumerate(zip(layers, rows, strict=True)):
        edit = Edit.of(ablation, place, dims)
        for point in _points(found, ablation, layers, layer) if dims else ():
            result.append(Site(point, edit, _parameters(found, edit, point, seen)))
    return tuple(result)


def layers_of(found: Architecture, ablation: Ablation) -> tuple[int, ...]:
    """The layers of an ablation in a model: all blocks where it names none."""
    return tuple(range(1, found.layers + 1)) if ablation.layers is None else ablation.layers


def _points(
    found: Architecture, ablation: Ablation, layers: Sequence[int], layer: int
) -> list[Point]:
    """The points of a layer; an error where there are none."""
    enders = [point for point in found.enders if point.layer == layer]
    readers = [point for point in found.readers if point.layer == layer]
    if ablation.at == "state":
        names = ["embeddings", *(point.name for point in found.blocks())]
        return [found.points[names[layer]]]
    if ablation.at == "denominator":
        points = [*enders, *readers]
    elif ablation.at == "parameters":
        points = enders
    else:
        points = [] if found.placement == "post" else readers
    if not points:
        raise ArgumentError(_meaningless(found, ablation, layers, layer))
    return points


def _meaningless(found: Architecture, ablation: Ablation, layers: Sequence[int], layer: int) -> str:
    where = f"this {found.family} model ({_PLACEMENT[found.placement]})"
    which = "the embeddings" if layer == 0 else f"layer {layer}"
    if ablation.at == "parameters":
        readers = {n: [p.module for p in ps] for n, ps in groupby(found.readers, lambda p: p.layer)}
        said = [f"{n} by {' and '.join(readers[n])}" for n in layers if n in readers]
        text = f"at: no norm gives the output of {which} in {where}, so 'parameters' has no meaning"
        if said and found.placement != "post":
            more = f" and so on to {said[-1]}" if len(said) > 2 else ""
            text += (
                f". Layers are read by norms: {', '.join(said[:2])}{more}; at='readers' edits "
                "gamma and beta of those"
            )
        return text + _OTHERS
    if ablation.at == "readers" and found.placement == "post":
        return (
            f"at: in {where} a norm gives the output of each layer, and 'readers' has no meaning; "
            "at='parameters' edits gamma and beta of that norm" + _OTHERS
        )
    text = f"at: no norm takes or gives {which} in {where}, so {ablation.at!r} has no meaning"
    return text + _OTHERS


_PLACEMENT = {
    "post": "post-LN",
    "pre": "pre-LN",
    "branch": "norms end the branches inside its blocks",
    "none": "no norms in its blocks",
    "unknown": "blocks that are no chain",
}


def _check_others(found: Architecture, ablation: Ablation, rows: Sequence[tuple[int, ...]]) -> None:
    """Where other dimensions are needed there have to be some."""
    by_others = ablation.at == "denominator" or (
        ablation.at != "state" and ablation.mode in ("mean", "resample")
    )
    if by_others and max(map(len, rows)) == found.hidden_size:
        raise ArgumentError(
            f"dims: expected fewer than all {found.hidden_size} for at={ablation.at!r}, "
            f"mode={ablation.mode!r}, which takes the others for measure"
        )
    if ablation.at == "denominator" and ablation.mode == "scale":
        factors = ablation.value if isinstance(ablation.value, tuple) else (ablation.value,)
        if any(factor < 0 for factor in factors):
            raise ArgumentError(
                f"value: expected weights >= 0 for at='denominator', got {ablation.value!r}"
            )


def _parameters(found: Architecture, edit: Edit, point: Point, seen: set[tuple[str, str]]) -> int:
    """How many parameters an edit changes at a norm that was not counted before."""
    ablation = edit.ablation
    if ablation.at not in ("parameters", "readers"):
        return 0
    norm = found.modules[point.module]
    there = {"gamma": norm.gamma is not None, "beta": norm.beta is not None}
    wanted = [ablation.only] if ablation.only else ["gamma", "beta"]
    if not any(there[name] for name in wanted):
        lacking, kept = " or ".join(wanted), "'gamma'" if there["gamma"] else "no parameter"
        raise ArgumentError(
            f"{'only' if ablation.only else 'at'}: {point.module} has no {lacking}, but {kept}; "
            "at='state' needs none"
        )
    new = [name for name in wanted if there[name] and (point.module, name) not in seen]
    seen.update((point.module, name) for name in new)
    return len(edit.dims) * len(new)
