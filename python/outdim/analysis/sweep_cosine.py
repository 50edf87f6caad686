"""Sweep the representations: how far every dimension, disabled, moves the vectors of texts.

Nothing is predicted, so that any model can be swept: what is compared is the last hidden states of
the ordinary tokens, each by itself and their mean over a text, with the intact model's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from outdim.analysis.documents import Documents
from outdim.analysis.heads import NoHead
from outdim.analysis.input_options import MODEL_ON_TEXT
from outdim.analysis.predicting import Predicting
from outdim.analysis.results.moved import SUMS, Moved
from outdim.analysis.sweep_text import SweepText
from outdim.analysis.sweeps.options import GridOptions
from outdim.analysis.variants.runner import Rows, Runner
from outdim.analysis.variants.scoring import Tally
from outdim.analysis.variants.variant import Variant
from outdim.errors import DataError
from outdim.tokens import Piece
from outdim.tokens.targets import Item, seen

_ROUNDING = 1e-12  # of a cosine, and of float32 states far less than any edit does


@dataclass(frozen=True, kw_only=True)
class SweepCosineOptions(GridOptions):  # noqa: D101 - as that of any sweep
    __doc__ = GridOptions.__doc__


class EveryToken(Predicting):
    """Every ordinary token is looked at, and nothing is predicted."""

    task = "cosine"
    head = NoHead

    def items(self, piece: Piece, documents: Documents) -> Iterable[Item]:
        """The piece as it is."""
        return [seen(piece)]


class SweepCosine(SweepText, EveryToken):
    """Sums over the tokens of every document, for blocks of the variants of a grid."""

    name = "sweep-cosine"
    needs = ()
    Options = SweepCosineOptions
    reads = MODEL_ON_TEXT
    kept: ClassVar[Any] = slice(None)

    def runner(self) -> Runner[Any]:
        """What runs the model, several variants at once."""
        at_once = self.recorded["variants_at_once"]
        return self.inputs.keep(
            "sweeping vectors", lambda: Runner(self.inputs, self.head, moved, at_once)
        )

    def keeping(self, runner: Runner[Any], documents: Documents, variants: int) -> Tally:
        """Sums by document."""
        return _Distances(variants, torch.empty(0), documents)

    def nothing_to_predict(self) -> DataError:
        """The error where all of the text has no token."""
        return DataError(f"source: {self.inputs.corpus.source}: no token of a text to look at.")

    def summed(
        self, variants: Sequence[Variant], sums: Tensor, read: Mapping[str, Tensor]
    ) -> Moved:
        """Variants with ``sums`` [N, M, K] by document, and what was read of each."""
        return Moved(
            variants=tuple(variants),
            sums=sums.numpy(),
            tokens=read["tokens"].numpy(),
            draws=self.recorded["draws"],
            seed=self.recorded["seed"],
            read=self.account,
        )


class _Distances(Tally):
    """Sums of what `moved` gives."""

    columns = len(SUMS)

    def _values(self, targets: Tensor, own: Any, intact: Any) -> Tensor:
        return torch.as_tensor(own).cpu()


def moved(predictor: Any, states: Sequence[Tensor], rows: Rows) -> list[Tensor]:
    """`results.moved.SUMS` of every row of states [R, D] beside the intact: float64 [R, K].

    Example:
        >>> rows = Rows(*[torch.zeros(2, dtype=torch.int64)] * 4)  # two tokens of a text
        >>> intact, other = torch.tensor([[3.0, 0], [0, 1]]), torch.tensor([[3.0, 0], [1, 0]])
        >>> moved(None, [intact, other], rows)[1]
        tensor([[0.0257, 0.5000, 0.0000, 1.0000, 1.0000],
                [0.0257, 0.5000, 1.0000, 1.0000, 1.0000]], dtype=torch.float64)
    """
    which = rows.sequences
    size = which.bincount()
    of_row = size[which].double()
    intact = states[0].double()
    texts = _sums(intact, which, len(size))
    found = []
    for hidden in states:
        own = hidden.double()
        text = _distance(_sums(own, which, len(size)), texts)
        unit = normalize(own)
        others = (unit * (_sums(unit, which, len(size))[which] - unit)).sum(1)
        paired = (of_row > 1).double()
        found.append(
            torch.stack(
                [
                    text[which] / of_row,
                    1 / of_row,
                    _distance(own, intact),
                    others / (of_row - 1).clamp(min=1),
                    paired,
                ],
                1,
            )
        )
    return found


def _distance(one: Tensor, other: Tensor) -> Tensor:
    """1 less the cosine of rows; 0 where they differ by no more than its rounding."""
    distance = 1 - cosine_similarity(one, other)
    return torch.where(distance.abs() < _ROUNDING, 0.0, distance)


def _sums(rows: Tensor, which: Tensor, texts: int) -> Tensor:
    """Sums [T, D] of the rows [R, D] of each text."""
    return rows.new_zeros(texts, rows.shape[1]).index_add_(0, which, rows)
