"""Correlation of hidden states with token frequency, in one pass (Puccetti et al. 2022)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from outdim.analysis.forward import Forward, sequence_length
from outdim.analysis.statistics import GROUPS, PointStatistics
from outdim.errors import ArgumentError, DataError
from outdim.stats import Covariates, Moments, MomentsResult

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from outdim.corpus import Corpus
    from outdim.tokens import TokenFrequencies

Selection = Literal["text", "all"]
#: ``text`` leaves special tokens out, ``all`` counts them; padding is in neither.
SELECTIONS: tuple[Selection, ...] = ("text", "all")

_PEARSON: tuple[tuple[str, Literal["h", "abs"]], ...] = (("pearson", "h"), ("pearson_abs", "abs"))
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


@dataclass(frozen=True)
class Correlation:
    """Moments and correlations of every observed point, with and without special tokens.

    Attributes:
        points: Names of the points, in the order of the layers.
        layers: Layer of each point: 0 for the embeddings, i + 1 for block i.
        moments: `Moments` per (point, group), groups ``text`` and ``special``.
    """

    points: tuple[str, ...]
    layers: tuple[int, ...]
    moments: Mapping[tuple[str, str], Moments]

    @classmethod
    def of(cls, statistics: PointStatistics) -> Correlation:
        """What ``statistics`` has accumulated."""
        return cls(
            tuple(point.name for point in statistics.points),
            tuple(point.layer for point in statistics.points),
            statistics.moments,
        )

    @cached_property
    def results(self) -> dict[tuple[str, Selection], MomentsResult]:
        """Results per (point, selection)."""
        results: dict[tuple[str, Selection], MomentsResult] = {}
        for point in self.points:
            text, special = (self.moments[point, group] for group in GROUPS)
            results[point, "text"] = text.compute()
            both = Moments(text.covariates, accum=text.accum).merge(text).merge(special)
            results[point, "all"] = both.compute()
        return results

    def pearson(
        self,
        point: str,
        covariate: str = "count",
        *,
        of: Literal["h", "abs"] = "abs",
        selection: Selection = "text",
    ) -> NDArray[np.float64]:
        """Pearson r of h or |h| with a covariate, float64 [D]; NaN where it is not defined.

        Raises:
            ArgumentError: No such point, covariate or selection.
        """
        if (point, selection) not in self.results:
            raise ArgumentError(
                f"point, selection: expected one of {', '.join(self.points)} and 'text' or 'all', "
                f"got {point!r}, {selection!r}."
            )
        return np.asarray(self.results[point, selection].pearson(covariate, of=of))

    def top(self, point: str, covariate: str = "count", *, n: int = 5) -> list[tuple[int, float]]:
        """The ``n`` dimensions with the largest |r| of |h| over ordinary tokens, as (dim, r)."""
        r = self.pearson(point, covariate)
        order = np.argsort(-np.abs(r), kind="stable")  # NaN sorts last
        return [(int(dim), float(r[dim])) for dim in order[:n] if np.isfinite(r[dim])]

    def columns(self) -> dict[str, NDArray[Any]]:
        """Columns of ``stats.parquet``, tidy: one row a point, dimension, selection, statistic."""
        blocks = list(self._blocks())
        dims = [len(block[5]) for block in blocks]

        def repeat(position: int, dtype: Any) -> NDArray[Any]:
            return np.repeat(np.array([block[position] for block in blocks], dtype), dims)

        return {
            "point": repeat(0, object),
            "layer": repeat(1, np.int16),
            "dim": np.concatenate([np.arange(d, dtype=np.int32) for d in dims]),
            "selection": repeat(2, object),
            "statistic": repeat(3, object),
            "covariate": repeat(4, object),
            "value": np.concatenate([block[5] for block in blocks]),
            "n": repeat(6, np.int64),
            "reason": np.concatenate([block[7] for block in blocks]),
        }

    def _blocks(self) -> Iterator[tuple[str, int, str, str, str, NDArray[Any], int, NDArray[Any]]]:
        for (point, selection), result in self.results.items():
            layer = self.layers[self.points.index(point)]
            for statistic in _STATISTICS:
                name = f"{statistic}_{result.tau:g}" if statistic == "fraction_over" else statistic
                values = np.asarray(getattr(result, statistic), dtype=np.float64)
                reason = np.where(np.isnan(values), result.reason(), "")
                yield point, layer, selection, name, "", values, result.n, reason
            for covariate in self.moments[point, GROUPS[0]].covariates.all_names:
                for statistic, of in _PEARSON:
                    r = np.asarray(result.pearson(covariate, of=of), dtype=np.float64)
                    reason = result.reason(covariate, of)
                    yield point, layer, selection, statistic, covariate, r, result.n, reason


def correlate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    source: str | Sequence[str] | Corpus,
    frequencies: TokenFrequencies | None = None,
    *,
    points: Sequence[str] | None = None,
    max_length: int | None = None,
    token_budget: int = 4096,
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
        model: A Hugging Face model; evaluated as it is (call ``model.eval()`` before).
        tokenizer: Its tokenizer.
        source: What `outdim.open_corpus` takes, or an open corpus.
        frequencies: Token counts of the training corpus, or of any corpus that stands for it. None
            counts ``source`` itself.
        points: Names of points; None observes the embeddings and the output of every block.
        max_length: Tokens per sequence, special tokens included; longer documents are split. None
            takes the model's own limit, at most 512.
        token_budget: Tokens per batch, padding included.
        fused: Take the statistics inside our LayerNorm, which may differ from torch's in the last
            bits; False leaves every bit of the model's computation as it was.
        accum: ``"exact"`` (float64) or ``"fast"``, see `outdim.ops.moments`.

    Returns:
        The correlations.

    Raises:
        DataError: The tokenizer does not belong to the model, the frequencies not to the tokenizer,
            or the corpus is empty.
    """
    from outdim.corpus import Accounting, Corpus, open_corpus
    from outdim.counting import count_tokens
    from outdim.models import architecture, observe
    from outdim.tokens import batches, check_tokenizer, encode_pieces

    corpus = source if isinstance(source, Corpus) else open_corpus(source)
    arch = architecture(model)
    check_tokenizer(tokenizer, arch.vocab_size, model.config)
    if frequencies is None:
        frequencies = count_tokens(corpus, tokenizer)
    check_frequencies(frequencies, tokenizer)
    length = sequence_length(model, max_length)
    chosen = arch.select(points)
    statistics = PointStatistics(
        chosen, frequency_covariates(frequencies), accum=accum, device=model.device
    )
    account = Accounting()
    documents = (document for unit in corpus.units for document in corpus.read(unit, account))
    forward = Forward(model)
    with torch.inference_mode(), observe(model, chosen, statistics, fused=fused):
        pieces = encode_pieces(documents, tokenizer, length)
        for batch in batches(pieces, token_budget, pad_id=tokenizer.pad_token_id or 0):
            forward(batch, statistics)
    return Correlation.of(statistics)


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
