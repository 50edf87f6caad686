"""What is exchanged, drawn or left out as a whole: types, or buckets of types alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from outdim.errors import ArgumentError, DataError
from outdim.stats.covariates import Covariates
from outdim.stats.type_buckets import TypeBuckets

Of = Literal["h", "abs"]
Array = NDArray[np.float64]

# Sums of squares carry a rounding error of about 2^-52 of themselves, times the number of additions
# at worst; below this share of them a variance is noise.
_NOISE = 2.0**-40


@dataclass(frozen=True, eq=False)
class Profiles:
    """Sums of one point by unit, about the mean over all tokens.

    Attributes:
        first: Sum of y - mean y by unit, [U, D].
        second: Sum of (y - mean y)^2 by unit, [U, D].
        total: Sum of ``second``, [D]; NaN where ``reason`` says why.
        reason: "", "nonfinite values", "constant dimension" or "fewer than two tokens", [D].
    """

    first: Array
    second: Array
    total: Array
    reason: NDArray[np.str_]


@dataclass(frozen=True, eq=False)
class TypeUnits:
    """Tokens, covariates and sums by unit: a type, or a bucket of types alike in frequency.

    An r over tokens is r = sum n_u (x_u - x) (y_u - y) / sqrt(S_xx S_yy) of the means y_u of units,
    with S_yy over all tokens: exact where units are types, and else off by what x varies within
    buckets (`lost`), which is little for the counts that the buckets were made from.

    Attributes:
        names: K names of the covariates.
        ids: Token id of each unit, -1 for a bucket of several types, int64 [U].
        n: Tokens, [U].
        types: Types that occur, [U].
        effective: n^2 / sum n_t^2 over the types t of a unit, [U]: a mean over them varies as one
            over so many types with equally many tokens.
        inverse: Mean of 1 / n_t over its types, [U].
        stratum: Stratum of each unit (`TypeBuckets.stratum`), int64 [U].
        x: Mean of each covariate over the tokens of a unit, [K, U].
        lost: Share of the variance of each covariate that lies within units, [K].
        sums: Of h, |h| and h^2 by point, [U, 3, D].
    """

    names: tuple[str, ...]
    ids: NDArray[np.int64]
    n: Array
    types: Array
    effective: Array
    inverse: Array
    stratum: NDArray[np.int64]
    x: Array
    lost: Array
    sums: Mapping[str, Array]

    @classmethod
    def of_table(
        cls, state: Mapping[str, Tensor], buckets: TypeBuckets, covariates: Covariates
    ) -> TypeUnits:
        """Units of what `TypeTable.state_dict` gave.

        Args:
            state: Of a table with these buckets.
            buckets: Of the token ids.
            covariates: By token id, [K, V]; those of the run or any others. Row covariates, which
                no type has, are left out.

        Raises:
            DataError: A state of other buckets.
            ArgumentError: Covariates of another vocabulary.
        """
        if not np.array_equal(state["digest"].numpy(), buckets.digest.numpy()):
            raise DataError("state: it was accumulated with other buckets of token ids")
        suffix = "/sums"
        sums = {
            key.removesuffix(suffix): tensor.numpy()
            for key, tensor in state.items()
            if key.endswith(suffix)
        }
        ids = np.flatnonzero(state["tokens"].numpy())
        present, unit = np.unique(buckets.bucket[ids], return_inverse=True)
        return cls._of(
            ids, state["tokens"].numpy()[ids], unit, buckets.stratum[present], sums, covariates
        )

    @classmethod
    def of_types(
        cls,
        ids: NDArray[np.int64],
        tokens: NDArray[np.int64],
        sums: Mapping[str, Array],
        covariates: Covariates,
    ) -> TypeUnits:
        """Units of single types: ids [U], how often each was seen [U], sums [U, 3, D] by point."""
        unit = np.arange(len(ids))
        return cls._of(ids, tokens, unit, np.zeros(len(ids), np.int64), sums, covariates)

    @classmethod
    def _of(
        cls,
        ids: NDArray[np.int64],
        tokens: NDArray[np.int64],
        unit: NDArray[np.int64],
        stratum: NDArray[np.int64],
        sums: Mapping[str, Array],
        covariates: Covariates,
    ) -> TypeUnits:
        """Units of types ``ids`` seen ``tokens`` times, type i in unit ``unit[i]``."""
        table = covariates.table.cpu().numpy()
        if len(ids) and ids.max() >= table.shape[1]:
            raise ArgumentError(
                f"covariates: expected a column for each of the {ids.max() + 1} token ids, got "
                f"{table.shape[1]}"
            )
        size, nt = len(stratum), tokens.astype(np.float64)

        def total(values: Array) -> Array:
            return np.asarray(np.bincount(unit, values, size), np.float64)

        n, types = total(nt), total(np.ones_like(nt))
        by_type = table[:, ids]
        centred = by_type - (by_type @ nt / max(nt.sum(), 1))[:, None]
        x = np.array([total(row) for row in nt * centred]).reshape(len(table), size) / n
        whole, between = nt @ centred.T**2, n @ x.T**2
        with np.errstate(invalid="ignore"):
            lost = np.where(whole > 0, 1 - between / whole, 0).clip(0)
        return cls(
            names=covariates.names,
            ids=np.where(types == 1, np.bincount(unit, ids, size), -1).astype(np.int64),
            n=n,
            types=types,
            effective=n**2 / total(nt**2),
            inverse=total(1 / nt) / types,
            stratum=stratum,
            x=x,
            lost=lost,
            sums=sums,
        )

    @property
    def points(self) -> tuple[str, ...]:
        """Names of the points."""
        return tuple(self.sums)

    def width(self, point: str) -> int:
        """Dimensions of a point, 0 where there is none such."""
        return self.sums[point].shape[2] if point in self.sums else 0

    @cached_property
    def weights(self) -> Array:
        """n_u x_u / sqrt(S_xx), [K, U], x about its mean; NaN where a covariate is constant."""
        norm = np.sqrt(self.x**2 @ self.n)[:, None]
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(norm > 0, self.n * self.x / norm, np.nan)

    def index(self, covariate: str) -> int:
        """Row of a covariate in what has K of them.

        Raises:
            ArgumentError: No such covariate.
        """
        if covariate not in self.names:
            raise ArgumentError(
                f"covariate: expected one of {', '.join(self.names)}, got {covariate!r}"
            )
        return self.names.index(covariate)

    def profiles(
        self, point: str, of: Of = "abs", dims: slice | Sequence[int] = slice(None)
    ) -> Profiles:
        """Sums of h or |h| at a point, of all dimensions or some.

        Raises:
            ArgumentError: No such point or dimension, or another ``of`` than "h" and "abs".
        """
        if point not in self.sums:
            raise ArgumentError(f"point: expected one of {', '.join(self.sums)}, got {point!r}")
        if of not in ("h", "abs"):
            raise ArgumentError(f'of: expected "h" or "abs", got {of!r}')
        width = self.width(point)
        if not isinstance(dims, slice):
            dims = list(dims)
            if bad := [d for d in dims if not 0 <= d < width]:
                raise ArgumentError(f"dims: expected 0 to {width - 1}, got {bad[0]}")
        sums = self.sums[point][:, :, dims]
        y, squares = sums[:, 0 if of == "h" else 1], sums[:, 2]
        n = self.n[:, None]
        with np.errstate(invalid="ignore"):
            mean = y.sum(0) / max(self.n.sum(), 1)
            first = y - n * mean
            second = np.maximum(squares - mean * (y + first), 0)
            total = second.sum(0)
            constant = total <= _NOISE * squares.sum(0)
        reason = np.full(len(total), "", dtype="<U21")
        reason[constant] = "constant dimension"
        reason[~np.isfinite(total)] = "nonfinite values"
        if self.n.sum() < 2:
            reason[:] = "fewer than two tokens"
        return Profiles(first, second, np.where(reason == "", total, np.nan), reason)
