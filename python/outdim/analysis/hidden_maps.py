"""Hidden states of a few short sentences, tokens by dimensions (Kovaleva et al. 2021, figure 1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import torch

from outdim.analysis.sentences import ids_of
from outdim.models import Architecture, Forward, architecture, observe

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SCHEMA = pa.schema(
    [
        ("sentence", pa.int32()),
        ("tokens", pa.list_(pa.string())),
        ("point", pa.string()),
        ("layer", pa.int16()),
        ("dims", pa.list_(pa.int32())),  # those chosen, then random ones
        ("chosen", pa.int32()),  # how many of them are chosen
        ("values", pa.list_(pa.float32())),  # [S, dims], row by row
    ]
)


def hidden_maps(
    model: PreTrainedModel,
    tokenizer: Any,
    sentences: Sequence[str],
    dims: Sequence[int],
    others: Sequence[int] = (),
    *,
    found: Architecture | None = None,
) -> pa.Table:
    """The hidden states of some sentences at embeddings, blocks and final norm, cut at 32 tokens.

    Args:
        model: A model in eval mode.
        tokenizer: Its tokenizer.
        sentences: What is read, each alone.
        dims: The dimensions that are of interest.
        others: Dimensions to see them against.
        found: architecture(model), which saves the small forward that finds it.

    Returns:
        A row a sentence and point; see `SCHEMA`.
    """
    found = architecture(model) if found is None else found
    points = [*found.select(None), *(p for p in found.points.values() if p.name == "final_norm")]
    forward = Forward(model)
    columns = [*dims, *others]
    rows: list[dict[str, Any]] = []
    for number, ids in enumerate(ids_of(sentences, tokenizer)):
        inputs = torch.tensor([ids], device=model.device)
        with torch.inference_mode(), observe(model, points) as seen:
            forward(inputs, torch.ones_like(inputs))
        rows += [
            {
                "sentence": number,
                "tokens": tokenizer.convert_ids_to_tokens(ids),
                "point": point.name,
                "layer": point.layer,
                "dims": columns,
                "chosen": len(dims),
                "values": seen[point.name][0, :, columns].float().flatten().tolist(),
            }
            for point in points
        ]
    return pa.Table.from_pylist(rows, SCHEMA)
