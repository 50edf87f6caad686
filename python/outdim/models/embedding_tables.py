"""What embeddings are made of: tables of words, positions and types, found by what they give."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from outdim.errors import DataError
from outdim.hub import quiet_unless_terminal
from outdim.models.architecture import Architecture
from outdim.models.parts import text_model
from outdim.models.trace import LENGTH, alone, dummy_inputs
from outdim.models.unchanged import unchanged

Part = Literal["word", "position", "type", "gamma", "beta"]


class EmbeddingPart(NamedTuple):
    """Parameters of which each column is a dimension of the hidden state.

    Attributes:
        part: The embeddings of words, positions or token types; gamma or beta of the norm of all.
        path: Of the module.
        weight: [V, D]; one row for the norm.
    """

    part: Part
    path: str
    weight: Tensor


def embedding_parts(model: Any, found: Architecture) -> tuple[EmbeddingPart, ...]:
    """Find the embeddings of a Hugging Face model that are D wide, and the norm of their sum.

    Words are transformers' own `get_input_embeddings()`. Of the other `nn.Embedding` modules that
    run before the first block, the one that gives successive rows for successive tokens holds
    positions, and the one that gives the same row for all holds types. Rotary models have words
    alone; models whose embeddings are narrower than D (ELECTRA, ALBERT) have only their norm.

    Raises:
        DataError: There is nothing that is D wide.
    """
    base = text_model(model)
    words = base.get_input_embeddings()
    paths = {module: path for path, module in model.named_modules()}
    parts = []
    if isinstance(getattr(words, "weight", None), Tensor):
        parts.append(EmbeddingPart("word", paths[words], words.weight.detach()))
    first = model.get_submodule(found.blocks()[0].module)
    for module, rows in _others(base, words, first).items():
        if (part := _role(rows)) is not None and part not in {one.part for one in parts}:
            parts.append(EmbeddingPart(part, paths[module], module.weight.detach()))
    parts = [one for one in parts if one.weight.shape[-1] == found.hidden_size]
    point = found.points.get("embeddings")
    if point is not None and point.norm is not None and point.norm_side == "output":
        norm = found.modules[point.norm]
        for name, values in (("gamma", norm.gamma), ("beta", norm.beta)):
            if values is not None:
                parts.append(EmbeddingPart(name, point.norm, values.detach()[None]))  # type: ignore[arg-type]
    if not parts:
        raise DataError(
            f"model: this {found.family} has no embeddings that are {found.hidden_size} wide, so "
            "no column of theirs is a dimension of the hidden state."
        )
    return tuple(parts)


def _others(base: Any, words: nn.Module, first: nn.Module) -> dict[nn.Embedding, Tensor]:
    """Which rows the other embeddings gave for the tokens of a dummy sequence, by module.

    Those that ran before the first block did.
    """
    rows: dict[nn.Embedding, Tensor] = {}
    begun: list[nn.Module] = []

    def look(module: Any, args: Any, output: Any) -> None:
        known = begun or module in rows
        if not known and isinstance(output, Tensor) and output.dim() >= 2:
            given = output.detach().reshape(-1, output.shape[-1])[:LENGTH]
            rows[module] = _rows_of(given, module.weight.detach())

    others = [m for m in base.modules() if isinstance(m, nn.Embedding) and m is not words]
    with quiet_unless_terminal(), alone(base):
        handles = [module.register_forward_hook(look) for module in others]
        handles.append(first.register_forward_pre_hook(lambda module, args: begun.append(module)))
        try:
            with unchanged(base), torch.no_grad():
                base(**dummy_inputs(base))
        finally:
            for handle in handles:
                handle.remove()
    return rows


def _rows_of(given: Tensor, weight: Tensor) -> Tensor:
    """The first row of ``weight`` [V, D] that each of the rows is; -1 where none."""
    if given.shape[-1] != weight.shape[-1]:
        return torch.full((len(given),), -1)
    found = []
    for row in given:
        among = (weight[:, 0] == row[0]).nonzero()[:, 0]
        same = among[(weight[among] == row).all(-1)]
        found.append(int(same[0]) if len(same) else -1)
    return torch.tensor(found)


def _role(rows: Tensor) -> Part | None:
    """What gives these rows for successive tokens."""
    if len(rows) < 2 or bool((rows < 0).any()):
        return None
    steps = rows.diff()
    if bool((steps == 1).all()):
        return "position"
    return "type" if bool((steps == 0).all()) else None
