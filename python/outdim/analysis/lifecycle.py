"""Life cycle of outlier dimensions: what writes them, where they stand, what they are to a norm.

Sun, LeCun et al. 2026 (arXiv 2603.05498): rise, plateau and fall of massive activations;
Qiu et al. 2026 (arXiv 2601.22966): outliers act through the sum of squares that norms divide by.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Literal

from torch import Tensor

from outdim.analysis.dimensions import named_dims, outliers_by_parameters, random_dims
from outdim.analysis.hidden_maps import hidden_maps
from outdim.analysis.in_memory import one_step
from outdim.analysis.inputs import Inputs
from outdim.analysis.life_sums import LifeSums
from outdim.analysis.places import Places
from outdim.analysis.probe import read_first
from outdim.analysis.results.lives import Lives
from outdim.analysis.sentences import check_sentences
from outdim.analysis.step import Json, Observer, Part
from outdim.errors import ArgumentError, DataError
from outdim.tables import parquet_bytes, read_parquet

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from outdim.corpus import Corpus
    from outdim.models import Architecture, Point
    from outdim.tokens import Batch

_STRONGEST, _MOST_DIMS, _RANDOM = 6, 10, 10
_MAPS = "hidden_maps.parquet"


@dataclass(frozen=True, kw_only=True)
class LifecycleOptions:
    """Follow outlier dimensions through the layers: what writes them, at which tokens, and when.

    Args:
        dims: Dimensions to follow; none takes the six whose largest values stand out most among the
            first 2,048 tokens, and the outliers by parameters, ten at most.
        sentences: A few short sentences whose hidden states are drawn, tokens by dimensions, with
            ten random dimensions beside: four at most, cut at 32 tokens.
    """

    dims: list[int] | None = None
    sentences: list[str] | None = None


class FollowLives(Observer):
    """Largest values of every dimension by layer, and all of chosen ones at states and branches."""

    name = "lifecycle"
    Options = LifecycleOptions
    wants = ("detect", "embeddings")

    @classmethod
    def resolve(cls, options: LifecycleOptions, inputs: Inputs) -> Json:
        """Dimensions are chosen here, once."""
        found = inputs.architecture
        found.select(None)
        points = [point for point in found.points.values() if _followed(point)]
        recorded: Json = {
            "sentences": options.sentences,
            "points": [point.name for point in points],
            "layers": [point.layer for point in points],
            "rms": {point.name: _rms(point, found) for point in points},
        }
        check_sentences(options.sentences, inputs.tokenizer)
        return {**recorded, "dims": _dimensions(options, inputs, recorded)}

    @classmethod
    def attach(cls, options: LifecycleOptions, inputs: Inputs) -> dict[str, bytes]:
        """The hidden states of the sentences: taken once, of no shard."""
        if not options.sentences:
            return {}
        dims = cls.resolve(options, inputs)["dims"]
        maps = hidden_maps(
            inputs.model,
            inputs.tokenizer,
            options.sentences,
            dims,
            random_dims(inputs.architecture.hidden_size, _RANDOM, but=dims),
            found=inputs.architecture,
        )
        return {_MAPS: parquet_bytes(maps)}

    @cached_property
    def places(self) -> Places:
        """Kinds of tokens."""
        return Places.kept(self.inputs)

    @cached_property
    def sums(self) -> LifeSums:
        """What is kept."""
        return LifeSums(self.layers, self.recorded["dims"], self.places.kinds, self.recorded["rms"])

    def accumulators(self) -> Mapping[str, Part]:
        """Sums by block of documents, and the tokens where dimensions are largest."""
        return {"sums": self.sums.sums, "extremes": self.sums.extremes}

    def begin(self, batch: Batch) -> None:
        """The next forward reads ``batch``."""
        self.sums.begin(batch, self.places.kind_of(batch.input_ids, batch.group))

    def observe(self, point: Point, hidden: Tensor, *, taken: bool) -> None:
        """Keep what is needed of ``hidden`` [B, S, D] until the forward is complete."""
        self.sums.observe(point.name, hidden)

    def commit(self) -> None:
        """The forward is complete."""
        self.sums.finish()
        super().commit()

    def discard(self) -> None:
        """The forward failed."""
        self.sums.drop()
        super().discard()

    def check_tokens(self) -> None:
        """Raise EmptyCorpusError where no token was read."""
        if "sequences" not in self.sums.sums or not self.sums.sums["sequences"].any():
            raise self.no_token()

    def result(self) -> Lives:
        """The lives.

        Raises:
            EmptyCorpusError: There was no token in all of the text.
        """
        self.check_tokens()
        # What goes on being filled is not what was found.
        whole = FollowLives(self.recorded, self.inputs).merge(self.state_dict())
        path = self.inputs.attached(_MAPS)
        return Lives(
            whole.sums,
            self.inputs.architecture.placement,
            self.places.labels,
            partial(self.inputs.tokenizer.batch_decode, clean_up_tokenization_spaces=False),
            None if path is None else read_parquet(path),
        )


def lifecycle(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    texts: str | Path | Sequence[str] | Corpus,
    *,
    dims: Sequence[int] | None = None,
    exclude: Sequence[str] = (),
    max_length: int | None = None,
    token_budget: int = 4096,
    autocast: Literal["bfloat16", "float16"] | None = None,
) -> Lives:
    """Follow dimensions through the layers: birth, the branch that writes them, plateau and fall.

    Definitions, and what real models show: docs/lifecycle.md.

    Args:
        model: A Hugging Face model in eval mode.
        tokenizer: Its tokenizer.
        texts: Documents, or where they are: a path, glob or dataset id, or an open corpus
            (`outdim.open_corpus`, which takes several files too).
        dims: Dimensions to follow; None takes the six whose largest values stand out most among the
            first 2,048 tokens, and the outliers by parameters, ten at most.
        exclude: Tokens left out of the statistics: ``"unk"``, or as the vocabulary writes them.
        max_length: Tokens per sequence, special tokens included; longer documents are split. None
            takes the model's own limit, at most 512.
        token_budget: Tokens per batch, padding included.
        autocast: Run the forward under `torch.autocast` with this type.

    Returns:
        The lives of these dimensions, and the largest values of all by layer.

    Raises:
        ArgumentError: An argument is out of range, a model in training mode.
        DataError: The tokenizer does not belong to the model, or the corpus is empty.

    Example:
        >>> found = lifecycle(model, tokenizer, "wiki.txt")  # doctest: +SKIP
        >>> [(rise.layer, rise.branch) for rise in found.lives[507].rises]  # doctest: +SKIP
        [(2, 'mlp'), (12, 'mlp')]
    """
    options = LifecycleOptions(dims=None if dims is None else list(dims))
    step = one_step(
        FollowLives,
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


def _followed(point: Point) -> bool:
    """All points but the outputs of norms that are no hidden state."""
    return not point.name.endswith(".norm")


def _rms(point: Point, found: Architecture) -> bool | None:
    """Whether the norm that takes a point is an RMSNorm; None where none takes it."""
    path = point.module if point.name.endswith(".sum") else point.norm
    takes = point.name.endswith(".sum") or point.norm_side == "input"
    return found.modules[path].rms if path is not None and takes else None


def _dimensions(options: LifecycleOptions, inputs: Inputs, recorded: Json) -> list[int]:
    """The dimensions that are followed."""
    size = inputs.architecture.hidden_size
    if options.dims is not None:
        if not options.dims:
            raise ArgumentError(f"dims: expected dimensions 0 to {size - 1}, got none.")
        return named_dims("dims", options.dims, size)
    return inputs.keep("lifecycle dims", lambda: _outliers(inputs, recorded))


def _outliers(inputs: Inputs, recorded: Json) -> list[int]:
    """Those that stand out among the first tokens, and those by parameters."""
    probe = read_first(FollowLives({**inputs.options, **recorded, "dims": []}, inputs))
    probe.check_tokens()
    strongest = probe.sums.standing_out()[:_STRONGEST]
    by_parameters = outliers_by_parameters(inputs) or []
    if not strongest and not by_parameters:
        raise DataError(
            "dims: every sequence of the first tokens gives NaN, so that nothing is known of "
            "dimensions; name those to follow, or take another dtype."
        )
    return sorted(list(dict.fromkeys([*strongest, *by_parameters]))[:_MOST_DIMS])
