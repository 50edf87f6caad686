"""Sweep: every dimension of a model disabled in turn, in all layers at once or layer by layer.

Kovaleva et al. 2021, figure 1: two of 768 dimensions break BERT, the others do next to nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import torch

from outdim.analysis.evaluate import Evaluate, EvaluateMaskedOptions, EvaluateOptions
from outdim.analysis.evaluation import Evaluation
from outdim.analysis.heads import LanguageModel, MaskedLanguageModel
from outdim.analysis.input_options import (
    ForwardOptions,
    InputOptions,
    ModelOptions,
    TextOptions,
    TokenizerOptions,
)
from outdim.analysis.inputs import Inputs
from outdim.analysis.predicting import (
    MaskedTokens,
    Masking,
    NextTokens,
    Predicting,
    Task,
    corpus_of,
)
from outdim.analysis.scoring import Runner, scored
from outdim.analysis.screen import (
    Screened,
    ScreenLm,
    ScreenMaskedOptions,
    ScreenMlm,
    ScreenOptions,
)
from outdim.analysis.step import Json, Progress, add_accounts
from outdim.analysis.sweep_variants import ALL, EACH, Grid, Mode, chosen, grid
from outdim.analysis.swept import Sweep
from outdim.analysis.variants import Variant
from outdim.errors import ArgumentError, DataError
from outdim.models.ablation import At
from outdim.models.losses import Scores

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from outdim.corpus import Corpus

_BLOCK = 32  # forwards of all layers a shard, about
_OF_GRID = ("dims", "layers", "at", "mode", "controls", "seed")
_OWN = ("place", "first", "last")  # what a shard says beside the unit of text


@dataclass(frozen=True, kw_only=True)
class SweepOptions(EvaluateOptions):
    """Which dimensions are disabled in turn, where and how.

    Args:
        dims: All, ranges such as 0-99, single ones, or with commas those that go together.
        layers: All at once; each alone; window:N, so many in a row from every layer on; 4-6 or 4,6
            together; or 4. Several words make a place each; 0 stands for the embeddings.
        at: State, parameters, denominator or readers, see outdim.ablate.
        mode: Zero, or mean: of the text for the state, of the other parameters for those of a norm.
        controls: So many random dimensions beside them at every place. Of a sweep over most
            dimensions they are drawn from all.
        seed: Of all that is drawn: controls, masks, documents.
        variants_at_once: How many variants share a forward; more help where batches are small.
        block: So many forwards of all layers, about, make a shard with a unit of text.
        verify: Measure only so many that come first in a screening by gradients (all layers
            together, or each alone), and a random sample of the others: whether it found the worst.
        verify_random: How many others; none above the worst bounds what was missed at 3/n.
        counts: Frequencies to which the predicted tokens are related: a run that counted, its
            counts.parquet, or published counts as JSON; none takes the text's own.
        draws: How often the documents are drawn for the intervals.
    """

    dims: list[str] = field(default_factory=lambda: [ALL])
    layers: list[str] = field(default_factory=lambda: [ALL])
    at: At = "state"
    mode: Mode = "zero"
    controls: int = 10
    seed: int = 0
    variants_at_once: int = 1
    block: int = _BLOCK
    verify: int | None = None
    verify_random: int = 40


@dataclass(frozen=True, kw_only=True)
class SweepMaskedOptions(EvaluateMaskedOptions, SweepOptions):
    """Which dimensions are disabled in turn, where and how.

    Args:
        dims: All, ranges such as 0-99, single ones, or with commas those that go together.
        layers: All at once; each alone; window:N, so many in a row from every layer on; 4-6 or 4,6
            together; or 4. Several words make a place each; 0 stands for the embeddings.
        at: State, parameters, denominator or readers, see outdim.ablate.
        mode: Zero, or mean: of the text for the state, of the other parameters for those of a norm.
        controls: So many random dimensions beside them at every place. Of a sweep over most
            dimensions they are drawn from all.
        seed: Of all that is drawn: controls, masks, documents.
        variants_at_once: How many variants share a forward; more help where batches are small.
        block: So many forwards of all layers, about, make a shard with a unit of text.
        verify: Measure only so many that come first in a screening by gradients (all layers
            together, or each alone), and a random sample of the others: whether it found the worst.
        verify_random: How many others; none above the worst bounds what was missed at 3/n.
        masking: random masks a share of the tokens as BERT was trained; within_word_l2r masks every
            token once, with the later ones of its word.
        mask_share: How many of the tokens are to be predicted, with random masking; none takes
            0.15.
        counts: Frequencies to which the predicted tokens are related: a run that counted, its
            counts.parquet, or published counts as JSON; none takes the text's own.
        draws: How often the documents are drawn for the intervals.
    """


class _Sweep(Evaluate):
    """Sums over the predicted tokens of every document, for blocks of the variants of a grid."""

    Options = SweepOptions

    screening: ClassVar[str]  # the step whose result `verify` takes

    @classmethod
    def resolve(cls, options: Any, inputs: Inputs) -> Json:
        """The grid of variants; where a screening is verified, all that is known of it."""
        for name in ("variants_at_once", "block", "verify_random"):
            if getattr(options, name) < 1:
                said = name.replace("_", "-")
                raise ArgumentError(f"{said}: expected at least 1, got {getattr(options, name)}.")
        recorded = super().resolve(options, inputs)
        asked = {name: getattr(options, name) for name in _OF_GRID}
        if options.verify is not None:
            asked |= {"controls": 0}
            _check_verify(options, inputs)
        return {**recorded, "grid": grid(inputs, **asked).as_dict()}

    @classmethod
    def requires(cls, recorded: Mapping[str, Any]) -> tuple[str, ...]:
        """The screening, where it is verified."""
        screened = () if recorded["verify"] is None else (cls.screening,)
        return (*super().requires(recorded), *screened)

    @classmethod
    def work(cls, recorded: Mapping[str, Any], inputs: Inputs) -> list[Json]:
        """Blocks of variants, each with every unit of text."""
        layers, at_once = inputs.architecture.layers, recorded["block"]
        blocks = Grid.from_dict(recorded["grid"]).blocks(layers, at_once)
        if recorded["verify"] is not None:
            size = recorded["verify"] + recorded["verify_random"]
            blocks = ((0, i, min(i + at_once, size)) for i in range(0, size, at_once))
        units = [unit.as_dict() for unit in inputs.corpus.units]
        return [
            {**dict(zip(_OWN, block, strict=True)), **unit} for block in blocks for unit in units
        ]

    def __init__(self, recorded: Mapping[str, Any], inputs: Inputs) -> None:
        super().__init__(recorded, inputs)
        self._blocks: dict[str, list[Mapping[str, torch.Tensor]]] = {}

    @cached_property
    def screened(self) -> Screened:
        """The screening that is verified."""
        found: Screened = self.inputs.result(self.screening)
        return found

    @cached_property
    def grid(self) -> Grid:
        """The variants."""
        recorded = self.recorded
        whole = Grid.from_dict(recorded["grid"])
        if recorded["verify"] is None:
            return whole
        ranked = self.screened.ranked(by_layer=len(whole.places) > 1)
        return chosen(
            whole, ranked, recorded["verify"], recorded["verify_random"], recorded["seed"]
        )

    def update(self, unit: Mapping[str, Any], progress: Progress) -> Self:
        """Take a block of variants over a unit of text."""
        place, first, last = (unit[name] for name in _OWN)
        some = self.grid.variants(place)[first:last]
        text = {name: value for name, value in unit.items() if name not in _OWN}
        ablations = [variant.ablation for variant in some if variant.ablation is not None]
        found, read = self.measured(text, ablations, progress)
        if not place and not first:  # the other blocks read the same text again
            self.account = add_accounts(self.account, read)
        return self.merge({f"{place}.{first}/{name}": one for name, one in found.items()})

    def runner(self) -> Runner[Scores]:
        """What runs the model, several variants at once."""
        at_once = self.recorded["variants_at_once"]
        brief = partial(scored, brief=True)
        found: Runner[Scores] = self.inputs.keep(
            "sweeping", lambda: Runner(self.inputs, self.head, brief, at_once)
        )
        return found

    def state_dict(self) -> dict[str, torch.Tensor]:
        """By block ``<place>.<first>/``, as of `Evaluate`: the intact model, then its variants."""
        return {
            f"{block}/{name}": torch.cat([part[name] for part in parts])
            for block, parts in self._blocks.items()
            for name in parts[0]
        }

    def merge(self, tensors: Mapping[str, torch.Tensor]) -> Self:
        """Take other blocks, and put documents behind those of the same block."""
        by_block: dict[str, dict[str, torch.Tensor]] = {}
        for key, tensor in tensors.items():
            block, _, name = key.partition("/")
            by_block.setdefault(block, {})[name] = tensor
        for block, part in by_block.items():
            self._blocks.setdefault(block, []).append(part)
        return self

    def result(self) -> Sweep:  # type: ignore[override]
        """What every variant does.

        Raises:
            DataError: No token was predicted in all of the text.
        """
        places = tuple(map(self._place, range(len(self.grid.places))))
        verified = None if self.recorded["verify"] is None else self.screened
        return Sweep(places, self.grid, verified)

    def _place(self, place: int) -> Evaluation:
        """The variants of one place on all documents."""
        tensors = self.state_dict()
        blocks = sorted(
            int(key.partition("/")[0].partition(".")[2])
            for key in tensors
            if key.startswith(f"{place}.") and key.endswith("/sums")
        )
        first = f"{place}.{blocks[0]}"
        if not len(tensors[f"{first}/tokens"]):
            raise DataError(
                f"source: {self.inputs.corpus.source}: no token to predict; a document needs two "
                "tokens, or one that is masked."
            )
        sums = [tensors[f"{place}.{block}/sums"] for block in blocks]
        return Evaluation(
            task=self.task,
            masking=self.recorded.get("masking"),
            variants=(Variant("intact"), *self.grid.variants(place)),
            sums=torch.cat([sums[0][:, :1], *(one[:, 1:] for one in sums)], 1).numpy(),
            tokens=tensors[f"{first}/tokens"].numpy(),
            bytes=tensors[f"{first}/bytes"].numpy(),
            draws=self.recorded["draws"],
            seed=self.recorded["seed"],
            note=self.recorded["note"],
            read=self.account,
        )


_READS: tuple[type[InputOptions], ...] = (
    TextOptions,
    TokenizerOptions,
    ModelOptions,
    ForwardOptions,
)


class SweepLm(_Sweep, NextTokens):
    """A causal language model."""

    name = "sweep-lm"
    screening = "screen-lm"
    needs = (*_Sweep.needs, "screen-lm")
    reads = (*_READS, LanguageModel)


class SweepMlm(_Sweep, MaskedTokens):
    """A masked language model."""

    name = "sweep-mlm"
    screening = "screen-mlm"
    needs = (*_Sweep.needs, "screen-mlm")
    Options = SweepMaskedOptions
    reads = (*_READS, MaskedLanguageModel)


def sweep(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    texts: str | Path | Sequence[str] | Corpus,
    *,
    task: Task = "lm",
    dims: str | Sequence[str | int | Sequence[int]] = ALL,
    layers: str | Sequence[str | int | Sequence[int]] = ALL,
    at: At = "state",
    mode: Mode = "zero",
    controls: int = 10,
    verify: int | None = None,
    verify_random: int = 40,
    masking: Masking = "random",
    mask_share: float | None = None,
    max_length: int | None = None,
    token_budget: int = 4096,
    variants_at_once: int = 1,
    autocast: Literal["bfloat16", "float16"] | None = None,
    draws: int = 2000,
    seed: int = 0,
) -> Sweep:
    """Disable every dimension of a language model in turn, and say which break it.

    What a variant gives is to the bit what the same `outdim.Ablation` gives in `outdim.evaluate`
    with the same batches (with ``variants_at_once`` above 1, up to rounding). The layers below the
    first edited one run once for all variants: a grid of every layer and dimension costs half a
    forward a variant. For runs that must survive interruption or be spread over processes, use the
    command line, ``outdim sweep lm``.

    Args:
        model: A Hugging Face model with a head for the task, in eval mode.
        tokenizer: Its tokenizer.
        texts: Documents, or where they are, see `outdim.evaluate`.
        task: ``"lm"``: every token from those before it. ``"mlm"``: masked tokens.
        dims: ``"all"``, or some: each a variant, ranges as ``"0-99"``, tuples together.
        layers: ``"all"`` at once, ``"each"`` alone, ``"window:3"``, or some: tuples together.
        at: What is edited, see `outdim.ablate`.
        mode: ``"zero"``, or ``"mean"``: that of the text, or of the other parameters of a norm.
        controls: Random dimensions beside them at every place.
        verify: Screen by gradients, and measure only so many that come first, in all layers
            together or, with ``layers="each"``, of all layers and dimensions, and beside them
        verify_random: random others: how well the screening ranks, and what it can have missed.
        masking: See `outdim.evaluate`, as what follows.
        mask_share: Of the tokens.
        max_length: Of a sequence.
        token_budget: Of a batch of text.
        autocast: A type.
        draws: Of documents.
        variants_at_once: How many variants share a forward.
        seed: Of controls, masks and draws.

    Returns:
        What every variant does; ``.harm("loss")`` is [places, sets].

    Raises:
        ArgumentError: Words that say nothing, dimensions or layers that the model does not have; no
            head for the task.
        DataError: See `outdim.evaluate`.

    Example:
        >>> found = sweep(model, tokenizer, texts, layers="each")  # doctest: +SKIP
        >>> found.headline()  # doctest: +SKIP
    """
    corpus = corpus_of(texts)
    inputs = Inputs.of({"source": [corpus.source]}, model=model, tokenizer=tokenizer, corpus=corpus)
    inputs.resolve(
        [ForwardOptions(max_length=max_length, token_budget=token_budget, autocast=autocast)]
    )
    plain: dict[str, Any] = {
        "dims": _words(dims),
        "layers": _words(layers),
        "at": at,
        "mode": mode,
        "controls": controls,
        "seed": seed,
        "variants_at_once": variants_at_once,
        "draws": draws,
        "verify": verify,
        "verify_random": verify_random,
    }
    given: dict[str, Any] = {"masking": masking, "mask_share": mask_share}
    step: type[_Sweep]
    screen: type[Predicting]
    if task == "lm":
        step, options, screen, of_screen = SweepLm, SweepOptions(**plain), ScreenLm, ScreenOptions()
    elif task == "mlm":
        step, options = SweepMlm, SweepMaskedOptions(**plain, **given)
        screen, of_screen = ScreenMlm, ScreenMaskedOptions(**given, seed=seed)
    else:
        raise ArgumentError(f"task: expected 'lm' or 'mlm', got {task!r}.")
    whole = step({**inputs.options, **step.resolve(options, inputs)}, inputs)
    if verify is not None:
        scores = screen({**inputs.options, **screen.resolve(of_screen, inputs)}, inputs)
        whole.screened = _run(scores, inputs).result()
    found: Sweep = _run(whole, inputs).result()
    return found


def _run(step: Any, inputs: Inputs) -> Any:
    for unit in step.work(step.recorded, inputs):
        step.update(unit, lambda tokens: None)
    return step


def _check_verify(options: SweepOptions, inputs: Inputs) -> None:
    """A screening is of all dimensions, of all layers together or of each."""
    if list(options.dims) != [ALL] or list(options.layers) not in ([ALL], [EACH]):
        raise ArgumentError(
            "verify: it takes what comes first in a screening: leave --dims out, and --layers, or "
            "give --layers each."
        )
    each = list(options.layers) == [EACH]
    found = inputs.architecture
    most = found.hidden_size * (found.layers if each else 1) - options.verify_random
    assert options.verify is not None
    if not 1 <= options.verify <= most:
        raise ArgumentError(f"verify: expected 1 to {most}, got {options.verify}.")


def _words(given: str | Sequence[str | int | Sequence[int]]) -> list[str]:
    """Words as on the command line; numbers that go together become "507,247"."""
    several = [given] if isinstance(given, str | int) else given
    return [str(one) if isinstance(one, str | int) else ",".join(map(str, one)) for one in several]
