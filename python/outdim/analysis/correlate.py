"""Correlation of hidden states with token frequency, in one pass (Puccetti et al. 2022)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from outdim.analysis.dimensions import default_dims, named_dims
from outdim.analysis.given_counts import attached_counts, counts_are_given
from outdim.analysis.in_memory import one_step
from outdim.analysis.inputs import Inputs
from outdim.analysis.results.correlation import RANK_SELECTION, Correlation
from outdim.analysis.results.worth import Worth
from outdim.analysis.step import Accumulator, Json, Observer
from outdim.errors import ArgumentError
from outdim.ops.moments import Accumulate, resolve_accum
from outdim.stats import (
    Covariates,
    PointMoments,
    PointRanks,
    TokenSums,
    TypeBuckets,
    TypeTable,
    TypeUnits,
    fitting_buckets,
)
from outdim.tokens import GROUPS, TokenFrequencies

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from outdim.corpus import Corpus


@dataclass(frozen=True, kw_only=True)
class CorrelateOptions:
    """Correlate hidden states with token frequency, in one pass (Puccetti et al. 2022).

    Args:
        counts: A run that counted, its counts.parquet, or published counts as JSON (a list of
            [string, count]); None takes the text's own.
        points: Where the model is observed, by name; none takes the embeddings and every block.
        accum: exact (float64), fast (on a GPU: float32 over a few rows), or auto, which is fast on
            a GPU whose float64 is slow.
        rank: Dimensions of which exact rank correlations, medians and quantiles are taken, at most
            1 MiB of memory a point and dimension; none takes the first 16 outliers by parameters,
            or the three dimensions nearest to being one, and ten random ones: at most 26 MiB a
            point. States of 32 bits are rounded to bfloat16 for it.
        per_token: Dimensions whose sums per (token id, point) are kept, for outdim recorrelate.
        types: Buckets of token types whose sums are kept for all dimensions: from them come the
            intervals and what chance gives. Memory: 24 bytes a bucket, point and dimension, twice
            over while a batch is under way. None takes 1,024, fewer for wide models; 0 takes none.
    """

    counts: Path | None = None
    points: list[str] | None = None
    accum: Accumulate = "auto"
    rank: list[int] | None = None
    per_token: list[int] | None = None
    types: int | None = None


class Correlate(Observer):
    """Moments of every point against token frequency, and ranks of chosen dimensions."""

    name = "correlate"
    Options = CorrelateOptions
    needs = ("count",)
    wants = ("detect",)
    stays = ("rank",)

    @classmethod
    def resolve(cls, options: CorrelateOptions, inputs: Inputs) -> Json:
        """Dimensions are chosen here, once."""
        recorded = super().resolve(options, inputs)
        del recorded["counts"]  # a copy is attached
        dims = inputs.architecture.hidden_size
        rank = default_dims(inputs) if options.rank is None else options.rank
        return {
            **recorded,
            "accum": resolve_accum(options.accum, inputs.device),  # the same for every worker
            "given_counts": counts_are_given(options.counts, inputs),
            "per_token": named_dims("per-token", options.per_token or (), dims),
            "rank": named_dims("rank", rank, dims),
            "types": _buckets(options.types, len(recorded["points"]), dims),
        }

    @classmethod
    def attach(cls, options: CorrelateOptions, inputs: Inputs) -> dict[str, bytes]:
        """The counts that were given."""
        return attached_counts(options.counts, inputs)

    @classmethod
    def requires(cls, recorded: Mapping[str, Any]) -> tuple[str, ...]:
        """The text's own counts give the ranks, and the frequencies where no others were given."""
        return () if recorded["given_counts"] and not recorded["rank"] else cls.needs

    @cached_property
    def _covariates(self) -> Covariates:
        frequencies = self.inputs.frequencies
        return self.inputs.keep("covariates", lambda: frequency_covariates(frequencies))

    @property
    def fused(self) -> PointMoments:
        """The moments."""
        return self.moments

    @cached_property
    def moments(self) -> PointMoments:
        """Moments of every point by group of tokens."""
        return PointMoments(
            self.points,
            GROUPS,
            self._covariates,
            accum=self.recorded["accum"],
            device=self.inputs.device,
        )

    @cached_property
    def ranks(self) -> PointRanks | None:
        """The rank histograms, where dimensions were chosen."""
        if not self.recorded["rank"]:
            return None
        counts = ordinary_counts(self.inputs.text_frequencies, self.inputs.options["exclude"])
        groups = [1 + GROUPS.index(group) for group in RANK_SELECTION.groups]
        frequencies = torch.tensor(self.inputs.frequencies.counts)
        return PointRanks(self.points, self.recorded["rank"], counts, groups, frequencies)

    @cached_property
    def token_sums(self) -> TokenSums | None:
        """The sums by token, where dimensions were chosen."""
        dims = self.recorded["per_token"]
        return TokenSums(self.points, dims) if dims else None

    @cached_property
    def types(self) -> TypeTable | None:
        """The table of types, where it was asked for."""
        if not self.recorded["types"]:
            return None
        counts = self.inputs.frequencies.counts
        size = self.recorded["types"]
        buckets = self.inputs.keep("buckets", lambda: TypeBuckets.of_counts(counts, size))
        return TypeTable(self.points, buckets, device=self.inputs.device)

    def accumulators(self) -> Mapping[str, Accumulator]:
        """Moments, and what was asked for besides."""
        found = {
            "moments": self.moments,
            "ranks": self.ranks,
            "tokens": self.token_sums,
            "types": self.types,
        }
        return {name: part for name, part in found.items() if part is not None}

    def _worth(self) -> Worth | None:
        if self.types is None:
            return None
        units = TypeUnits.of_table(self.types.state_dict(), self.types.buckets, self._covariates)
        unknown = self.inputs.tokenizer.unk_token_id
        return Worth(units, self.inputs.frequencies.tokens, unknown)

    def result(self) -> Correlation:
        """The correlations.

        Raises:
            EmptyCorpusError: There was no token in all of the text.
        """
        layers = tuple(self.layers.values())
        found = Correlation(
            points=self.points,
            layers=layers,
            moments=self.moments,
            ranks=self.ranks,
            token_sums=self.token_sums,
            worth=self._worth(),
            read=self.account,
        )
        if not found.results[self.points[0], "all"].n:
            raise self.no_token()
        return found


def correlate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    texts: str | Path | Sequence[str] | Corpus,
    frequencies: TokenFrequencies | None = None,
    *,
    points: Sequence[str] | None = None,
    rank: Sequence[int] = (),
    per_token: Sequence[int] = (),
    types: int | None = None,
    exclude: Sequence[str] = (),
    max_length: int | None = None,
    token_budget: int = 4096,
    autocast: Literal["bfloat16", "float16"] | None = None,
    fused: bool = True,
    accum: Accumulate = "auto",
) -> Correlation:
    """Correlate the hidden states of every layer with token frequency, in one streaming pass.

    For every point and dimension, Pearson's r of h and of |h| with the count of the encoded token,
    its log(1 + count), the mid-rank of its count, and its position; with and without special
    tokens; next to mean, variance, kurtosis and extremes (Puccetti et al. 2022, section 4; they
    report r of |h| with the raw count). Nothing is stored per token. For runs that must survive
    interruption or be spread over processes, use the command line, ``outdim correlate``.

    Args:
        model: A Hugging Face model in eval mode.
        tokenizer: Its tokenizer.
        texts: Documents, or where they are: a path, glob or dataset id, or an open corpus
            (`outdim.open_corpus`, which takes several files too).
        frequencies: Token counts of the training corpus, or of any corpus that stands for it. None
            counts the texts themselves.
        points: Names of points; None observes the embeddings and the output of every block.
        rank: Dimensions of which exact rank correlations, medians and quantiles are taken as well.
        per_token: Dimensions whose sums per token id are kept.
        types: Buckets of token types for intervals and nulls; None takes 1,024, 0 none.
        exclude: Tokens left out of the statistics: ``"unk"``, or as the vocabulary writes them.
        max_length: Tokens per sequence, special tokens included; longer documents are split. None
            takes the model's own limit, at most 512.
        token_budget: Tokens per batch, padding included.
        autocast: Run the forward under `torch.autocast` with this type.
        fused: Take moments inside our LayerNorm, which may differ from torch's in the last bits;
            False leaves every bit of the model's computation as it was.
        accum: ``"exact"`` (float64), ``"fast"`` or ``"auto"``, see `outdim.ops.moments`.

    Returns:
        The correlations.

    Raises:
        ArgumentError: The model is in training mode, or an argument is out of range.
        DataError: The tokenizer does not belong to the model, the frequencies not to the tokenizer,
            or the corpus is empty.
    """
    options = CorrelateOptions(
        points=None if points is None else list(points),
        accum=accum,
        rank=list(rank),
        per_token=list(per_token),
        types=types,
    )
    step = one_step(
        Correlate,
        options,
        model,
        tokenizer,
        texts,
        frequencies=frequencies,
        fused=fused,
        exclude=exclude,
        max_length=max_length,
        token_budget=token_budget,
        autocast=autocast,
    )
    return step.result().beside(step.inputs)


def ordinary_counts(frequencies: TokenFrequencies, exclude: Sequence[int]) -> torch.Tensor:
    """How often each id occurs among the words of the text: [V] int64."""
    counts = np.where(frequencies.special, 0, frequencies.counts)
    counts[list(exclude)] = 0
    return torch.from_numpy(counts)


def _buckets(asked: int | None, points: int, dims: int) -> int:
    """How many buckets of types there are."""
    if asked is not None and (asked < 0 or asked == 1):
        raise ArgumentError(f"types: expected 0, or 2 or more buckets, got {asked}.")
    return fitting_buckets(points, dims) if asked is None else asked


def frequency_covariates(frequencies: TokenFrequencies) -> Covariates:
    """The standard covariates: count, log1p_count, mid_rank by token id; position per row."""
    table = np.stack(
        [np.asarray(frequencies.counts, np.float64), frequencies.log1p(), frequencies.mid_rank()]
    )
    return Covariates(torch.from_numpy(table), ("count", "log1p_count", "mid_rank"), ("position",))
