"""Ablation: which dimensions are changed, where, and how, as plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import chain
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from outdim.errors import ArgumentError
from outdim.text import layers_in_words, together

At = Literal["parameters", "state", "denominator", "readers"]
Mode = Literal["zero", "mean", "scale", "resample", "clip"]
Only = Literal["gamma", "beta"]

#: Numbers for dimensions, by mode: one for all, [k], [layers, k], or [layers, samples, k].
Numbers = float | tuple[Any, ...]
_MOST_AXES = {"scale": 1, "clip": 1, "mean": 2, "resample": 3}
_FEW = 6  # dimensions that a label spells out


@dataclass(frozen=True)
class GroupValues:
    """Values by group of tokens (`outdim.tokens.GROUPS`), for an edit of mode mean or resample.

    Decoders put massive activations on the first token of a sequence: one mean for all tokens would
    be neither that of the first nor that of the others.

    Attributes:
        text, first, special: As `Ablation.value`; None leaves the tokens of that group as they are.
        special_ids: Ids of the special tokens; values of theirs need them.

    Raises:
        ArgumentError: No values at all, or values of special tokens without their ids.
    """

    text: Numbers | None = None
    first: Numbers | None = None
    special: Numbers | None = None
    special_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for one in fields(self):
            object.__setattr__(self, one.name, _plain(getattr(self, one.name)))
        if all(value is None for value in self.by_group.values()):
            raise ArgumentError("value: expected values of at least one group of tokens, got none")
        if self.special is not None and not self.special_ids:
            raise ArgumentError(
                "special_ids: expected the ids of the special tokens, whose values are given, got "
                "none"
            )

    @property
    def by_group(self) -> dict[str, Numbers | None]:
        """The values by the name of the group."""
        return {"text": self.text, "first": self.first, "special": self.special}


@dataclass(frozen=True)
class Ablation:
    """Dimensions of a model that are changed while it runs; see `outdim.ablate`.

    Plain data: ``dataclasses.asdict`` gives what JSON can hold, and ``Ablation(**that)`` the same
    again.

    >>> Ablation([308, 381], at="parameters").label
    '308+381 off (parameters)'
    >>> Ablation([507], layers=[3], mode="scale", value=0.5).label
    '507 times 0.5 (state, layer 3)'

    Attributes:
        dims: Dimensions, the same in every layer; or one tuple of them for each of `layers`.
        layers: 0 for the embeddings, i + 1 for the output of block i; None for all blocks.
        at: "state", "parameters", "denominator" or "readers".
        mode: "zero", "mean", "scale", "resample" or "clip".
        value: What the mode needs: a number, one for each dimension, or for each layer and
            dimension (mean), or samples [layers, samples, dims] (resample); `GroupValues` of such.
        only: Of the parameters, "gamma" or "beta" alone.
        name: For people, in the place of the dimensions; "" spells them out.

    Raises:
        ArgumentError: Anything that no model could do.
    """

    dims: tuple[int, ...] | tuple[tuple[int, ...], ...]
    layers: tuple[int, ...] | None = None
    at: At = "state"
    mode: Mode = "zero"
    value: Numbers | GroupValues | None = None
    only: Only | None = None
    name: str = ""

    def __post_init__(self) -> None:
        for name, kind in (("at", At), ("mode", Mode), ("only", Only)):
            given = getattr(self, name)
            if given not in get_args(kind) and not (name == "only" and given is None):
                expected = ", ".join(map(repr, get_args(kind)))
                raise ArgumentError(f"{name}: expected one of {expected}, got {given!r}")
        if self.layers is not None:
            object.__setattr__(self, "layers", _numbers("layers", self.layers))
        object.__setattr__(self, "dims", self._checked_dims())
        if isinstance(self.value, Mapping):
            object.__setattr__(self, "value", GroupValues(**self.value))
        elif not isinstance(self.value, GroupValues):
            object.__setattr__(self, "value", _plain(self.value))
        if self.only and self.at not in ("parameters", "readers"):
            raise ArgumentError(
                f"only: {self.only!r} is a parameter of a norm; it goes with at='parameters' or "
                f"'readers', got at={self.at!r}"
            )
        if self.at == "denominator" and self.mode in ("mean", "resample"):
            raise ArgumentError(
                f"mode: expected 'zero', 'scale' or 'clip' for at='denominator', got "
                f"{self.mode!r}: what a norm takes is not the hidden state whose values are known"
            )
        self._check_value()

    @classmethod
    def of(cls, given: Ablation | int | Sequence[int]) -> Ablation:
        """An ablation as it is; dimensions as one of the state that sets them to zero."""
        return given if isinstance(given, Ablation) else cls(given)  # type: ignore[arg-type]

    @property
    def by_layer(self) -> bool:
        """Whether every layer has dimensions of its own."""
        return isinstance(self.dims[0], tuple)

    @property
    def one_set(self) -> tuple[int, ...]:
        """The dimensions, where they are the same in every layer.

        Raises:
            ArgumentError: They are not.
        """
        if self.by_layer:
            raise ArgumentError(
                "dims: expected the same in every layer, got others for each; take an ablation a "
                "layer"
            )
        dims: Any = self.dims
        return tuple(dims)

    @property
    def all_dims(self) -> tuple[int, ...]:
        """Every dimension that is changed anywhere, in order."""
        return tuple(sorted(set(chain.from_iterable(self.rows(1)))))

    def rows(self, layers: int) -> tuple[tuple[int, ...], ...]:
        """The dimensions of each layer, of as many as the ablation has in a model."""
        rows: Any = self.dims if self.by_layer else (self.dims,) * layers
        return tuple(rows)

    @property
    def label(self) -> str:
        """What is done, in a few words."""
        what = self.name or together(self.all_dims, _FEW)
        if self.by_layer and not self.name:
            what = f"{len(self.all_dims)} dimensions, others in each layer,"
        plain = not isinstance(self.value, tuple | GroupValues) and self.value is not None
        number = f" {self.value:g}" if plain else ""
        done = {
            "zero": "off",
            "mean": f"at{number}" if plain else "at their mean",
            "scale": f"times{number or ' factors'}",
            "resample": "resampled",
            "clip": f"clipped to{number or ' bounds'}",
        }[self.mode]
        where = [f"{self.only} of {self.at}" if self.only else self.at]
        if self.layers is not None:
            where.append(layers_in_words(self.layers))
        return f"{what} {done} ({', '.join(where)})"

    def _checked_dims(self) -> tuple[int, ...] | tuple[tuple[int, ...], ...]:
        dims = _plain(self.dims)
        if not isinstance(dims, tuple) or not any(isinstance(one, tuple) for one in dims):
            return _numbers("dims", dims)
        rows = tuple(_numbers("dims", row, empty=True) for row in dims)
        if self.layers is None or len(rows) != len(self.layers):
            raise ArgumentError(
                f"dims: expected one row for each of `layers`, got {len(rows)} rows for "
                f"{'no' if self.layers is None else len(self.layers)} layers"
            )
        if not any(rows):
            raise ArgumentError("dims: expected at least one dimension, got none")
        return rows

    def _check_value(self) -> None:
        mode, value, of_norm = self.mode, self.value, self.at in ("parameters", "readers")
        if mode == "zero" or (of_norm and mode == "mean"):
            if value is not None:
                said = "0" if mode == "zero" else "the mean of the other parameters of the norm"
                raise ArgumentError(f"value: mode={mode!r} takes none here ({said}), got {value!r}")
            return
        if of_norm and mode == "resample":
            if value is not None and not isinstance(value, int):
                raise ArgumentError(f"value: expected an int, the seed, got {value!r}")
            return
        if value is None:
            raise ArgumentError(f"value: mode={mode!r} needs one, {_HOW[mode]}; got None")
        if isinstance(value, GroupValues):
            if mode not in ("mean", "resample"):
                raise ArgumentError(f"value: mode={mode!r} takes no values by group of tokens")
            given = [one for one in value.by_group.values() if one is not None]
        else:
            given = [value]
        for numbers in given:
            self._check_numbers(_array(numbers))

    def _check_numbers(self, array: NDArray[np.float64]) -> None:
        most = _MOST_AXES[self.mode]
        if array.ndim > most or (self.mode == "resample" and array.ndim != most):
            raise ArgumentError(
                f"value: expected {_HOW[self.mode]}, got numbers of shape {array.shape}"
            )
        if not np.isfinite(array).all() or (self.mode == "clip" and (array < 0).any()):
            kind = "bounds >= 0" if self.mode == "clip" else "finite numbers"
            raise ArgumentError(f"value: expected {kind}, got {self.value!r}")
        if array.ndim and (self.by_layer or array.shape[-1] != len(self.dims)):
            expected = "a single number" if self.by_layer else f"{len(self.dims)}, one a dimension"
            raise ArgumentError(f"value: expected {expected}, got {array.shape[-1]} of them")
        if array.ndim > 1 and (self.layers is None or len(array) != len(self.layers)):
            given = "None" if self.layers is None else f"{len(self.layers)} of them"
            raise ArgumentError(
                f"value: {len(array)} layers of numbers go with as many `layers`, got {given}"
            )


_HOW = {
    "scale": "a factor, or one for each dimension",
    "clip": "a bound, or one for each dimension",
    "mean": "a number, [dims] or [layers, dims]; outdim.models.with_means gives those of a text",
    "resample": "samples [layers, samples, dims]; outdim.models.with_samples gives those of a text",
}


def _plain(value: Any) -> Any:
    """Numbers of lists, arrays and tensors as nested tuples of Python's own."""
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, Sequence) and not isinstance(value, str):  # range among them
        return tuple(_plain(one) for one in value)
    return value


def _array(numbers: Any) -> NDArray[np.float64]:
    try:
        return np.asarray(numbers, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"value: expected numbers, got {numbers!r}") from error


def _numbers(name: str, given: Any, *, empty: bool = False) -> tuple[int, ...]:
    """Whole numbers >= 0, each once."""
    given = _plain(given)
    found = given if isinstance(given, tuple) else (given,)
    if wrong := [one for one in found if isinstance(one, bool) or not isinstance(one, int)]:
        raise ArgumentError(f"{name}: expected whole numbers, got {wrong[0]!r}")
    if not found and not empty:
        raise ArgumentError(f"{name}: expected at least one, got none")
    if negative := [one for one in found if one < 0]:
        raise ArgumentError(f"{name}: expected numbers >= 0, got {negative[0]}")
    if len(set(found)) < len(found):
        twice = next(one for one in found if found.count(one) > 1)
        raise ArgumentError(f"{name}: expected each once, got {twice} more than once")
    return found
