"""Values for ablations: means and samples of the hidden state, given or taken from a text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from outdim.errors import ArgumentError, DataError
from outdim.models.ablation import Ablation, GroupValues
from outdim.models.ablation_sites import layers_of, sites
from outdim.models.architecture import Architecture, architecture
from outdim.models.observe import observe
from outdim.models.sequence_tokens import GROUPS, SequenceTokens, mix


def with_means(
    ablation: Ablation,
    means: Mapping[str, Any],
    *,
    special_ids: Sequence[int] = (),
) -> Ablation:
    """Let an ablation set its dimensions to their means, layer by layer.

    Args:
        ablation: dimensions (the same in every layer) and layers, at="state"; whatever its mode is.
        means: by name of point ("block.3") the mean [D], or what has one (`MomentsResult`); such as
            ``{point: correlation.results[point, "text"] for point in correlation.points}``.
            Or by group of tokens ("text", "first", "special") such a mapping.
        special_ids: ids of the special tokens, for means by group.

    Returns:
        The ablation with mode "mean" and these values; without `layers`, for all blocks in `means`.

    Raises:
        ArgumentError: a layer that has no mean, or another `at`.

    Example:
        >>> with_means(Ablation([1]), {"block.0": [5.0, 6.0], "block.1": [7.0, 8.0]}).value
        ((6.0,), (8.0,))
    """
    _check_state(ablation)
    by_group = {name: means[name] for name in GROUPS if name in means}
    some = next(iter(by_group.values()), means)
    layers = ablation.layers
    if layers is None:
        found = (_layer(name) for name in some)
        layers = tuple(sorted(layer for layer in found if layer))  # blocks; 0 is the embeddings
    values = {
        group: _rows(ablation, layers, {name: _mean(of) for name, of in one.items()})
        for group, one in (by_group or {"": means}).items()
    }
    return _with(ablation, "mean", layers, values, special_ids if by_group else None)


def with_estimated_means(
    ablation: Ablation,
    model: nn.Module,
    batches: Iterable[Any],
    *,
    special_ids: Sequence[int] | None = None,
    found: Architecture | None = None,
) -> Ablation:
    """Let an ablation set its dimensions to their means over a text, taken from the model as it is.

    Args:
        ablation: dimensions and layers, at="state".
        model: see `outdim.ablate`.
        batches: what the model takes, such as dicts with input_ids and attention_mask.
        special_ids: ids of the special tokens: then means by group of tokens (text, first of a
            sequence, special). None: one mean for all that is not padding.
        found: architecture(model).

    Raises:
        ArgumentError: see `with_means`.
        DataError: no token in all batches.
    """
    layers, states = _states(ablation, model, batches, special_ids, found)
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = {}
    for group, h in states:
        sums[group] = sums.get(group, 0) + h.sum(1)
        counts[group] = counts.get(group, 0) + h.shape[1]
    values = {group: (sums[group] / counts[group]).tolist() for group in sums}
    return _with(ablation, "mean", layers, values, special_ids)


def with_samples(
    ablation: Ablation,
    model: nn.Module,
    batches: Iterable[Any],
    *,
    n: int = 256,
    seed: int = 0,
    special_ids: Sequence[int] | None = None,
    found: Architecture | None = None,
) -> Ablation:
    """Let an ablation give its dimensions what they are at other tokens of a text.

    The same tokens are drawn for all dimensions and layers, so that what belongs together stays so.

    Args:
        ablation: see `with_estimated_means`, like model, batches, special_ids and found.
        model: see there.
        batches: see there.
        n: tokens that are drawn, of each group; fewer where there are fewer.
        seed: other seeds draw others.
        special_ids: see there.
        found: see there.

    Raises:
        ArgumentError: see `with_means`.
        DataError: no token in all batches.
    """
    if n < 1:
        raise ArgumentError(f"n: expected at least 1, got {n}")
    layers, states = _states(ablation, model, batches, special_ids, found)
    kept: dict[str, tuple[Tensor, Tensor]] = {}
    seen = 0
    for group, h in states:
        number = torch.arange(seen, seen + h.shape[1])
        seen += h.shape[1]
        priority = mix(mix(number + 1) ^ seed)
        if group in kept:
            priority = torch.cat([kept[group][0], priority])
            h = torch.cat([kept[group][1], h], 1)
        first = priority.argsort(stable=True)[:n]
        kept[group] = priority[first], h[:, first]
    values = {group: h.tolist() for group, (_, h) in kept.items()}
    return _with(ablation, "resample", layers, values, special_ids)


def _states(
    ablation: Ablation,
    model: nn.Module,
    batches: Iterable[Any],
    special_ids: Sequence[int] | None,
    found: Architecture | None,
) -> tuple[tuple[int, ...], Iterator[tuple[str, Tensor]]]:
    """Layers, and the states of the dimensions, [layers, N, k] float64, group by group."""
    _check_state(ablation)
    found = architecture(model) if found is None else found
    points = [site.point for site in sites(found, replace(ablation, mode="zero", value=None))]
    dims = torch.tensor(ablation.one_set)

    def run() -> Iterator[tuple[str, Tensor]]:
        for batch in batches:
            inputs = batch if isinstance(batch, Mapping) else _inputs(batch)
            with torch.inference_mode(), observe(model, points) as seen:
                model(**inputs)
            tokens = SequenceTokens.of_call(model, (), inputs)
            group = tokens.mask.long() if special_ids is None else tokens.group(special_ids)
            h = torch.stack([seen[point.name][..., dims] for point in points]).double().cpu()
            for number, name in enumerate(("",) if special_ids is None else GROUPS, 1):
                chosen = (group == number).cpu()
                if chosen.any():
                    yield name, h[:, chosen]

    return layers_of(found, ablation), run()


def _inputs(batch: Any) -> dict[str, Tensor]:
    """Of an `outdim.tokens.Batch`."""
    return {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}


def _with(
    ablation: Ablation,
    mode: Any,
    layers: tuple[int, ...],
    values: Mapping[str, Any],
    special_ids: Sequence[int] | None,
) -> Ablation:
    if not values:
        raise DataError("batches: expected at least one token, got none")
    value: Any = values.get("")
    if special_ids is not None:
        value = GroupValues(**values, special_ids=tuple(special_ids))
    return replace(ablation, layers=layers, mode=mode, value=value)


def _check_state(ablation: Ablation) -> None:
    if ablation.at != "state":
        raise ArgumentError(
            f"ablation: expected at='state', whose values these are, got {ablation.at!r}"
        )


def _mean(of: Any) -> NDArray[np.float64]:
    given = of if isinstance(of, Sequence | np.ndarray | Tensor) else of.mean
    return np.asarray(given, dtype=np.float64)


def _layer(point: str) -> int | None:
    """The layer whose state a point is; None of points within one, such as "block.3.norm"."""
    if point == "embeddings":
        return 0
    kind, _, number = point.partition(".")
    return int(number) + 1 if kind == "block" and number.isdecimal() else None


def _rows(ablation: Ablation, layers: Sequence[int], means: Mapping[str, Any]) -> Any:
    """Means [layers, dims]."""
    by_layer = {_layer(name): mean for name, mean in means.items()}
    if missing := [layer for layer in layers if layer not in by_layer]:
        raise ArgumentError(f"means: expected those of layer {missing[0]}, got {', '.join(means)}")
    return [by_layer[layer][list(ablation.one_set)].tolist() for layer in layers]
