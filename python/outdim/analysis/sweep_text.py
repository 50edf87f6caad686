"""Steps that sweep a model over text: blocks of the variants of a grid, with every unit of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from typing import Any, ClassVar, Self

import torch

from outdim.analysis.heads import LanguageModel, MaskedLanguageModel
from outdim.analysis.input_options import MODEL_ON_TEXT
from outdim.analysis.inputs import Inputs
from outdim.analysis.predicting import MaskedTokens, NextTokens
from outdim.analysis.results.compared import Compared
from outdim.analysis.results.evaluation import SUMS, Evaluation
from outdim.analysis.results.screened import Screened
from outdim.analysis.results.swept import Sweep
from outdim.analysis.step import Json, Progress, add_accounts
from outdim.analysis.sweeps.grid import Grid, chosen
from outdim.analysis.sweeps.options import SweepMaskedOptions, SweepOptions
from outdim.analysis.sweeps.ranked_text import ranked_on
from outdim.analysis.variants.by_block import ByBlock
from outdim.analysis.variants.each_variant import EachVariant
from outdim.analysis.variants.runner import Runner, predictor_of, scored
from outdim.analysis.variants.scoring import Documents, Tally
from outdim.analysis.variants.variant import Variant
from outdim.models.architecture import architecture
from outdim.models.last_layer import LastLayer
from outdim.models.losses import Scores

_OWN = ("place", "first", "last")  # what a shard says beside the unit of text
#: Sums that are compared, and whether logits were finite.
_KEPT = [SUMS.index(name) for name in ("loss", "correct", "kl", "agreement", "nonfinite")]


class SweepText(EachVariant):
    """Sums over the predicted tokens of every document, for blocks of the variants of a grid."""

    Options: ClassVar[type] = SweepOptions
    presentation = ("draws",)
    kept: ClassVar[Any] = _KEPT  # of the sums

    @classmethod
    def check(cls, options: Any, inputs: Inputs) -> None:
        """Of the words for dimensions and layers, and of what is counted."""
        options.check_size(*inputs.declared_size)

    @classmethod
    def resolve(cls, options: Any, inputs: Inputs) -> Json:
        """The grid of variants; where a screening is verified, all that is known of it."""
        variants, recorded = cls.gridded(options, inputs), super().resolve(options, inputs)
        return {**recorded, **variants, "ranked": cls.ranked(options, inputs)}

    @classmethod
    def ranked(cls, options: Any, inputs: Inputs) -> str:
        """What a reader has to know of how dimensions were ranked."""
        if options.ranking is None:
            return ""
        return ranked_on(options.ranking, options.dims, [one["sha256"] for one in inputs.files])

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
            return Sweep(self.name, places, self.grid, ranked=self.recorded["ranked"])
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
