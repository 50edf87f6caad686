"""Covariance matrices of hidden states at many points, taken from whole forwards only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Self

import torch
from torch import Tensor

from outdim.errors import DataError
from outdim.stats.named import check_points

#: Columns of a product at a time: as many as a matrix product of torch is still fast with.
_COLUMNS = 256
#: Rows of a product at least, but for the last ones.
_ROWS = 1024


class Scatter(NamedTuple):
    """Sums over n rows: the mean [D], and the products of deviations from it [D, D], float64."""

    n: int
    mean: Tensor
    products: Tensor

    @classmethod
    def of(cls, rows: Tensor) -> Scatter:
        """That of rows [N, D].

        Products of matrices, float32 but for float64 rows; what is added to them is float64. The
        relative error is that of the rows, about 1e-6.
        """
        rows = rows if rows.dtype == torch.float64 else rows.float()
        ones = rows.new_ones(1, len(rows))
        pivot = (ones @ rows)[0] / len(rows)
        deviations = rows - pivot
        rest = (ones @ deviations)[0].double() / len(rows)  # what rounding left of the mean
        products = _squared(deviations).double().addr_(rest, rest, alpha=-len(rows))
        return cls(len(rows), pivot + rest, products)

    @torch.inference_mode()  # what a pass took cannot be changed in place outside of it
    def with_later(self, later: Scatter) -> Scatter:
        """With later rows (Chan et al. 1983), on their device; uses up the memory of these."""
        n = self.n + later.n
        mean, products = (part.to(later.mean.device) for part in self[1:])
        delta = later.mean - mean
        products.add_(later.products).addr_(delta, delta, alpha=self.n * later.n / n)
        return Scatter(n, mean + delta * (later.n / n), products)

    @property
    def covariance(self) -> Tensor:
        """Products over n, [D, D]."""
        return self.products / self.n


class PointCovariances:
    """A `Scatter` per (point, group of tokens).

    Rows are kept until there are `_ROWS` of a group: a product of few rows costs as much memory
    traffic as one of many. Memory: 8 D² bytes a point and group, twice over while rows are added,
    and the rows that wait: fewer than `_ROWS` and those of a batch.

    Args:
        points: Names of the points; others are left alone.
        groups: Names of the groups; group g of the rows is ``groups[g - 1]``, 0 is left out.
    """

    def __init__(self, points: Sequence[str], groups: Sequence[str]) -> None:
        self.points, self.groups = tuple(points), tuple(groups)
        self._kept: dict[tuple[str, str], Scatter] = {}  # of whole forwards
        self._waiting: dict[tuple[str, str], list[Tensor]] = {}  # of whole forwards, behind it
        self._pending: dict[tuple[str, str], Tensor] = {}  # of the one under way
        self._rows: dict[str, Tensor] = {}

    def begin(self, ids: Tensor, group: Tensor, rows: Tensor | None = None) -> None:
        """The next forward has N rows: group [N] uint8."""
        self._pending.clear()
        self._rows = {name: (group == 1 + g).nonzero()[:, 0] for g, name in enumerate(self.groups)}

    def add(self, point: str, hidden: Tensor) -> None:
        """Take ``hidden`` [..., D] of a point."""
        if point not in self.points:
            return
        hidden = hidden.reshape(-1, hidden.shape[-1])
        for name, rows in self._rows.items():
            if len(rows):
                self._pending[point, name] = hidden.index_select(0, rows)

    def commit(self) -> None:
        """The forward is complete: what it gave counts."""
        for key, rows in self._pending.items():
            self._waiting.setdefault(key, []).append(rows)
        self._pending.clear()
        self._take_waiting(at_least=_ROWS)

    def _take_waiting(self, at_least: int = 1) -> None:
        """Add the rows that wait, where there are so many of a point and group."""
        for key, parts in self._waiting.items():
            if sum(map(len, parts)) >= at_least:
                self._append(key, Scatter.of(torch.cat(parts) if len(parts) > 1 else parts[0]))
                parts.clear()

    def _append(self, key: tuple[str, str], later: Scatter) -> None:
        before = self._kept.get(key)
        self._kept[key] = later if before is None else before.with_later(later)

    def discard(self) -> None:
        """The forward failed: nothing of it counts."""
        self._pending.clear()

    def scatter(self, point: str, groups: Sequence[str]) -> Scatter | None:
        """That of several groups together, on the CPU; None where there is no row."""
        self._take_waiting()
        total: Scatter | None = None
        for group in groups:
            if found := self._kept.get((point, group)):
                found = Scatter(found.n, found.mean.cpu(), found.products.cpu().clone())
                total = found if total is None else total.with_later(found)
        return total

    def state_dict(self) -> dict[str, Tensor]:
        """Flat tensors on the CPU: ``<point>/<group>/n``, ``mean`` [D] and ``products`` [D, D]."""
        self._take_waiting()
        state = {}
        for (point, group), found in self._kept.items():
            at = f"{point}/{group}"
            state[f"{at}/n"] = torch.tensor(found.n)
            state[f"{at}/mean"] = found.mean.to("cpu", copy=True)
            state[f"{at}/products"] = found.products.to("cpu", copy=True)
        return state

    def merge(self, state: Mapping[str, Tensor]) -> Self:
        """Merge what `state_dict` of another one gave, as of later rows.

        Raises:
            DataError: A state of other points or groups, or of another D; nothing was merged.
        """
        self._take_waiting()
        behind = {}
        fields = [f"{group}/{field}" for group in self.groups for field in Scatter._fields]
        check_points(state, self.points, fields)
        for point in self.points:
            for group in self.groups:
                at = f"{point}/{group}"
                if f"{at}/n" not in state:
                    continue
                later = Scatter(
                    int(state[f"{at}/n"]),
                    *(state[f"{at}/{field}"].clone() for field in Scatter._fields[1:]),
                )
                mine = self._kept.get((point, group))
                size = len(later.mean) if mine is None else len(mine.mean)
                if later.products.shape != (size, size) or later.mean.shape != (size,):
                    raise DataError(f"state: damaged: {at}: expected D = {size}, got others")
                if mine is not None:
                    device = mine.mean.device
                    later = Scatter(later.n, later.mean.to(device), later.products.to(device))
                behind[point, group] = later
        for key, later in behind.items():
            self._append(key, later)
        return self


def _squared(rows: Tensor) -> Tensor:
    """The product of the columns of rows [N, D] with each other, [D, D]; half is computed."""
    products = rows.new_empty(rows.shape[1], rows.shape[1])
    for start in range(0, rows.shape[1], _COLUMNS):
        mine = slice(start, start + _COLUMNS)
        part = rows[:, start:].T @ rows[:, mine]
        products[start:, mine] = part
        products[mine, start:] = part.T
    return products
