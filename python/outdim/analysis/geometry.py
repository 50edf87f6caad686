"""Geometry of hidden states in one pass: anisotropy, its dimensions, and directions in use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from outdim.analysis.dimensions import named_dims
from outdim.analysis.in_memory import one_step
from outdim.analysis.inputs import Inputs
from outdim.analysis.probe import read_first
from outdim.analysis.results.isotropy import LEADING, RATIOS, Geometry, Ratios, Space
from outdim.analysis.sampled import Sampled
from outdim.analysis.step import Json, Observer, Part
from outdim.analysis.table import SELECTIONS
from outdim.errors import ArgumentError
from outdim.stats import Covariates, PointMoments
from outdim.stats.block_sums import BlockSums
from outdim.stats.covariance import PointCovariances
from outdim.stats.jackknife import BLOCKS, block_of, ratio
from outdim.stats.token_sample import TokenSample
from outdim.stats.unit_sums import UnitSums
from outdim.tokens import GROUPS, Batch

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from outdim.corpus import Corpus
    from outdim.models import Point

_SAMPLED = 16  # one token of so many is sorted; a median of every token would cost more than a norm
_MAX_COVARIANCE_DIMS = 4096
_KEPT_ROWS = 1024  # words: half a million pairs, as many as Timkey and van Schijndel 2021 drew
_TEXT = 1 + GROUPS.index("text")


@dataclass(frozen=True, kw_only=True)
class GeometryOptions:
    """Measure anisotropy, what dimensions add to it, and how many directions are in use.

    Args:
        points: Where the model is observed, by name; none takes the embeddings and every block.
        covariance: Points at which the covariance is taken: 24 bytes times the square of the width
            each, and as much again while a batch is under way; none takes the middle and the last
            of the points, up to a width of 4,096.
        top: How many dimensions are left out of the read-out: those that add most to the expected
            cosine among the first 2,048 tokens, at each point its own.
        leave_out: Dimensions that are left out at every point instead.
    """

    points: list[str] | None = None
    covariance: list[str] | None = None
    top: int = 3
    leave_out: list[int] | None = None


class MeasureGeometry(Observer):
    """Unit vectors by block of documents, moments, ratios within tokens, and covariances."""

    name = "geometry"
    Options = GeometryOptions

    @classmethod
    def resolve(cls, options: GeometryOptions, inputs: Inputs) -> Json:
        """The dimensions to leave out are chosen here, once."""
        recorded = super().resolve(options, inputs)
        size = inputs.architecture.hidden_size
        points = recorded["points"]
        if not 0 <= options.top < size:
            raise ArgumentError(f"top: expected 0 to {size - 1} dimensions, got {options.top}.")
        given = named_dims("leave-out", options.leave_out or (), size)
        if len(given) == size:
            raise ArgumentError(f"leave-out: expected some of {size} dimensions, got all of them.")
        if options.covariance is None:
            few = dict.fromkeys([points[len(points) // 2], points[-1]])
            recorded["covariance"] = list(few) if size <= _MAX_COVARIANCE_DIMS else []
        if unknown := set(recorded["covariance"]) - set(points):
            raise ArgumentError(
                f"covariance: expected some of {', '.join(points)}, got {', '.join(unknown)}."
            )
        if options.leave_out is None:
            found = strongest(recorded, inputs) if options.top else {}
            recorded["left_out"] = {p: found[p][: options.top] if found else [] for p in points}
        else:
            recorded["left_out"] = dict.fromkeys(points, given)
        recorded["given"] = options.leave_out is not None
        return recorded

    def accumulators(self) -> Mapping[str, Part]:
        """Moments and ratios of every point, unit vectors, covariances of some."""
        position = Covariates(row_names=("position",))
        return {
            "moments": PointMoments(self.points, GROUPS, position, device=self.inputs.device),
            "ratios": BlockSums(BLOCKS),
            "units": UnitSums(self.points, GROUPS, BLOCKS, self.recorded["left_out"]),
            "covariances": PointCovariances(self.recorded["covariance"], GROUPS),
            "sample": TokenSample(self.recorded["covariance"], _KEPT_ROWS),
        }

    @cached_property
    def _kept(self) -> dict[str, torch.Tensor]:
        """The dimensions that are not left out, by point."""
        size, left_out = self.inputs.architecture.hidden_size, self.recorded["left_out"]
        every = torch.arange(size, device=self.inputs.device)
        return {
            point: every[~torch.isin(every, every[left_out.get(point, [])])]
            for point in self.points
        }

    def begin(self, batch: Batch) -> None:
        """One token of sixteen is sampled: which it begins with says nothing of the block."""
        ids, group = batch.input_ids.reshape(-1), batch.group.reshape(-1)
        rows = batch.position.reshape(1, -1).double()
        key = batch.keys[:, None].expand_as(batch.position)
        sampled = ((batch.position + key // BLOCKS) % _SAMPLED == 0).reshape(-1) & (group > 0)
        block = block_of(key.reshape(-1))
        self._sampled = sampled.nonzero()[:, 0]
        self._cell = (block * len(GROUPS) + group.long() - 1)[self._sampled]
        self._ratios: dict[str, torch.Tensor] = {}
        self.parts["moments"].begin(ids, group, rows)
        self.parts["units"].begin(ids, group, block)
        self.parts["covariances"].begin(ids, group)
        place = (batch.offsets[:, None] + batch.position).reshape(-1)
        self.parts["sample"].begin(key.reshape(-1), place, group == _TEXT)

    def observe(self, point: Point, hidden: torch.Tensor, *, taken: bool) -> None:
        """Take ``hidden`` [B, S, D]."""
        hidden = hidden.reshape(-1, hidden.shape[-1])
        for name in ("moments", "units", "covariances", "sample"):
            self.parts[name].add(point.name, hidden)
        if len(self._sampled):
            self._ratios[point.name] = ratios(hidden[self._sampled], self._kept[point.name])

    def commit(self) -> None:
        """The forward is complete."""
        if self._ratios:
            values = torch.stack([self._ratios[point] for point in self.points], 1).cpu()
            cell, sums = self._cell.cpu(), self.parts["ratios"]
            sums.add_cells("values", cell, len(GROUPS), values)
            sums.add_cells("tokens", cell, len(GROUPS), torch.ones(len(cell)))
        super().commit()

    def _sampled_ratios(self, point: str, groups: Sequence[str]) -> Ratios:
        """The ratios of the sampled tokens of some groups."""
        sums, index = self.parts["ratios"], [GROUPS.index(group) for group in groups]
        if "tokens" not in sums:
            nothing = np.zeros((BLOCKS, 1))
            return Ratios(0, ratio(np.zeros((BLOCKS, len(RATIOS))), nothing))
        tokens = sums["tokens"][:, index].sum(1)
        values = sums["values"][:, index, self.points.index(point)].sum(1)
        return Ratios(int(tokens.sum()), ratio(values, tokens[:, None]))

    def _sampled_words(self, point: str) -> Sampled | None:
        sample = self.parts["sample"].sample(point)
        return None if sample is None else Sampled.of(sample)

    def result(self) -> Geometry:
        """The geometry.

        Raises:
            EmptyCorpusError: There was no token in all of the text.
        """
        spaces = {}
        for point in self.points:
            for name, selection in SELECTIONS.items():
                groups = selection.groups
                moments = self.parts["moments"].moments(point, groups).compute()
                if not moments.n:
                    continue
                units = self.parts["units"]
                spaces[point, name] = Space(
                    moments,
                    self._sampled_ratios(point, groups),
                    units.cosines(point, groups, left_out=False),
                    units.cosines(point, groups, left_out=True),
                    self.parts["covariances"].scatter(point, groups),
                    tuple(self.recorded["left_out"].get(point, ())),
                    self._sampled_words(point) if name == LEADING else None,
                )
        if not spaces:
            raise self.no_token()
        return Geometry(self.layers, spaces, self.recorded["given"])


def geometry(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    texts: str | Path | Sequence[str] | Corpus,
    *,
    points: Sequence[str] | None = None,
    covariance: Sequence[str] | None = None,
    top: int = 3,
    leave_out: Sequence[int] | None = None,
    exclude: Sequence[str] = (),
    max_length: int | None = None,
    token_budget: int = 4096,
    autocast: Literal["bfloat16", "float16"] | None = None,
) -> Geometry:
    """Measure the geometry of hidden states in one pass: docs/geometry.md has the formulas.

    Args:
        model: A Hugging Face model in eval mode.
        tokenizer: Its tokenizer.
        texts: Documents, or where they are: a path, glob or dataset id, or an open corpus
            (`outdim.open_corpus`, which takes several files too).
        points: Names of points; None observes the embeddings and the output of every block.
        covariance: Points at which the covariance is taken, 24 D^2 bytes each and up to 3,069
            rows that wait; None takes the middle and the last of the points, up to D = 4,096.
        top: How many dimensions are left out of the read-out: those that add most to the expected
            cosine among the first 2,048 tokens, at each point its own.
        leave_out: Dimensions that are left out at every point instead.
        exclude: Tokens left out of the statistics: ``"unk"``, or as the vocabulary writes them.
        max_length: Tokens per sequence, special tokens included; longer documents are split. None
            takes the model's own limit, at most 512.
        token_budget: Tokens per batch, padding included.
        autocast: Run the forward under `torch.autocast` with this type.

    Returns:
        Geometry by point and selection of tokens.

    Raises:
        ArgumentError: An argument is out of range, a model in training mode.
        DataError: The tokenizer does not belong to the model, or the corpus is empty.

    Example:
        >>> found = geometry(model, tokenizer, "wiki.txt")  # doctest: +SKIP
        >>> found.spaces["block.4", "text"].cosines.value  # doctest: +SKIP
        0.26
    """
    options = GeometryOptions(
        points=None if points is None else list(points),
        covariance=None if covariance is None else list(covariance),
        top=top,
        leave_out=None if leave_out is None else list(leave_out),
    )
    step = one_step(
        MeasureGeometry,
        options,
        model,
        tokenizer,
        texts,
        exclude=exclude,
        max_length=max_length,
        token_budget=token_budget,
        autocast=autocast,
    )
    return step.result().beside(step.inputs)


def ratios(hidden: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """The `RATIOS` of rows [N, D], float64 [N, 4]: largest and top three over the lower median.

    Args:
        hidden: The rows.
        kept: int64, the dimensions that are not left out.
    """
    found = []
    hidden = hidden if hidden.dtype == torch.float64 else hidden.float()
    for part in (hidden, hidden.index_select(1, kept)):
        sizes = _sort(part.abs())
        middle = (sizes.shape[1] - 1) // 2
        median, top = sizes[:, middle : middle + 1].double(), sizes[:, -3:].double()
        found += [top[:, -1:] / median, top.mean(-1, keepdim=True) / median]
    return torch.cat(found, -1)


def _sort(rows: torch.Tensor) -> torch.Tensor:
    """Sort each of the rows [N, D], in place where they are on the CPU; NaN comes last."""
    if not rows.is_cpu:
        return rows.sort(-1).values
    # NumPy sorts 16 floats at a time: 30 times as fast as torch's sort, ten times its median.
    rows.numpy().sort(-1)
    return rows


def strongest(recorded: Json, inputs: Inputs) -> dict[str, list[int]]:
    """Dimensions by what they add to the expected cosine among the first words of the text."""
    probe = read_first(MeasureGeometry({**recorded, "left_out": {}, "covariance": []}, inputs))
    found: dict[str, list[int]] = {}
    for point in probe.points:
        units = probe.parts["units"]
        cosines = units.cosines(point, ["text"], left_out=False)
        if cosines is None or not np.isfinite(cosines.value):
            found[point] = []
        else:
            found[point] = (-cosines.contribution).argsort(kind="stable").tolist()
    return found
