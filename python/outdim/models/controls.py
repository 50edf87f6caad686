"""Controls: ablations of other dimensions, by which the damage of some is measured."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from outdim.errors import ArgumentError
from outdim.models.ablation import Ablation
from outdim.models.ablation_sites import layers_of, sites
from outdim.models.architecture import Architecture, architecture
from outdim.text import together

Kind = Literal["random", "random_positions", "largest_gamma", "largest_beta", "magnitude_matched"]

_DRAWS = 10  # of kinds that draw, as many as Puccetti et al. 2022 took
_NEAREST = 8  # dimensions from which one of like magnitude is drawn


def controls(
    model: nn.Module,
    ablation: Ablation | int | Sequence[int],
    kind: Kind = "random",
    n: int | None = None,
    seed: int = 0,
    *,
    exclude: Sequence[int] = (),
    magnitude: Any = None,
    found: Architecture | None = None,
) -> list[Ablation]:
    """Ablations that differ from one in their dimensions alone, none of which is one of its own.

    "random": k other dimensions, the same in every layer (Kovaleva et al. 2021, section 4). What
    the damage of outliers is compared with.
    "random_positions": k other dimensions in every layer, drawn anew in each: does it matter that
    they are the same?
    "largest_gamma", "largest_beta": of all layers together, the k L positions with the largest
    |gamma| or |beta|, wherever they are (Kovaleva et al. 2021, table 5): is it size, or that the
    position is the same? Gamma is that of the norm that ends a layer (post-LN) or takes its output
    (pre-LN); mode and `at` are those of the ablation.
    "magnitude_matched": for each dimension one of the 8 that are nearest in magnitude.

    Draws are made by a hash of seed, number, layer and dimension: the same on every machine.

    >>> from transformers import BertConfig, BertModel
    >>> config = BertConfig(num_hidden_layers=2, hidden_size=8, num_attention_heads=2)
    >>> [one.dims for one in controls(BertModel(config), [3, 5], n=3)]
    [(2, 7), (0, 4), (4, 6)]

    Args:
        model: see `outdim.ablate`.
        ablation: what they stand beside, or dimensions for one of the state.
        kind: see above.
        n: how many; None: 10, or 1 of the kinds that draw nothing, which have no more.
        seed: other seeds draw others.
        exclude: more dimensions that none may have: outliers that are ablated elsewhere.
        magnitude: [D] for "magnitude_matched", such as mean |h|; None: the mean over the layers of
            |gamma|.
        found: architecture(model), which saves the small forward that finds it.

    Raises:
        ArgumentError: an unknown kind; a wrong n; values for each dimension, which are not those of
            others (put them in with `with_means`); fewer dimensions than are needed; norms without
            the parameter.
    """
    found = architecture(model) if found is None else found
    given = Ablation.of(ablation)
    _check(given, kind)
    sites(found, given)
    drawn = kind not in ("largest_gamma", "largest_beta")
    if n is None:
        n = _DRAWS if drawn else 1
    if n < 1 or (n > 1 and not drawn):
        raise ArgumentError(f"n: expected {'at least 1' if drawn else f'1 for {kind}'}, got {n}")
    taken = {*given.one_set, *exclude}
    others = [dim for dim in range(found.hidden_size) if dim not in taken]
    if len(others) < len(given.one_set):
        raise ArgumentError(
            f"dims: expected as many of the {found.hidden_size} dimensions left as are ablated, "
            f"got {len(given.one_set)} and {len(others)} others"
        )
    if not drawn:
        return [_largest(found, given, "gamma" if kind == "largest_gamma" else "beta", others)]
    sizes = _magnitude(found, magnitude) if kind == "magnitude_matched" else None
    return [_drawn(found, given, kind, f"{seed} {i}", i, others, sizes) for i in range(n)]


def keep_only(
    model: nn.Module, ablation: Ablation | int | Sequence[int], *, found: Architecture | None = None
) -> Ablation:
    """Return the ablation of all dimensions but these: what they carry alone.

    Args:
        model: see `outdim.ablate`.
        ablation: what is kept, and how the others are ablated; or dimensions.
        found: architecture(model).

    Raises:
        ArgumentError: see `controls`; all dimensions are kept.

    Example:
        >>> from transformers import BertConfig, BertModel
        >>> model = BertModel(BertConfig(num_hidden_layers=2, hidden_size=8, num_attention_heads=2))
        >>> keep_only(model, [3, 5]).dims
        (0, 1, 2, 4, 6, 7)
    """
    found = architecture(model) if found is None else found
    given = Ablation.of(ablation)
    _check(given, "random")
    sites(found, given)
    others = [dim for dim in range(found.hidden_size) if dim not in given.one_set]
    if not others:
        raise ArgumentError(f"dims: expected fewer than all {found.hidden_size}")
    return replace(given, dims=tuple(others), name=f"all but {together(given.one_set)}")


def _check(ablation: Ablation, kind: str) -> None:
    if kind not in get_args(Kind):
        raise ArgumentError(
            f"kind: expected one of {', '.join(map(repr, get_args(Kind)))}, got {kind!r}"
        )
    if not isinstance(ablation.value, int | float | None):
        raise ArgumentError(
            f"value: values of {together(ablation.one_set)} are not those of others; "
            "leave mode and value out, and put them in with with_means(control, ...) or alike"
        )


def _drawn(
    found: Architecture,
    given: Ablation,
    kind: str,
    key: str,
    number: int,
    others: Sequence[int],
    sizes: NDArray[np.float64] | None,
) -> Ablation:
    k = len(given.one_set)
    if kind == "random_positions":
        layers = layers_of(found, given)
        rows: Any = tuple(tuple(sorted(_order(others, f"{key} {n}")[:k])) for n in layers)
        return replace(given, dims=rows, layers=layers, name=f"random positions {number + 1}")
    if sizes is not None:
        dims = _matched(given.one_set, others, sizes, key)
        return replace(given, dims=dims, name=f"of like size {number + 1}: {together(dims)}")
    dims = tuple(sorted(_order(others, key)[:k]))
    return replace(given, dims=dims, name=f"random {number + 1}: {together(dims)}")


def _order(dims: Iterable[int], key: str) -> list[int]:
    """Dimensions in the order of a hash."""

    def draw(dim: int) -> bytes:
        return hashlib.blake2b(f"{key} {dim}".encode()).digest()

    return sorted(dims, key=draw)


def _matched(
    dims: Sequence[int], others: Sequence[int], sizes: NDArray[np.float64], key: str
) -> tuple[int, ...]:
    """For each dimension one of those not taken yet that are nearest to its size."""
    left, taken = set(others), []
    for dim in dims:
        near = sorted(left, key=lambda other: (abs(sizes[other] - sizes[dim]), other))[:_NEAREST]
        taken.append(_order(near, f"{key} {dim}")[0])
        left.remove(taken[-1])
    return tuple(taken)


def _magnitude(found: Architecture, given: Any) -> NDArray[np.float64]:
    if given is None:
        gammas = [norm.gamma.double().abs() for norm in found.norms()]
        if not gammas:
            raise ArgumentError(
                "magnitude: expected (D,), such as mean |h|: no norm with gamma goes with a layer"
            )
        return np.asarray(torch.stack(gammas).mean(0).cpu())
    sizes = np.asarray(given, dtype=np.float64)
    if sizes.shape != (found.hidden_size,) or not np.isfinite(sizes).all():
        raise ArgumentError(
            f"magnitude: expected ({found.hidden_size},) finite numbers, got {sizes.shape}"
        )
    return np.abs(sizes)


def _largest(found: Architecture, given: Ablation, kind: str, others: Sequence[int]) -> Ablation:
    """The k L positions at which gamma or beta is largest."""
    layers = layers_of(found, given)
    norms = dict(found.layer_norms) | {point.layer: point.module for point in found.enders}
    places = []
    for layer in layers:
        norm = found.modules.get(norms.get(layer, ""))
        table = None if norm is None else getattr(norm, kind)
        if table is None:
            raise ArgumentError(f"kind: no norm with {kind} goes with layer {layer}")
        sizes = table.double().abs().tolist()
        places += [(-sizes[dim], layer, dim) for dim in others]
    chosen = sorted(places)[: len(given.one_set) * len(layers)]
    rows: Any = tuple(
        tuple(sorted(dim for _, at, dim in chosen if at == layer)) for layer in layers
    )
    return replace(given, dims=rows, layers=layers, name=f"largest {kind}")
