"""The life of a dimension: birth, peak, plateau and fall, found in its sizes by layer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

#: A dimension whose largest values are nowhere so many times those of the median dimension is like
#: any other: it has no birth.
STANDS_OUT = 3.0
#: What the plateau is: where the size is at least this share of that at the peak.
_PLATEAU = 0.5
#: A rise is to so many times what the dimension was.
_GROWTH = 2.0


@dataclass(frozen=True)
class Rise:
    """A layer that writes a dimension: where `spike_times` grows by the largest factor of a rise.

    Attributes:
        layer: 0 for the embeddings.
        factor: That factor.
        branch: What adds most there at the token where |h| is largest behind it: ``embeddings``,
            ``attention``, ``mlp``, ``norms``, or ``not known``.
        took, attention, mlp, rest: What the block took and what each added, in the direction of h.
        added, added_low, added_high: The largest of the last three, with its interval.
        before: The largest |h| of a sequence in the state before, on average; NaN for the
            embeddings.
        size, size_low, size_high: The same behind it.
        top, top_size: The last layer of the rise, and the size there.
    """

    layer: int
    factor: float
    branch: str
    took: float
    attention: float
    mlp: float
    rest: float
    added: float
    added_low: float
    added_high: float
    before: float
    size: float
    size_low: float
    size_high: float
    top: int
    top_size: float


@dataclass(frozen=True)
class Life:
    """The life of a dimension; layers are those of the states, 0 the embeddings.

    Attributes:
        dim: Its number.
        rises: The layers that write it; none where it nowhere reaches `STANDS_OUT`.
        agreement: Share of the samples without one block of documents with the same birth.
        peak: Layer where the largest |h| of a sequence, on average, is largest.
        size, low, high: How large, with its interval.
        times, times_low, times_high: That over the median dimension's.
        plateau: First and last layer around the peak with at least half of that size.
        fell: The layer after the plateau; None where it lasts to the end, and where its size behind
            the plateau is not finite.
        fall_branch: What takes most away there, as ``branch``; empty where it lasts to the end,
            ``not known`` where its size behind the plateau is not finite.
        size_final: After the final norm; None where there is none.
        times_final: The same over that of the median dimension.
        kind: The kind of tokens with most of the sum of h^2 at the peak; empty where h is 0 or not
            finite there.
        kind_share, kind_low, kind_high: How much of it.
        positive, positive_low, positive_high: Share of the sum of h^2 at the peak where h > 0.
        norm: The tensor that a norm takes where the dimension's share is largest.
        norm_share, norm_low, norm_high: Largest share of a sequence there, on average; None where
            no norm takes any.
    """

    dim: int
    rises: tuple[Rise, ...]
    agreement: float
    peak: int
    size: float
    low: float
    high: float
    times: float
    times_low: float
    times_high: float
    plateau: tuple[int, int]
    fell: int | None
    fall_branch: str
    size_final: float | None
    times_final: float | None
    kind: str
    kind_share: float
    kind_low: float
    kind_high: float
    positive: float
    positive_low: float
    positive_high: float
    norm: str
    norm_share: float | None
    norm_low: float | None
    norm_high: float | None

    @property
    def born(self) -> Rise | None:
        """The first of its rises."""
        return self.rises[0] if self.rises else None


@dataclass(frozen=True)
class Course:
    """Rises, peak, plateau and fall as indices of states, from sizes [P] and times [P].

    Attributes:
        rises: Layer, factor and last layer of each rise: a run of layers in which times grows, to
            at least twice what it was and to `STANDS_OUT`; its layer is that of the largest factor.
            Before the embeddings times is 1. A dimension that stands out without such a run has the
            layer of the largest factor up to its peak, first and last at once.
        peak, plateau, fell: As of `Life`.
    """

    rises: tuple[tuple[int, float, int], ...]
    peak: int
    plateau: tuple[int, int]
    fell: int | None

    @classmethod
    def of(cls, size: Floats, times: Floats) -> Course:
        """Of one dimension.

        >>> Course.of(np.array([1.0, 9, 300, 310, 2]), np.array([1.0, 3, 60, 50, 1]))
        Course(rises=((2, 20.0, 2),), peak=3, plateau=(2, 3), fell=4)
        """
        known = np.isfinite(size)
        if not known.any():
            return cls((), 0, (0, 0), None)
        peak = int(np.where(known, size, -1).argmax())
        first = last = peak
        while first > 0 and size[first - 1] >= _PLATEAU * size[peak]:
            first -= 1
        while last + 1 < len(size) and size[last + 1] >= _PLATEAU * size[peak]:
            last += 1
        fell = last + 1 if last + 1 < len(size) and known[last + 1] else None
        return cls(_rises(times, peak), peak, (first, last), fell)


def _rises(times: Floats, peak: int) -> tuple[tuple[int, float, int], ...]:
    """Layer, factor and last layer of each rise, see `Course`."""
    if not np.nan_to_num(times, nan=0).max() >= STANDS_OUT:
        return ()
    before = np.concatenate([[1.0], times[:-1]])
    with np.errstate(invalid="ignore", divide="ignore"):
        factors = np.nan_to_num(times / before, nan=0)
    growing = np.concatenate([[False], factors > 1, [False]])
    starts, ends = (np.flatnonzero(growing[:-1] < growing[1:]),
                    np.flatnonzero(growing[:-1] > growing[1:]))  # fmt: skip
    runs = [
        (int(start + factors[start:end].argmax()), int(end - 1))
        for start, end in zip(starts, ends, strict=True)
        if times[end - 1] >= max(STANDS_OUT, _GROWTH * before[start])
    ]
    runs = runs or [(int(factors[: peak + 1].argmax()),) * 2]
    return tuple((layer, float(factors[layer]), last) for layer, last in runs)
