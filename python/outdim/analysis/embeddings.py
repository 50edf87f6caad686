"""Where outliers begin: embeddings taken apart.

Words, positions, types and the norm of their sum, column by column: a column is a dimension
(Kovaleva et al. 2021, figure 4 of the authors' blog post).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from outdim.analysis.gathered import Gathered
from outdim.analysis.input_options import ModelOptions
from outdim.analysis.inputs import Inputs
from outdim.analysis.results.embedding_columns import EDGES, Columns, Embeddings
from outdim.analysis.step import Json, Progress
from outdim.models import Architecture
from outdim.models.embedding_tables import embedding_parts
from outdim.stats.named import below

_AT_ONCE = 1 << 22  # weights that are widened to float64 at a time


@dataclass(frozen=True, kw_only=True)
class EmbeddingsOptions:
    """Take the embeddings apart: which dimensions stand out in words, positions, types and norm."""


class TakeApart(Gathered):
    """Reads the embeddings of a model; its state is by part what `columns_of` gives."""

    name = "embeddings"
    Options = EmbeddingsOptions
    reads = (ModelOptions,)
    wants = ("detect",)

    @classmethod
    def resolve(cls, options: EmbeddingsOptions, inputs: Inputs) -> Json:
        """The parts are found here."""
        parts = embedding_parts(inputs.model, inputs.architecture)
        return {"parts": [[one.part, one.path, len(one.weight)] for one in parts]}

    def update(self, unit: Mapping[str, Any], progress: Progress) -> Self:
        """Read the weights."""
        for one in embedding_parts(self.inputs.model, self.inputs.architecture):
            found = columns_of(one.weight)
            self.tensors |= {f"{one.part}/{name}": part for name, part in found.items()}
        return self

    def result(self) -> Embeddings:
        """The columns."""
        return Embeddings(
            {
                part: Columns(path, rows, **below(f"{part}/", self.tensors))
                for part, path, rows in self.recorded["parts"]
            }
        )


def embeddings(model: Any, found: Architecture | None = None) -> Embeddings:
    """Take the embeddings of a model apart, column by column.

    Args:
        model: A Hugging Face model.
        found: architecture(model), which saves the small forward that finds it.

    Returns:
        Mean, spread, extreme value and histogram of every column of every part.

    Raises:
        DataError: It has no embeddings as wide as its hidden states.

    Example:
        >>> from transformers import BertConfig, BertModel
        >>> config = BertConfig(
        ...     hidden_size=64, num_hidden_layers=2, num_attention_heads=2, vocab_size=99
        ... )
        >>> model = BertModel(config)
        >>> model.embeddings.position_embeddings.weight.data[:, 7] += 1
        >>> embeddings(model).outside("position")
        (7,)
    """
    from outdim.models import architecture

    parts = embedding_parts(model, architecture(model) if found is None else found)
    return Embeddings(
        {one.part: Columns(one.path, len(one.weight), **columns_of(one.weight)) for one in parts}
    )


def columns_of(weight: Tensor) -> dict[str, Tensor]:
    """Of ``weight`` [V, D], by column: ``mean``, ``sd``, ``extreme``, ``row`` and ``counts``.

    ``extreme`` is the value furthest from the mean of all weights, ``row`` where it stands;
    ``counts`` [D, bins] says how many are between `EDGES`, in standard deviations of all weights
    from their mean, those beyond in the first and last. All is float64 or int64, on the CPU.
    """
    size = max(1, _AT_ONCE // len(weight))
    chunks = torch.split(weight, size, 1)
    both = [torch.var_mean(chunk.double(), 0, correction=0) for chunk in chunks]
    variance, mean = (torch.cat([one[place] for one in both]) for place in (0, 1))
    centre = mean.mean()
    spread = (variance + (mean - centre).square()).mean().sqrt()
    edges = torch.tensor(EDGES, dtype=torch.float64, device=weight.device)[1:-1]
    found: dict[str, list[Tensor]] = {"extreme": [], "row": [], "counts": []}
    for chunk in chunks:
        deviation = chunk.double() - centre
        row = deviation.abs().argmax(0)
        found["row"].append(row)
        found["extreme"].append(chunk.gather(0, row[None])[0].double())
        bins = torch.bucketize(deviation / spread if spread > 0 else deviation * 0, edges)
        bins += torch.arange(chunk.shape[1], device=weight.device) * (len(EDGES) - 1)
        counts = torch.bincount(bins.flatten(), minlength=chunk.shape[1] * (len(EDGES) - 1))
        found["counts"].append(counts.view(chunk.shape[1], -1))
    joined = {name: torch.cat(parts).cpu() for name, parts in found.items()}
    return {"mean": mean.cpu(), "sd": variance.sqrt().cpu(), **joined}
