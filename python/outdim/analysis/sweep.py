"""Sweep: every dimension of a model disabled in turn, in all layers at once or layer by layer.

Kovaleva et al. 2021, figure 1: two of 768 dimensions break BERT, the others do next to nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import torch

from outdim.analysis.by_block import ByBlock
from outdim.analysis.compared import Compared
from outdim.analysis.each_variant import EachVariant, inputs_of
from outdim.analysis.evaluation import SUMS, Evaluation
from outdim.analysis.heads import LanguageModel, MaskedLanguageModel
from outdim.analysis.input_options import MODEL_ON_TEXT, ForwardOptions
from outdim.analysis.inputs import Inputs
from outdim.analysis.predicting import (
    MaskedTokens,
    Masking,
    NextTokens,
    Predicting,
)
from outdim.analysis.scoring import Documents, Runner, Tally, predictor_of, scored
from outdim.analysis.screen import (
    LEADING,
    Score,
    Screened,
    ScreenLm,
    ScreenMaskedOptions,
    ScreenMlm,
    ScreenOptions,
)
from outdim.analysis.step import Json, Progress, add_accounts
from outdim.analysis.sweep_options import SweepMaskedOptions, SweepOptions
from outdim.analysis.sweep_variants import ALL, Grid, Mode, chosen
from outdim.analysis.swept import Sweep
from outdim.analysis.tasks import GLUE
from outdim.analysis.variants import Variant
from outdim.errors import ArgumentError
from outdim.models.ablation import At
from outdim.models.architecture import architecture
from outdim.models.last_layer import LastLayer
from outdim.models.losses import Scores

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from outdim.corpus import Corpus

_OWN = ("place", "first", "last")  # what a shard says beside the unit of text
#: Sums that are compared, and whether logits were finite.
_KEPT = [SUMS.index(name) for name in ("loss", "correct", "kl", "agreement", "nonfinite")]


class SweepText(EachVariant):
    """Sums over the predicted tokens of every document, for blocks of the variants of a grid."""

    Options: ClassVar[type] = SweepOptions
    presentation = ("draws",)
    kept: ClassVar[Any] = _KEPT  # of the sums

    @classmethod
    def resolve(cls, options: Any, inputs: Inputs) -> Json:
        """The grid of variants; where a screening is verified, all that is known of it."""
        variants = cls.gridded(options, inputs)
        return {**super().resolve(options, inputs), **variants}

    @classmethod
    def gridded(cls, options: Any, inputs: Inputs) -> Json:
        """What the plan says of the variants."""
        return {"grid": options.grid(inputs).as_dict()}

    @classmethod
    def requires(cls, recorded: Mapping[str, Any]) -> tuple[str, ...]:
        """The screening, where it is verified."""
        return () if recorded.get("verify") is None else cls.needs

    @classmethod
    def work(cls, recorded: Mapping[str, Any], inputs: Inputs) -> list[Json]:
        """Blocks of variants, each with every unit of text."""
        layers, at_once = inputs.architecture.layers, recorded["block"]
        blocks = Grid.from_dict(recorded["grid"]).blocks(layers, at_once)
        if recorded.get("verify") is not None:
            size = recorded["verify"] + recorded["verify_random"]
            blocks = ((0, i, min(i + at_once, size)) for i in range(0, size, at_once))
        units = [unit.as_dict() for unit in inputs.corpus.units]
        return [
            {**dict(zip(_OWN, block, strict=True)), **unit} for block in blocks for unit in units
        ]

    def __init__(self, recorded: Mapping[str, Any], inputs: Inputs) -> None:
        super().__init__(recorded, inputs)
        self._blocks = ByBlock()

    @cached_property
    def screened(self) -> Screened:
        """The screening that is verified."""
        (screening,) = self.needs
        found: Screened = self.inputs.result(screening)
        return found

    @cached_property
    def grid(self) -> Grid:
        """The variants."""
        recorded = self.recorded
        whole = Grid.from_dict(recorded["grid"])
        if recorded.get("verify") is None:
            return whole
        ranked = self.screened.ranked(recorded["score"], by_layer=len(whole.places) > 1)
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
        found["sums"] = found["sums"][..., self.kept]
        return self.merge({f"{place}.{first}/{name}": one for name, one in found.items()})

    def runner(self) -> Runner[Any]:
        """What runs the model, several variants at once, and the last layer in closed form."""
        found: Runner[Scores] = self.inputs.keep("sweeping", self._runner)
        return found

    def _runner(self) -> Runner[Scores]:
        model, predictor = (
            self.inputs.model_with(self.head.head),
            predictor_of(self.inputs, self.head),
        )
        last = LastLayer(model, predictor, architecture(model))
        at_once, brief = self.recorded["variants_at_once"], partial(scored, brief=True)
        return Runner(self.inputs, self.head, brief, at_once, last)

    def keeping(self, runner: Runner[Any], documents: Documents, variants: int) -> Tally:
        """Sums by document; nothing is related to counts."""
        uncounted = torch.zeros(runner.predictor.vocab_size, dtype=torch.float64)
        return Tally(variants, uncounted, documents)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """By block ``<place>.<first>/`` the intact model and its variants, by document.

        ``sums`` [N, 1 + M, 5], ``tokens`` [N], ``bytes`` [N].
        """
        return self._blocks.state_dict()

    def merge(self, tensors: Mapping[str, torch.Tensor]) -> Self:
        """Take other blocks, and put documents behind those of the same block."""
        self._blocks.merge(tensors)
        return self

    def result(self) -> Sweep:
        """What every variant does.

        Raises:
            DataError: No token was predicted in all of the text.
        """
        places = tuple(map(self._place, range(len(self.grid.places))))
        if self.recorded.get("verify") is None:
            return Sweep(self.name, places, self.grid)
        return Sweep(self.name, places, self.grid, self.screened, self.recorded["score"])

    def _place(self, place: int) -> Compared:
        """The variants of one place on all documents."""
        blocks = self._blocks.blocks(place)
        if not len(blocks[0]["tokens"]):
            raise self.nothing_to_predict()
        sums = torch.cat([blocks[0]["sums"][:, :1], *(one["sums"][:, 1:] for one in blocks)], 1)
        return self.compared((Variant("intact"), *self.grid.variants(place)), sums, blocks[0])

    def compared(
        self, variants: Sequence[Variant], sums: torch.Tensor, read: Mapping[str, torch.Tensor]
    ) -> Compared:
        """Variants of one place, of ``sums`` [N, M, K] by document and what was read of each."""
        every = torch.full((*sums.shape[:2], len(SUMS)), torch.nan, dtype=torch.float64)
        every[..., _KEPT] = sums
        return Evaluation(
            task=self.task,
            masking=self.recorded.get("masking"),
            variants=tuple(variants),
            sums=every.numpy(),
            tokens=read["tokens"].numpy(),
            bytes=read["bytes"].numpy(),
            draws=self.recorded["draws"],
            seed=self.recorded["seed"],
            note=self.recorded["note"],
            read=self.account,
        )


class SweepLm(SweepText, NextTokens):
    """A causal language model."""

    name = "sweep-lm"
    needs = ("screen-lm",)
    reads = (*MODEL_ON_TEXT, LanguageModel)


class SweepMlm(SweepText, MaskedTokens):
    """A masked language model."""

    name = "sweep-mlm"
    needs = ("screen-mlm",)
    Options = SweepMaskedOptions
    reads = (*MODEL_ON_TEXT, MaskedLanguageModel)


def sweep(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    texts: str | Path | Sequence[str] | Corpus,
    *,
    task: str = "lm",
    dims: str | Sequence[str | int | Sequence[int]] = ALL,
    layers: str | Sequence[str | int | Sequence[int]] = ALL,
    at: At = "state",
    mode: Mode = "zero",
    controls: int | None = None,
    pairs: bool = False,
    verify: int | None = None,
    verify_random: int = 40,
    score: Score = LEADING,
    masking: Masking = "random",
    mask_share: float | None = None,
    max_length: int | None = None,
    token_budget: int = 4096,
    variants_at_once: int | None = None,
    autocast: Literal["bfloat16", "float16"] | None = None,
    draws: int = 2000,
    seed: int = 0,
) -> Sweep:
    """Disable every dimension of a model in turn, and say which break it.

    The states of a variant are those of the same `outdim.Ablation` in `outdim.evaluate` with the
    same batches: to the bit where each has a forward of its own (``variants_at_once`` 1, and on
    CPUs with batches of more than 256 tokens), else up to rounding. Its loss is the same up to 2e-6
    nats a token, after the last layer alone up to 2e-5. The layers below the first edited one run
    once for all variants: a grid of every layer and dimension costs half a forward a variant. For
    runs that must survive interruption or be spread over processes, use the command line,
    ``outdim sweep lm``.

    Args:
        model: A Hugging Face model with a head for the task, in eval mode.
        tokenizer: Its tokenizer.
        texts: Documents, or where they are, see `outdim.evaluate`; of a task of GLUE its labelled
            files.
        task: ``"lm"``: every token from those before it. ``"mlm"``: masked tokens. ``"cosine"``:
            how far the vectors of texts move. ``"glue:sst2"`` and the like: a classifier on a task
            of `outdim evaluate glue`.
        dims: ``"all"``, or some: each a variant, ranges as ``"0-99"``, tuples together.
        layers: ``"all"`` at once, ``"each"`` alone, ``"window:3"``, or some: tuples together.
        at: What is edited, see `outdim.ablate`.
        mode: ``"zero"``, or, of language models, ``"mean"``: that of the text, or of the other
            parameters of a norm.
        controls: Random dimensions beside them at every place; None takes 10.
        pairs: Beside single dimensions all pairs of them, ``.interactions``: whether two do more
            harm together than the sum of both.
        verify: Screen by gradients, and measure only so many that come first, in all layers
            together or, with ``layers="each"``, of all layers and dimensions, and beside them
        verify_random: random others: whether the screening is to be believed.
        score: By which it ranks: ``"absolute"``, ``"squared"`` or ``"magnitude"``.
        masking: See `outdim.evaluate`.
        mask_share: How many of the tokens are predicted, with random masking; None takes 0.15.
        max_length: Tokens per sequence; None takes the model's own limit, at most 512.
        token_budget: Tokens per batch of text, padding included.
        autocast: Run the model under `torch.autocast` with this type.
        draws: How often documents are drawn for the intervals.
        variants_at_once: How many variants share a forward; None takes as many as fill a batch.
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
    swept: dict[str, Any] = {
        "dims": words_of(dims),
        "layers": words_of(layers),
        "at": at,
        "controls": controls,
        "pairs": pairs,
        "seed": seed,
        "variants_at_once": variants_at_once,
        "draws": draws,
    }
    ranked = {"mode": mode, "verify": verify, "verify_random": verify_random, "score": score}
    given: dict[str, Any] = {"masking": masking, "mask_share": mask_share}
    forward = ForwardOptions(max_length=max_length, token_budget=token_budget, autocast=autocast)
    if task in ("lm", "mlm"):
        inputs = inputs_of(model, tokenizer, texts, forward, None)
        return _sweep_predictions(task, {**swept, **ranked}, given, inputs)
    if (mode, verify, masking, mask_share) != ("zero", None, "random", None):
        raise ArgumentError(
            "mode, verify, masking, mask_share: they go with task='lm' or 'mlm' alone; leave them "
            "out."
        )
    if task == "cosine":
        from outdim.analysis.sweep_cosine import SweepCosine

        inputs = inputs_of(model, tokenizer, texts, forward, None)
        moved: Sweep = in_memory(SweepCosine, swept, inputs)
        return moved
    kind, _, name = task.partition(":")
    if kind != "glue" or name not in GLUE:
        raise ArgumentError(
            f"task: expected 'lm', 'mlm', 'cosine', or 'glue:sst2' and the like, got {task!r}."
        )
    from outdim.analysis.sweep_glue import SweepGlue

    given_files = [texts] if isinstance(texts, str | Path) else texts
    if not isinstance(given_files, Sequence):
        raise ArgumentError(f"texts: expected labelled files for task={task!r}, got a corpus.")
    files = [str(one) for one in given_files]
    options = {**swept, "task": name, "data": files}
    if max_length is not None:
        options["max_length"] = max_length
    found: Sweep = in_memory(SweepGlue, options, Inputs.of(model=model, tokenizer=tokenizer))
    return found


def _sweep_predictions(
    task: str, options: Mapping[str, Any], masking: Mapping[str, Any], inputs: Inputs
) -> Sweep:
    """Sweep a language model, screened first if that is to be verified."""
    step: type[SweepText] = SweepLm
    screen: tuple[type[Predicting], Any] = (ScreenLm, ScreenOptions())
    if task == "mlm":
        step, options = SweepMlm, {**options, **masking}
        screen = ScreenMlm, ScreenMaskedOptions(**masking, seed=options["seed"])
    screened = None
    if options["verify"] is not None:
        cls, of_screen = screen
        scores = cls({**inputs.options, **cls.resolve(of_screen, inputs)}, inputs)
        screened = _run(scores, inputs).result()
    found: Sweep = in_memory(step, options, inputs, screened)
    return found


def in_memory(
    step: type[Any], options: Mapping[str, Any], inputs: Inputs, screened: Screened | None = None
) -> Any:
    """The result of a step that takes all of its work."""
    whole = step({**inputs.options, **step.resolve(step.Options(**options), inputs)}, inputs)
    if screened is not None:
        whole.screened = screened
    return _run(whole, inputs).result()


def _run(step: Any, inputs: Inputs) -> Any:
    for unit in step.work(step.recorded, inputs):
        step.update(unit, lambda tokens: None)
    return step


def words_of(given: str | Sequence[str | int | Sequence[int]]) -> list[str]:
    """Words as on the command line; numbers that go together become "507,247"."""
    several = [given] if isinstance(given, str | int) else given
    return [str(one) if isinstance(one, str | int) else ",".join(map(str, one)) for one in several]
