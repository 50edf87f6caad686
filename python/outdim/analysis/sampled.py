"""What a sample of words tells of a point: informativity of dimensions, and a rotation of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from outdim.analysis.results.cautions import no_interval
from outdim.analysis.rule_states import KURTOSIS, kurtosis_he
from outdim.analysis.table import Statistic, TidyRows, define
from outdim.stats.hadamard import hadamard
from outdim.stats.jackknife import BLOCKS, LeftOut, block_of, ratio
from outdim.stats.token_sample import Sample

Floats = NDArray[np.float64]

_LEAST_ROWS = 100  # what a statistic of all tokens may be off by is not known from fewer
#: Statistics of `Sampled.rotated`.
ROTATED = (
    "max_median_rotated", "top3_median_rotated", "kurtosis_he_rotated", "kurtosis_token_rotated"
)  # fmt: skip
#: How many of the dimensions that add most to the expected cosine are left out.
STRONGEST = (1, 3, 5)
_AFTER = "after a Hadamard rotation"
_ROTATED = f", {_AFTER}"
_RATIO = "Largest over median within a token"


def _fewer(k: int) -> str:
    return f"without the {k} strongest dimensions" if k > 1 else "without the strongest dimension"


define(
    *(
        Statistic(
            f"informativity_{k}",
            f"r² of pairs' cosines with those {_fewer(k)}",
            low=0, high=1, of_dimensions=False, source="Timkey and van Schijndel 2021",
            topic="What cosines still say without the strongest dimensions",
            beside="" if k == STRONGEST[0] else f"informativity_{STRONGEST[0]}", aspect=_fewer(k),
        )
        for k in STRONGEST
    ),
    Statistic("max_median_rotated", f"largest |h| of a token over its median{_ROTATED}", low=0,
              of_dimensions=False, topic=_RATIO, source="MMR, He et al. 2024",
              beside="max_median", aspect=_AFTER),
    Statistic("top3_median_rotated",
              f"mean of the three largest |h| of a token over the median{_ROTATED}", low=0,
              of_dimensions=False, topic=_RATIO, source="Sun et al. 2024",
              beside="top3_median", aspect=_AFTER),
    Statistic("kurtosis_he_rotated", f"kurtosis of the sizes of dimensions{_ROTATED}", low=1,
              of_dimensions=False, topic=KURTOSIS, source="He et al. 2024",
              beside="kurtosis_he", aspect=_AFTER),
    Statistic("kurtosis_token_rotated", f"kurtosis of the values of a token, less 3{_ROTATED}",
              low=-2, of_dimensions=False, topic=KURTOSIS, source="OSP, Park et al. 2025"),
)  # fmt: skip


@dataclass(frozen=True)
class Sampled:
    """A sample of the words of a point.

    Attributes:
        rows: Hidden states, float64 [n, D], in an order that says nothing of them.
        blocks: The block of documents of each, [n].
    """

    rows: Floats
    blocks: NDArray[np.int64]

    @classmethod
    def of(cls, sample: Sample) -> Sampled:
        """Those that were drawn."""
        return cls(sample.rows.double().numpy(), block_of(sample.keys).numpy())

    @property
    def no_interval(self) -> str:
        """Why it gives no interval for what is known of all tokens; "" where it does."""
        if len(self.rows) < _LEAST_ROWS:
            return f"an interval needs {_LEAST_ROWS} sampled words, there are {len(self.rows)}"
        return no_interval(len(np.unique(self.blocks)))

    def reach(self, influences: Tensor) -> Floats:
        """How far a statistic of all tokens may be off either way, [...], at 95 %: no less.

        The jackknife's interval of the mean influence of the sampled tokens, whose documents are
        those of all tokens. Of all of them that mean is 0: where the sample's is not, as it has
        missed rare tokens, or met too many, it adds to the reach.

        Args:
            influences: Of each row, float64 [n, ...], see `outdim.stats.spectrum.influence`.
        """
        values = influences.numpy()
        sums = np.tensordot(self._member, values, 1)
        tokens = self._member.sum(1).reshape(-1, *[1] * (values.ndim - 1))
        low, high = ratio(sums, tokens).interval()
        return np.asarray(np.maximum(-low, high))

    def excess(self, statistic: Callable[[Tensor], float], rows: Tensor, tokens: int) -> float:
        """By how much a statistic is too large because tokens and documents are not without end.

        It is taken to grow by a / tokens + b / documents. Halves of the sample have half the tokens
        and, where they are halves by document, half the documents; to first order their mean is
        that of the whole.

        Args:
            statistic: Of rows.
            rows: What it is taken of in place of `rows`, [n, ...].
            tokens: How many there are, the sampled ones among them.
        """

        def halves(odd: NDArray[np.bool_]) -> float:
            parts = [rows[part] for part in (odd, ~odd) if part.any()]
            return sum(len(part) / len(rows) * statistic(part) for part in parts)

        by_token = halves(np.arange(len(rows)) % 2 == 1)
        by_document = halves(np.unique(self.blocks, return_inverse=True)[1] % 2 == 1)
        of_tokens = (by_token - statistic(rows)) * len(rows) / tokens
        return of_tokens + by_document - by_token

    @cached_property
    def _member(self) -> Floats:
        """1 where a row is of a block, [B, n]."""
        return np.asarray(self.blocks == np.arange(BLOCKS)[:, None], np.float64)

    def informativity(self, dims: Sequence[int]) -> LeftOut:
        """How far the cosines of pairs are those without some dimensions: r², over all pairs.

        Timkey and van Schijndel 2021, section 3.3: where it is low, the similarity of two tokens
        is that of a few of their dimensions.

        Args:
            dims: What is left out.
        """
        one, other = self._cosines, _cosines(np.delete(self.rows, dims, 1))
        member = self._member
        size = member.sum(1)
        pairs = [np.outer(size, size) - np.diag(size)]
        for x in (one, other, one * one, other * other, one * other):
            pairs.append(member @ x @ member.T)
        sums = np.stack(pairs)  # [6, B, B]
        own = np.diagonal(sums, axis1=1, axis2=2)
        whole = sums.sum((1, 2))
        without = whole[:, None] - sums.sum(1) - sums.sum(2) + own
        return LeftOut(_r2(whole), _r2(without), size > 0)

    @cached_property
    def _cosines(self) -> Floats:
        return _cosines(self.rows)

    def rotated(self) -> dict[str, LeftOut]:
        """Ratios and kurtoses of the rows times a Hadamard matrix; none where there is none."""
        matrix = hadamard(self.rows.shape[1])
        if matrix is None:
            return {}
        rows = self.rows @ (matrix / np.sqrt(len(matrix)))
        sizes = np.sort(np.abs(rows), axis=1)
        median = sizes[:, (sizes.shape[1] - 1) // 2]
        squares = rows**2
        with np.errstate(invalid="ignore", divide="ignore"):
            values = {
                "max_median_rotated": sizes[:, -1] / median,
                "top3_median_rotated": sizes[:, -3:].mean(1) / median,
                "kurtosis_token_rotated": (squares**2).mean(1) / squares.mean(1) ** 2 - 3,
            }
        found = {name: self._left_out(part, np.mean) for name, part in values.items()}
        found["kurtosis_he_rotated"] = self._left_out(squares, lambda x: kurtosis_he(x.mean(0)))
        return found

    def _left_out(self, rows: Floats, statistic: Callable[[Floats], float]) -> LeftOut:
        """A statistic of all rows, and of those without each block."""
        value = float(statistic(rows))
        used = np.bincount(self.blocks, minlength=BLOCKS) > 0
        without = np.full(BLOCKS, value)
        for block in used.nonzero()[0] if used.sum() > 1 else ():
            without[block] = statistic(rows[self.blocks != block])
        return LeftOut(np.array(value), without, used)

    def add_to(self, rows: TidyRows, strongest: Sequence[int], **at: Any) -> None:
        """Add all of it; first of ``strongest`` is the dimension that adds most to cosines."""
        for name, found in self._statistics(strongest):
            if isinstance(found, str):
                rows.add(name, np.nan, n=len(self.rows), reason=found, **at)
                continue
            low, high = found.interval(share=name.startswith("informativity"))
            known = np.isfinite(found.value)
            reason = "" if known else "a token of zeros, or all values are alike"
            rows.add(
                name, found.value, low=low, high=high, n=len(self.rows), reason=reason, **at
            )  # fmt: skip

    def _statistics(self, strongest: Sequence[int]) -> Iterator[tuple[str, LeftOut | str]]:
        """Each by name, or why it is not known."""
        finite = bool(np.isfinite(self.rows).all())
        for k in STRONGEST:
            known = finite and k < self.rows.shape[1]
            why = "no dimension is left" if finite else "nonfinite values"
            yield f"informativity_{k}", self.informativity(strongest[:k]) if known else why
        rotated = self.rotated() if finite else {}
        why = "there is no Hadamard matrix of this width" if finite else "nonfinite values"
        for name in ROTATED:
            yield name, rotated.get(name, why)


def _cosines(rows: Floats) -> Floats:
    """Of every two rows, [n, n]; 0 of a row with itself, which is no pair, and of one that is 0."""
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    units = rows / np.where(norms > 0, norms, 1)
    found: Floats = units @ units.T
    np.fill_diagonal(found, 0)
    return found


def _r2(sums: Floats) -> Floats:
    """Squared correlation from sums [6, ...] of 1, x, y, x², y² and x y; NaN where one is flat."""
    n, x, y, xx, yy, xy = sums
    with np.errstate(invalid="ignore", divide="ignore"):
        vx, vy = xx - x * x / n, yy - y * y / n
        flat = (vx <= 1e-14 * xx) | (vy <= 1e-14 * yy)
        return np.asarray(np.where(flat, np.nan, (xy - x * y / n) ** 2 / (vx * vy)))
