"""Whole attention matrices of a few short sentences, of a model as it is and ablated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import torch
from torch import Tensor

from outdim.analysis.sentences import ids_of
from outdim.models import (
    Ablation,
    Architecture,
    Forward,
    apply_ablation,
    architecture,
    observe_attention,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SCHEMA = pa.schema(
    [
        ("sentence", pa.int32()),
        ("tokens", pa.list_(pa.string())),
        ("layer", pa.int16()),
        ("head", pa.int16()),
        ("full", pa.list_(pa.float32())),  # [S, S], row by row: a row is a query
        ("ablated", pa.list_(pa.float32())),  # null where nothing was ablated
    ]
)


def attention_maps(
    model: PreTrainedModel,
    tokenizer: Any,
    sentences: Sequence[str],
    ablation: Ablation | None = None,
    *,
    found: Architecture | None = None,
) -> pa.Table:
    """The attention of every head over some sentences, cut at 32 tokens.

    Args:
        model: A model in eval mode.
        tokenizer: Its tokenizer.
        sentences: What is read, each alone.
        ablation: What is done to the model for a second look; None for one look.
        found: architecture(model), which saves the small forward that finds it.

    Returns:
        A row a sentence, layer and head; see `SCHEMA`.
    """
    found = architecture(model) if found is None else found
    forward = Forward(model)
    rows: list[dict[str, Any]] = []
    for number, ids in enumerate(ids_of(sentences, tokenizer)):
        full = _weights(model, forward, ids, None, found)
        ablated = None if ablation is None else _weights(model, forward, ids, ablation, found)
        tokens = tokenizer.convert_ids_to_tokens(ids)
        rows += [
            {
                "sentence": number,
                "tokens": tokens,
                "layer": layer,
                "head": head,
                "full": weights[head].flatten().tolist(),
                "ablated": None if ablated is None else ablated[layer][head].flatten().tolist(),
            }
            for layer, weights in full.items()
            for head in range(len(weights))
        ]
    return pa.Table.from_pylist(rows, SCHEMA)


def _weights(
    model: PreTrainedModel,
    forward: Forward,
    ids: Sequence[int],
    ablation: Ablation | None,
    found: Architecture,
) -> dict[int, Tensor]:
    """[H, S, S] by layer."""
    weights: dict[int, Tensor] = {}
    inputs = torch.tensor([ids], device=model.device)
    with (
        torch.inference_mode(),
        apply_ablation(model, ablation, found=found),
        observe_attention(
            model, lambda a: weights.update({a.layer: a.weights()[0].cpu()}), found=found
        ),
    ):
        forward(inputs, torch.ones_like(inputs))
    return weights
