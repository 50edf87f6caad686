"""Steps that score what a language model predicts in a text, for blocks of variants of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from outdim.analysis.documents import Documents
from outdim.analysis.inputs import Inputs
from outdim.analysis.results.compared import Compared
from outdim.analysis.results.evaluation import SUMS, Evaluation
from outdim.analysis.step import Json, Progress
from outdim.analysis.variants.each_variant import EachVariant
from outdim.analysis.variants.in_blocks import InBlocks, side_by_side
from outdim.analysis.variants.runner import Runner, predictor_of, scored
from outdim.analysis.variants.scoring import Tally
from outdim.analysis.variants.variant import Variant
from outdim.models.ablation import Ablation
from outdim.models.architecture import architecture
from outdim.models.last_layer import LastLayer
from outdim.models.losses import Scores

#: Sums that are compared, and whether logits were finite.
_KEPT = [SUMS.index(name) for name in ("loss", "correct", "kl", "agreement", "nonfinite")]


class OnText(EachVariant, InBlocks):
    """Sums over the predicted tokens of every document.

    By block ``sums`` [N, 1 + M, 5], ``tokens`` [N], ``bytes`` [N].
    """

    kept: ClassVar[Any] = _KEPT  # of the sums

    @classmethod
    def parts(cls, inputs: Inputs) -> list[Json]:
        """The units of the corpus."""
        return [unit.as_dict() for unit in inputs.corpus.units]

    def measured(
        self, unit: Mapping[str, Any], ablations: Sequence[Ablation], progress: Progress
    ) -> tuple[dict[str, Tensor], Json]:
        """The sums of a unit of text, and its account."""
        found, read = super().measured(unit, ablations, progress)
        return {**found, "sums": found["sums"][..., self.kept]}, read

    def runner(self) -> Runner[Any]:
        """What runs the model, several variants at once, and the last layer in closed form."""
        return self.inputs.keep("sweeping", self._runner)

    def _runner(self) -> Runner[Scores]:
        model = self.inputs.model_with(self.head.head)
        last = LastLayer(model, predictor_of(self.inputs, self.head), architecture(model))
        at_once, brief = self.recorded["variants_at_once"], partial(scored, brief=True)
        return Runner(self.inputs, self.head, brief, at_once, last)

    def keeping(self, runner: Runner[Any], documents: Documents, variants: int) -> Tally:
        """Sums by document; nothing is related to counts."""
        uncounted = torch.zeros(runner.predictor.vocab_size, dtype=torch.float64)
        return Tally(variants, uncounted, documents)

    def compared(self, variants: Sequence[Variant], group: int) -> Compared:
        """All variants of a group.

        Raises:
            DataError: No token was predicted in all of the text.
        """
        blocks = self.found.blocks(group)
        if not len(blocks[0]["tokens"]):
            raise self.nothing_to_predict()
        return self.summed(variants, side_by_side(blocks, "sums"), blocks[0])

    def summed(
        self, variants: Sequence[Variant], sums: Tensor, read: Mapping[str, Tensor]
    ) -> Compared:
        """Variants with ``sums`` [N, M, K] by document, and what was read of each."""
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
