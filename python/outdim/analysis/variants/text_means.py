"""Means of the hidden states over the beginning of a text, for ablations that set them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from outdim.errors import ArgumentError, DataError

if TYPE_CHECKING:
    from outdim.analysis.inputs import Inputs

_TOKENS = 1 << 16  # a mean of so many is known to half a percent of a standard deviation
_DIGITS = 4  # that are kept: more would differ from machine to machine, and with them the plan


def text_means(inputs: Inputs) -> Mapping[str, Mapping[str, list[float]]]:
    """By group of tokens and name of a point the mean [D], over the first 65,536 tokens.

    Raises:
        ArgumentError: No text is read.
        DataError: It has no token.
    """
    from outdim.analysis.reading import Reading
    from outdim.corpus import Accounting
    from outdim.models import Forward, observe
    from outdim.tokens import GROUPS, batches

    if "max_length" not in inputs.options:
        raise ArgumentError("mode: mean is that of a text, and none is read here.")
    reading, forward = Reading(inputs), Forward(inputs.model)
    sums: dict[str, dict[str, torch.Tensor]] = {}
    counts: dict[str, int] = {}
    read = 0
    with torch.inference_mode(), observe(inputs.model) as seen:
        for unit in inputs.corpus.units:
            pieces = reading.pieces(unit.as_dict(), Accounting())
            for batch in batches(pieces, inputs.options["token_budget"], **reading.padding):
                batch = batch.to(inputs.model.device)
                forward(batch.input_ids, batch.attention_mask)
                for number, group in enumerate(GROUPS, 1):
                    rows = batch.group == number
                    if not rows.any():
                        continue
                    counts[group] = counts.get(group, 0) + int(rows.sum())
                    own = sums.setdefault(group, {})
                    for point, hidden in seen.items():
                        own[point] = own.get(point, 0) + hidden[rows].double().sum(0).cpu()
                read += batch.tokens
                if read >= _TOKENS:
                    return _means(sums, counts)
    if not counts:
        raise DataError(f"source: {inputs.corpus.source}: the corpus has no token.")
    return _means(sums, counts)


def _means(
    sums: Mapping[str, Mapping[str, torch.Tensor]], counts: Mapping[str, int]
) -> dict[str, dict[str, list[float]]]:
    return {
        group: {
            point: [float(f"{x:.{_DIGITS}g}") for x in (total / counts[group]).tolist()]
            for point, total in own.items()
        }
        for group, own in sums.items()
    }
