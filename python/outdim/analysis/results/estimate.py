"""A value with what it is worth: its interval, and what chance gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from outdim.text import number, p_in_words, with_interval

Floats = NDArray[np.float64]

#: A p above this says that chance gives as much.
CHANCE = 0.05


@dataclass(frozen=True)
class Estimate:
    """Values of a statistic, all arrays of one shape, float64.

    Attributes:
        value: NaN where it is not defined.
        low, high: Ends of the interval; None where there is none.
        null: What chance gives; None where that is not known.
        p: Of the value under that chance.
    """

    value: Floats
    low: Floats | None = None
    high: Floats | None = None
    null: Floats | None = None
    p: Floats | None = None

    def __getitem__(self, index: Any) -> Estimate:
        """The estimate of some of the values, or of one."""
        return Estimate(**{name: part[index] for name, part in self.parts().items()})

    def parts(self) -> Mapping[str, Floats]:
        """The arrays that there are, by name."""
        found = {part.name: getattr(self, part.name) for part in fields(self)}
        return {name: part for name, part in found.items() if part is not None}

    def worth(self) -> Mapping[str, Any]:
        """All but the value: arguments of `outdim.analysis.table.TidyRows.add`."""
        return {name: part for name, part in self.parts().items() if name != "value"}

    def words(self, digits: int = 2) -> str:
        """One value, and its interval where there is one.

        Example:
            >>> Estimate(np.float64(0.762), np.float64(0.62), np.float64(0.831)).words()
            '0.76 [0.62, 0.83]'
        """
        if self.low is None or self.high is None or not np.isfinite([self.low, self.high]).all():
            return number(float(self.value), digits)
        return with_interval(float(self.value), float(self.low), float(self.high), digits)

    def chance(self) -> str:
        """How one value compares with chance, in words; "" where nothing is known of that.

        Example:
            >>> Estimate(np.float64(0.47), p=np.float64(0.76)).chance()
            'no more than chance gives (p = 0.760)'
        """
        more = self._rare_by_chance
        if more is None:
            return ""
        p = np.nan if self.p is None else float(self.p)
        null = np.nan if self.null is None else float(self.null)
        why = p_in_words(p) if np.isfinite(p) else f"which reaches {number(null, 2)}"
        if more and self._may_be_none:
            return f"not surely more than chance gives, since the interval holds 0 ({why})"
        return f"{'more' if more else 'no more'} than chance gives ({why})"

    @property
    def beyond_chance(self) -> bool | None:
        """Whether one value is more than chance gives; None where nothing is known of that."""
        more = self._rare_by_chance
        return None if more is None else more and not self._may_be_none

    @property
    def _may_be_none(self) -> bool:
        """Whether 0 is within the interval of one value."""
        if self.low is None or self.high is None:
            return False
        return bool(self.low <= 0 <= self.high)

    @property
    def _rare_by_chance(self) -> bool | None:
        if self.p is not None and np.isfinite(self.p):
            return bool(self.p <= CHANCE)
        if self.null is not None and np.isfinite(self.null):
            return bool(np.abs(self.value) > np.abs(self.null))
        return None
