"""Correlation of hidden states with token frequency, in one pass (Puccetti et al. 2022)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from outdim.analysis.estimate import Estimate
from outdim.analysis.inputs import ForwardOptions, Inputs
from outdim.analysis.step import Accumulator, Json, Observer, Result
from outdim.analysis.table import PEARSON, PEARSON_ABS, SELECTIONS, Statistic, TidyRows
from outdim.errors import ArgumentError, DataError, EmptyCorpusError
from outdim.stats import (
    Covariates,
    MomentsResult,
    PointMoments,
    PointRanks,
    RankResult,
    TokenSums,
)
from outdim.tokens import GROUPS, TokenFrequencies

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from outdim.corpus import Corpus

Of = Literal["h", "abs"]

PEARSON_OF: tuple[tuple[Statistic, Of], ...] = ((PEARSON, "h"), (PEARSON_ABS, "abs"))
_SPEARMAN: tuple[tuple[str, Of], ...] = (
    ("spearman", "h"),
    ("spearman_abs", "abs"),
)
_STATISTICS = (
    "mean",
    "variance",
    "std",
    "kurtosis",
    "min",
    "max",
    "absmax",
    "mean_abs",
    "fraction_over",
    "nonfinite",
)
_QUANTILES = {"median": 0.5, "q05": 0.05, "q95": 0.95}
_RANK_SELECTION = SELECTIONS["text+first"]  # ranks of frequencies are those among all words of text
_RANDOM_DIMS = (
    10  # beside the outliers, so that a rank correlation has something to be read against
)
_COUNTS = "counts.parquet"


@dataclass(frozen=True, kw_only=True)
class CorrelateOptions:
    """Correlate hidden states with token frequency, in one pass (Puccetti et al. 2022).

    Args:
        counts: counts.parquet of a run of outdim count, or the run; None takes the text's own.
        points: Where the model is observed, by name; none takes the embeddings and every block.
        accum: exact (float64) or fast.
        rank: Dimensions of which exact rank correlations, medians and quantiles are taken, at most
            1 MiB of memory a point and dimension; none takes the outliers by parameters and ten
            random ones. States of 32 bits are rounded to bfloat16 for it.
        per_token: Dimensions whose sums per (token id, point) are kept, for outdim recorrelate.
    """

    counts: Path | None = None
    points: list[str] | None = None
    accum: Literal["exact", "fast"] = "exact"
    rank: list[int] | None = None
    per_token: list[int] | None = None


@dataclass(frozen=True)
class Correlation(Result):
    """Moments and correlations of every observed point, by selection of tokens.

    Attributes:
        points: Names of the points, in the order of the layers.
        layers: Layer of each point: 0 for the embeddings, i + 1 for block i.
        covariates: Names of what the states are correlated with.
        moments: Moments by point and group of tokens.
        ranks: Rank histograms of chosen dimensions by point; None where there are none.
        token_sums: Sums of chosen dimensions by token id; None where none were kept.
        read: What was read and left out.
    """

    points: tuple[str, ...]
    layers: tuple[int, ...]
    moments: PointMoments
    ranks: PointRanks | None = None
    token_sums: TokenSums | None = None
    read: Mapping[str, Any] | None = None

    @cached_property
    def results(self) -> dict[tuple[str, str], MomentsResult]:
        """Results per (point, selection)."""
        return {
            (point, name): self.moments.moments(point, selection.groups).compute()
            for point in self.points
            for name, selection in SELECTIONS.items()
        }

    @cached_property
    def rank_results(self) -> dict[str, RankResult]:
        """Rank statistics of the chosen dimensions, by point."""
        if self.ranks is None:
            return {}
        return {point: self.ranks.histogram(point).compute() for point in self.points}

    def pearson(
        self,
        point: str,
        covariate: str = "count",
        *,
        of: Of = "abs",
        selection: str = "text",
    ) -> NDArray[np.float64]:
        """Pearson r of h or |h| with a covariate, float64 [D]; NaN where it is not defined.

        Raises:
            ArgumentError: No such point, covariate or selection.
        """
        if (point, selection) not in self.results:
            raise ArgumentError(
                f"point, selection: expected one of {', '.join(self.points)} and one of "
                f"{', '.join(SELECTIONS)}, got {point!r}, {selection!r}."
            )
        return np.asarray(self.results[point, selection].pearson(covariate, of=of))

    def estimate(
        self, point: str, covariate: str, *, of: Of = "abs", selection: str = "text"
    ) -> Estimate:
        """`pearson` with what it is worth, as far as that is known."""
        return Estimate(self.pearson(point, covariate, of=of, selection=selection))

    def top(self, point: str, covariate: str = "count", *, n: int = 5) -> list[tuple[int, float]]:
        """The ``n`` dimensions with the largest |r| of |h| over ordinary tokens, as (dim, r)."""
        r = self.pearson(point, covariate)
        order = np.argsort(-np.abs(r), kind="stable")  # NaN sorts last
        return [(int(dim), float(r[dim])) for dim in order[:n] if np.isfinite(r[dim])]

    def tables(self) -> dict[str, pa.Table | Json]:
        """Tidy rows for every point, dimension and selection; sums by token if they were kept."""
        rows = TidyRows()
        layer_of = dict(zip(self.points, self.layers, strict=True))
        for (point, selection), result in self.results.items():
            at: Json = {
                "point": point,
                "layer": layer_of[point],
                "selection": selection,
                "n": result.n,
            }
            for statistic in _STATISTICS:
                name = f"{statistic}_{result.tau:g}" if statistic == "fraction_over" else statistic
                values = np.asarray(getattr(result, statistic), dtype=np.float64)
                reason = np.where(np.isnan(values), result.reason(), "")
                rows.add(name, values, reason=reason, **at)
            for covariate in result.names:
                for kind, of in PEARSON_OF:
                    r = self.estimate(point, covariate, of=of, selection=selection)
                    at |= {"covariate": covariate, "reason": result.reason(covariate, of)}
                    rows.add(kind.name, r.value, **at, **r.worth())
        for point, ranks in self.rank_results.items():
            self._add_ranks(rows, ranks, point=point, layer=layer_of[point])
        found: dict[str, pa.Table | Json] = {"stats": rows.table()}
        if self.token_sums is not None:
            found["token_sums"] = self.token_sums.table()
        return found

    def _add_ranks(self, rows: TidyRows, ranks: RankResult, *, point: str, layer: int) -> None:
        assert self.ranks is not None
        # Where no word stands first in its sequence the two selections are the same.
        firsts = self.results[point, "text"].n != ranks.n
        for selection in (_RANK_SELECTION.name, *(() if firsts else ("text",))):
            at: Json = {
                "point": point,
                "layer": layer,
                "selection": selection,
                "n": ranks.n,
                "dims": self.ranks.dims,
            }
            for statistic, of in _SPEARMAN:
                rows.add(
                    statistic,
                    ranks.spearman(of),
                    covariate="count",
                    reason=np.array(ranks.reason(of)),
                    **at,
                )
            for statistic, q in _QUANTILES.items():
                values = ranks.quantile(q).numpy()
                reason = np.where(np.isnan(values), "nonfinite values", "")
                rows.add(statistic, values, reason=reason, **at)

    def account(self) -> Json:
        """What was read."""
        first = self.points[0]
        used, everything = (self.results[first, name].n for name in ("text+first", "all"))
        read = dict(self.read or {})
        return {
            "tokens": {
                "read": everything,
                "special": everything - used,
                "used": used,
                "padded": read.get("padded", 0),
                "excluded": read.get("excluded", {}),
            }
        }

    def headline(self) -> list[str]:
        """The dimension that follows token frequency most closely, and on how many tokens."""
        from outdim.analysis.correlation_words import headline

        return headline(self)

    def cautions(self) -> list[str]:
        """Rows left out, values that are not finite, r that is not defined, few tokens."""
        from outdim.analysis.correlation_words import cautions

        return cautions(self)


class Correlate(Observer):
    """Moments of every point against token frequency, and ranks of chosen dimensions."""

    name = "correlate"
    Options = CorrelateOptions
    needs = ("count",)
    wants = ("detect",)

    @classmethod
    def resolve(cls, options: CorrelateOptions, inputs: Inputs) -> Json:
        """Dimensions are chosen here, once."""
        recorded = super().resolve(options, inputs)
        del recorded["counts"]  # a copy is attached
        dims = inputs.architecture.hidden_size
        per_token = _dimensions("per-token", options.per_token or (), dims)
        rank = default_rank(inputs) if options.rank is None else options.rank
        if options.counts is not None:
            check_frequencies(given_frequencies(options.counts, inputs.tokenizer), inputs.tokenizer)
        return {
            **recorded,
            "given_counts": options.counts is not None,
            "per_token": per_token,
            "rank": _dimensions("rank", rank, dims),
        }

    @classmethod
    def attach(cls, options: CorrelateOptions, inputs: Inputs) -> dict[str, bytes]:
        """The counts that were given."""
        if options.counts is None:
            return {}
        return {_COUNTS: counts_path(options.counts).read_bytes()}

    @classmethod
    def requires(cls, recorded: Mapping[str, Any]) -> tuple[str, ...]:
        """The text's own counts give the ranks, and the frequencies where no others were given."""
        return () if recorded["given_counts"] and not recorded["rank"] else cls.needs

    @cached_property
    def _covariates(self) -> Covariates:
        frequencies = self.inputs.frequencies
        covariates: Covariates = self.inputs.keep(
            "covariates", lambda: frequency_covariates(frequencies)
        )
        return covariates

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
        groups = [1 + GROUPS.index(group) for group in _RANK_SELECTION.groups]
        return PointRanks(self.points, self.recorded["rank"], counts, groups)

    @cached_property
    def token_sums(self) -> TokenSums | None:
        """The sums by token, where dimensions were chosen."""
        dims = self.recorded["per_token"]
        return TokenSums(self.points, dims) if dims else None

    def accumulators(self) -> Mapping[str, Accumulator]:
        """Moments, and what was asked for besides."""
        found = {"moments": self.moments, "ranks": self.ranks, "tokens": self.token_sums}
        return {name: part for name, part in found.items() if part is not None}

    def result(self) -> Correlation:
        """The correlations.

        Raises:
            EmptyCorpusError: There was no token in all of the text.
        """
        layers = tuple(self.layers.values())
        found = Correlation(
            self.points, layers, self.moments, self.ranks, self.token_sums, self.account
        )
        if not found.results[self.points[0], "all"].n:
            raise EmptyCorpusError(
                f"source: {' '.join(self.inputs.options['source'])}: the corpus has no token."
            )
        return found


def correlate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    source: str | Sequence[str] | Corpus,
    frequencies: TokenFrequencies | None = None,
    *,
    points: Sequence[str] | None = None,
    rank: Sequence[int] = (),
    per_token: Sequence[int] = (),
    exclude: Sequence[str] = (),
    max_length: int | None = None,
    token_budget: int = 4096,
    autocast: Literal["bfloat16", "float16"] | None = None,
    fused: bool = True,
    accum: Literal["exact", "fast"] = "exact",
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
        source: What `outdim.open_corpus` takes, or an open corpus.
        frequencies: Token counts of the training corpus, or of any corpus that stands for it. None
            counts ``source`` itself.
        points: Names of points; None observes the embeddings and the output of every block.
        rank: Dimensions of which exact rank correlations, medians and quantiles are taken as well.
        per_token: Dimensions whose sums per token id are kept.
        exclude: Tokens left out of the statistics: ``"unk"``, or as the vocabulary writes them.
        max_length: Tokens per sequence, special tokens included; longer documents are split. None
            takes the model's own limit, at most 512.
        token_budget: Tokens per batch, padding included.
        autocast: Run the forward under `torch.autocast` with this type.
        fused: Take moments inside our LayerNorm, which may differ from torch's in the last bits;
            False leaves every bit of the model's computation as it was.
        accum: ``"exact"`` (float64) or ``"fast"``, see `outdim.ops.moments`.

    Returns:
        The correlations.

    Raises:
        ArgumentError: The model is in training mode, or an argument is out of range.
        DataError: The tokenizer does not belong to the model, the frequencies not to the tokenizer,
            or the corpus is empty.
    """
    from outdim.corpus import Corpus, open_corpus
    from outdim.counting import count_tokens

    corpus = source if isinstance(source, Corpus) else open_corpus(source)
    inputs = Inputs.of({"source": [corpus.source]}, model=model, tokenizer=tokenizer, corpus=corpus)
    forward = ForwardOptions(
        max_length=max_length,
        token_budget=token_budget,
        autocast=autocast,
        fused=fused,
        exclude=list(exclude),
    )
    inputs.resolve([forward])
    if frequencies is None or rank:
        inputs.text_frequencies = count_tokens(corpus, tokenizer)
    inputs.frequencies = inputs.text_frequencies if frequencies is None else frequencies
    check_frequencies(inputs.frequencies, tokenizer)
    options = CorrelateOptions(
        points=None if points is None else list(points),
        accum=accum,
        rank=list(rank),
        per_token=list(per_token),
    )
    step = Correlate(Correlate.resolve(options, inputs), inputs)
    for unit in Correlate.work(step.recorded, inputs):
        step.update(unit, lambda tokens: None)
    return step.result()


def default_rank(inputs: Inputs) -> list[int]:
    """The outliers by parameters, and ten random dimensions to read them against."""
    from outdim.analysis.detect import detect

    try:
        outliers = detect(inputs.model, permutations=0).dims
    except DataError:  # norms that say nothing
        outliers = ()
    size = inputs.architecture.hidden_size
    random = np.random.default_rng(0).permutation(size)[:_RANDOM_DIMS].tolist()
    return [*outliers, *random]


def ordinary_counts(frequencies: TokenFrequencies, exclude: Sequence[int]) -> torch.Tensor:
    """How often each id occurs among the words of the text: [V] int64."""
    counts = np.where(frequencies.special, 0, frequencies.counts)
    counts[list(exclude)] = 0
    return torch.from_numpy(counts)


def counts_path(given: Path) -> Path:
    """``counts.parquet`` of a run, or the file itself.

    Raises:
        DataError: There is none.
    """
    path = given / _COUNTS if given.is_dir() else given
    if not path.is_file():
        raise DataError(f"counts: there is no {path}; write one with `outdim count`.")
    return path


def given_frequencies(given: Path, tokenizer: PreTrainedTokenizerFast) -> TokenFrequencies:
    """The counts of a run or file."""
    return TokenFrequencies.from_parquet(counts_path(given))


def _dimensions(name: str, dims: Sequence[int], size: int) -> list[int]:
    found = sorted(set(dims))
    if found and not 0 <= found[0] <= found[-1] < size:
        raise ArgumentError(f"{name}: expected dimensions 0 to {size - 1}, got {found}.")
    return found


def check_frequencies(frequencies: TokenFrequencies, tokenizer: PreTrainedTokenizerFast) -> None:
    """Check that every id of the tokenizer has a count, and stands for the same token there.

    Raises:
        DataError: The frequencies are of another vocabulary.
    """
    coverage = frequencies.coverage(tokenizer)
    if coverage.differing:
        first = coverage.differing[0]
        wrong = (
            f"{len(coverage.differing)} of its {coverage.vocabulary} ids stand for other tokens, "
            f"the first is {first} ({frequencies.tokens[first]!r} in the counts)"
        )
    elif coverage.lost:
        wrong = f"{coverage.lost} tokens were counted at ids that it does not have"
    elif len(frequencies) < coverage.vocabulary:
        wrong = f"it has {coverage.vocabulary} ids, the counts have {len(frequencies)}"
    else:
        return
    raise DataError(
        f"counts: they are of another vocabulary than the tokenizer's: {wrong}. Count with the "
        "tokenizer of the model."
    )


def frequency_covariates(frequencies: TokenFrequencies) -> Covariates:
    """The standard covariates: count, log1p_count, mid_rank by token id; position per row."""
    table = np.stack(
        [np.asarray(frequencies.counts, np.float64), frequencies.log1p(), frequencies.mid_rank()]
    )
    return Covariates(torch.from_numpy(table), ("count", "log1p_count", "mid_rank"), ("position",))
