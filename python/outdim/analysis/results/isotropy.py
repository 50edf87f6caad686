"""What a pass of `geometry` found: how evenly hidden states fill their space, and what skews it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from outdim.analysis.results.cautions import few_blocks, nonfinite_values
from outdim.analysis.results.directions import NO_SAMPLE, Directions
from outdim.analysis.results.tokens_read import tokens_read
from outdim.analysis.rule_states import KURTOSIS, kurtosis_he
from outdim.analysis.sampled import Sampled
from outdim.analysis.step import Json, Result
from outdim.analysis.table import Statistic, TidyRows, define, place
from outdim.stats import MomentsResult
from outdim.stats.covariance import Scatter
from outdim.stats.jackknife import LeftOut
from outdim.stats.spectrum import influence
from outdim.stats.unit_sums import Cosines
from outdim.text import listing, number, percent, with_interval

Floats = NDArray[np.float64]

LEADING = "text"

_TIMKEY = "Timkey and van Schijndel 2021"
_WITHOUT = "without the dimensions left out"


def _pair(name: str, label: str, topic: str, source: str, low: float | None = 0) -> None:
    """A statistic of a point, of all dimensions and without those left out."""
    about: Any = {"low": low, "source": source, "topic": topic, "of_dimensions": False}
    define(
        Statistic(name, label, aspect="all dimensions", **about),
        Statistic(f"{name}_left_out", f"{label} {_WITHOUT}", beside=name, aspect=_WITHOUT, **about),
    )


_pair("cosine", "expected cosine of two tokens", "Anisotropy", _TIMKEY, low=-1)
_pair("isoscore", "IsoScore (1 where all directions vary alike)", "IsoScore", "Rudman et al. 2022")
_pair("effective_rank", "effective rank (exp of the entropy of the variances)",
      "Directions in use", "Roy and Vetterli 2007")  # fmt: skip
_pair("participation_ratio", "participation ratio", "Directions in use", "(Σλ)² / Σλ²")
_pair("max_median", "largest |h| of a token over its median",
      "Largest over median within a token", "MMR, He et al. 2024")  # fmt: skip
_pair("top3_median", "mean of the three largest |h| of a token over its median",
      "Largest over median within a token", "Sun et al. 2024")  # fmt: skip
define(
    Statistic("cosine_contribution", "what a dimension adds to the expected cosine",
              topic="What dimensions add to the expected cosine", source=_TIMKEY),
    Statistic("variance_share", "share of the variance", low=0, high=1,
              topic="Share of the variance"),
    Statistic("kurtosis_he_left_out", f"kurtosis of the sizes of dimensions {_WITHOUT}", low=1,
              of_dimensions=False, topic=KURTOSIS, source="He et al. 2024", beside="kurtosis_he",
              aspect=_WITHOUT),
)  # fmt: skip

#: Ratios of a sampled token, in the order in which `outdim.analysis.geometry.ratios` gives them.
RATIOS = ("max_median", "top3_median", "max_median_left_out", "top3_median_left_out")


class Ratios(NamedTuple):
    """Means of `RATIOS` over n sampled tokens, by block of documents."""

    n: int
    means: LeftOut


@dataclass(frozen=True)
class Space:
    """What is known of one point and selection of tokens.

    Attributes:
        moments: Of every dimension.
        ratios: Largest over median within the sampled tokens.
        cosines, cosines_left_out: Over all pairs; None with fewer than two tokens.
        scatter: Covariance; None where it was not taken.
        left_out: The dimensions that are left out at this point.
        sampled: Some of the words, where the covariance was taken.
    """

    moments: MomentsResult
    ratios: Ratios
    cosines: Cosines | None
    cosines_left_out: Cosines | None
    scatter: Scatter | None
    left_out: tuple[int, ...]
    sampled: Sampled | None = None

    @property  # not kept: axes take as much as a covariance
    def directions(self) -> tuple[Directions, ...]:
        """Of all dimensions and without those left out; none without a covariance."""
        if self.scatter is None:
            return ()
        every = np.arange(len(self.scatter.mean))
        both = (every, np.setdiff1d(every, self.left_out))
        return tuple(Directions(self.scatter, kept, self.sampled) for kept in both)

    @cached_property
    def squares(self) -> Floats:
        """Mean of h^2 of each dimension."""
        return np.asarray(self.moments.variance + self.moments.mean.square(), np.float64)


@dataclass(frozen=True)
class Geometry(Result):
    """Geometry of the hidden states by (point, selection of tokens).

    Attributes:
        layers: Layer of each point.
        spaces: What is known; selections without a token are not there.
        given: Whether the dimensions left out were given; else they are those that add most to the
            expected cosine among the first tokens of the text.
    """

    layers: Mapping[str, int]
    spaces: Mapping[tuple[str, str], Space]
    given: bool

    def tables(self) -> dict[str, pa.Table | Mapping[str, Any]]:
        """Tidy rows, and ``geometry.json``: the dimensions left out by point."""
        rows = TidyRows()
        for (point, selection), space in self.spaces.items():
            at: Any = {"point": point, "layer": self.layers[point], "selection": selection}
            _add_cosines(rows, space, at)
            _add_sizes(rows, space, at)
            _add_directions(rows, space, at)
            if space.sampled is not None and space.cosines is not None:
                strongest = np.argsort(-space.cosines.contribution, kind="stable").tolist()
                space.sampled.add_to(rows, strongest, **at)
        left_out = {
            point: list(self.spaces[point, selection].left_out) for point, selection in self.spaces
        }
        return {"stats": rows.table(), "geometry": {"left_out": left_out, "given": self.given}}

    def account(self) -> Json:
        """How many tokens the numbers are of."""
        first = next(iter(self.layers))
        return tokens_read(
            {name: s.moments.n for (point, name), s in self.spaces.items() if point == first}
        )

    def headline(self) -> list[str]:
        """The layer whose tokens point most alike, and the dimension that makes them."""
        known = {
            point: space.cosines
            for (point, selection), space in self.spaces.items()
            if selection == LEADING and space.cosines is not None
        }
        finite = {point: found for point, found in known.items() if np.isfinite(found.value)}
        if not finite:
            why = "some values are not finite" if known else "there are too few words"
            return [f"The angle between two words is not known: {why}."]
        point = max(finite, key=lambda p: finite[p].value)
        space, found = self.spaces[point, LEADING], finite[point]
        said = "Two tokens have an expected cosine of "
        said += with_interval(found.value, found.low, found.high, 2)
        said += f" at {place(point, self.layers[point])}, the most of all points"
        most = int(found.contribution.argmax())
        if found.value > 0:
            said += (
                f"; dimension {most} gives {percent(found.contribution[most] / found.value)} of it"
            )
        if space.cosines_left_out is not None and space.left_out:
            word = "dimension" if len(space.left_out) == 1 else "dimensions"
            said += (
                f". Without {word} {listing(space.left_out)} at the read-out it is "
                f"{number(space.cosines_left_out.value, 2)}"
            )
        return [f"{said}."]

    def cautions(self) -> list[str]:
        """Values that are not finite, intervals that are missing, fewer tokens than dimensions."""
        moments = [s.moments for (_, name), s in self.spaces.items() if name == "all"]
        said = nonfinite_values(
            moments, "cosines, variances and ratios of the tokens that have them are not known"
        )
        blocks = [
            space.cosines.blocks
            for (_, selection), space in self.spaces.items()
            if selection == LEADING and space.cosines is not None
        ]
        said += few_blocks(min(blocks)) if blocks else []
        few = [
            point
            for (point, selection), space in self.spaces.items()
            if selection == LEADING and space.scatter and space.scatter.n < len(space.scatter.mean)
        ]
        if few:
            said.append(
                f"There are fewer tokens than dimensions at {listing(few)}: IsoScore, effective "
                "rank and participation ratio are biased low."
            )
        return said


def _add_cosines(rows: TidyRows, space: Space, at: Any) -> None:
    both = (("cosine", space.cosines), ("cosine_left_out", space.cosines_left_out))
    for name, found in both:
        if found is None:
            rows.add(name, np.nan, reason="fewer than two tokens", **at)
            continue
        reason = "" if np.isfinite(found.value) else "nonfinite values"
        rows.add(name, found.value, low=found.low, high=found.high, n=found.n, reason=reason, **at)
    if (found := space.cosines) is not None:
        reasons = np.where(np.isfinite(found.contribution), "", "nonfinite values")
        rows.add("cosine_contribution", found.contribution, n=found.n, reason=reasons, **at)


def _add_sizes(rows: TidyRows, space: Space, at: Any) -> None:
    variance = np.asarray(space.moments.variance, np.float64)
    share = variance / (np.nansum(variance) or np.nan)
    n = space.moments.n
    mean = np.asarray(space.moments.mean, np.float64)
    low, high, missing = _ends(
        space, share, (0, 1), lambda means: means / means.sum(), variance, lambda x: (x - mean) ** 2
    )
    reasons = np.where(np.isfinite(share), missing, "nonfinite or constant values")
    rows.add("variance_share", share, low=low, high=high, n=n, reason=reasons, **at)
    every = np.arange(len(variance))
    both = (("", every), ("_left_out", np.setdiff1d(every, space.left_out)))
    for suffix, kept in both:
        squares = space.squares[kept]
        value = kurtosis_he(squares)
        low, high, missing = _ends(
            space, value, (1, len(kept)), _unequal, squares, lambda x: x**2, kept
        )
        reason = missing if np.isfinite(value) else "no finite size over 0"
        rows.add(f"kurtosis_he{suffix}", value, low=low, high=high, n=n, reason=reason, **at)
    means = space.ratios.means
    for name, value, low, high in zip(RATIOS, means.value, *means.interval(), strict=True):
        reason = "" if np.isfinite(value) else "no token was sampled, or nonfinite values"
        rows.add(name, value, low=low, high=high, n=space.ratios.n, reason=reason, **at)


def _unequal(squares: Tensor) -> Tensor:
    """As `kurtosis_he`."""
    return squares.square().mean() / squares.mean().square()


def _ends(
    space: Space,
    value: Floats | float,
    limits: tuple[float, float],
    statistic: Callable[[Tensor], Tensor],
    means: Floats,
    parts: Callable[[Floats], Floats],
    kept: NDArray[np.int64] | slice = slice(None),
) -> tuple[Floats | float, Floats | float, str]:
    """Low and high end of a statistic of means over all tokens, and why they are not known.

    Args:
        space: Where the sample is.
        value: Of the statistic.
        limits: Its smallest and its largest value.
        statistic: Of means [K].
        means: Those of all tokens.
        parts: What these are the means of, [n, D], of hidden states [n, D].
        kept: Those K of the D dimensions.
    """
    if space.sampled is None:
        return np.nan, np.nan, NO_SAMPLE
    if missing := space.sampled.no_interval:
        return np.nan, np.nan, missing
    tensors = torch.from_numpy(means), torch.from_numpy(parts(space.sampled.rows)[:, kept])
    reach = space.sampled.reach(influence(statistic, *tensors))
    if not np.isfinite(reach).all():
        return np.nan, np.nan, "no interval: nonfinite values"
    return np.clip(value - reach, *limits), np.clip(value + reach, *limits), ""


def _add_directions(rows: TidyRows, space: Space, at: Any) -> None:
    if space.scatter is None:
        return
    for suffix, found in zip(("", "_left_out"), space.directions, strict=True):
        for name, (value, low, high, reason) in found.numbers():
            rows.add(
                f"{name}{suffix}", value, low=low, high=high, n=space.scatter.n, reason=reason, **at
            )
