"""Outlier dimensions by given norm parameters, and how often the rule finds them by chance."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from outdim.analysis.results.cautions import Doubt
from outdim.analysis.step import Result
from outdim.analysis.table import TidyRows
from outdim.errors import ArgumentError, DataError
from outdim.text import listing, number

Rule = Literal["kovaleva2021", "puccetti2022"]
Array = NDArray[np.float64]

# "count > 3" of the published code (outliersvsfreq, parameter_access.py): an absolute number of
# layers.
_PUCCETTI_MIN_LAYERS = 4

_NAMED_DIMS = 20
_MANY_BY_CHANCE = 0.1


@dataclass(frozen=True)
class FalsePositives:
    """How often the rule fires by chance, over permutations of dimension positions.

    Attributes:
        permutations: Number of permutations drawn.
        expected_dims: Mean number of dimensions flagged when positions are shuffled independently
            in every layer and parameter: agreement over layers is then chance alone.
        probability_any: Share of those permutations with at least one flagged dimension.
        expected_dims_layers_kept: The same mean when gamma's positions are shuffled against beta's
            but the layers of each stay aligned, as they are correlated in real models: only the
            agreement of gamma with beta is chance. NaN for a rule that does not ask for both.
    """

    permutations: int
    expected_dims: float
    probability_any: float
    expected_dims_layers_kept: float


@dataclass(frozen=True)
class Detection(Result):
    """Outlier dimensions of a model, and everything the decision was made from.

    Attributes:
        dims: Outlier dimensions, ascending.
        rule: Name of the rule.
        k: Threshold in standard deviations.
        min_fraction: Share of the layers that was asked for.
        min_layers: Number of layers in which a dimension had to be beyond the threshold.
        gamma, beta: Parameters [L, D], float64; ``beta`` is None for RMSNorm.
        gamma_z, beta_z: Their z-scores within the layer (unbiased standard deviation), [L, D].
        layers: Layer numbers, 1 for the first block, [L].
        norms: Paths of the norms read, [L].
        layers_gamma, layers_beta, layers_both: In how many layers each dimension is beyond k sigma,
            [D].
        false_positives: The rule under permutation.
        note: What a reader has to know about these norms ("" where there is nothing).
    """

    dims: tuple[int, ...]
    rule: Rule
    k: float
    min_fraction: float
    min_layers: int
    layers: tuple[int, ...]
    norms: tuple[str, ...]
    gamma: Array
    beta: Array | None
    gamma_z: Array
    beta_z: Array | None
    layers_gamma: NDArray[np.int64]
    layers_beta: NDArray[np.int64] | None
    layers_both: NDArray[np.int64]
    false_positives: FalsePositives
    note: str = ""

    @property
    def reach(self) -> Array:
        """The |z| that a dimension passes in as many layers as the rule asks for [D].

        Beyond k it is an outlier, where the model has so many layers.
        """
        z = [np.nan_to_num(np.abs(one)) for one in (self.gamma_z, self.beta_z) if one is not None]
        at = max(0, len(self.layers) - self.min_layers)
        if self.rule == "kovaleva2021":
            z = [np.minimum.reduce(z)]
        reached: Array = np.maximum.reduce([np.sort(one, axis=0)[at] for one in z])
        return reached

    def to_dict(self) -> dict[str, Any]:
        """The content of ``detection.json``: plain lists and numbers, parameters left out."""

        def summary(dim: int) -> dict[str, Any]:
            beta = self.beta_z is not None and self.layers_beta is not None
            return {
                "dim": dim,
                "layers_gamma": int(self.layers_gamma[dim]),
                "layers_beta": int(self.layers_beta[dim]) if self.layers_beta is not None else None,
                "layers_both": int(self.layers_both[dim]),
                "max_abs_z_gamma": float(np.abs(self.gamma_z[:, dim]).max()),
                "max_abs_z_beta": float(np.abs(self.beta_z[:, dim]).max())  # type: ignore[index]
                if beta
                else None,
            }

        def bounds(layer: int) -> dict[str, Any]:
            return {
                "layer": self.layers[layer],
                "norm": self.norms[layer],
                "gamma_mean": float(self.gamma[layer].mean()),
                "gamma_std": float(self.gamma[layer].std(ddof=1)),
                "beta_mean": float(self.beta[layer].mean()) if self.beta is not None else None,
                "beta_std": float(self.beta[layer].std(ddof=1)) if self.beta is not None else None,
            }

        return {
            "rule": self.rule,
            "k": self.k,
            "min_fraction": self.min_fraction,
            "min_layers": self.min_layers,
            "layers": len(self.layers),
            "note": self.note,
            "dims": [summary(dim) for dim in self.dims],
            "false_positives": {  # JSON has no NaN
                name: None if math.isnan(value) else value
                for name, value in dataclasses.asdict(self.false_positives).items()
            },
            "bounds": [bounds(layer) for layer in range(len(self.layers))],
        }

    def tables(self) -> dict[str, Any]:
        """``detection.json``, and parameters and z-scores as tidy rows (n 0)."""
        rows = TidyRows()
        named = {
            "gamma": self.gamma,
            "gamma_z": self.gamma_z,
            "beta": self.beta,
            "beta_z": self.beta_z,
        }
        for name, values in named.items():
            for layer, row in zip(self.layers, values if values is not None else (), strict=False):
                rows.add(name, row, point=f"block.{layer - 1}.norm", layer=layer)
        return {"stats": rows.table(), "detection": self.to_dict()}

    def headline(self) -> list[str]:
        """Which dimensions are outliers, and how many the rule finds by chance."""
        size = self.gamma.shape[1]
        are = "is an outlier" if len(self.dims) == 1 else "are outliers"
        rule = self._rule_in_words()
        found = (
            f"{len(self.dims)} of the {size:,} dimensions {are} by the rule ({rule}): "
            f"{listing(self.dims, _NAMED_DIMS)}."
            if self.dims
            else f"No dimension of the {size:,} is an outlier by the rule ({rule})."
        )
        return [" ".join(filter(None, [found, self._chance_in_words()]))]

    def cautions(self) -> list[str]:
        """What these norms cannot say, and a rule that finds dimensions by chance."""
        said = [self.note] if self.note else []
        expected = self.false_positives.expected_dims
        if expected > _MANY_BY_CHANCE:
            said.append(
                Doubt(
                    f"The outlier rule finds {number(expected, 2)} dimensions by chance alone: "
                    "some of those listed are likely to mean nothing. A larger k or a larger share "
                    "of layers is safer."
                )
            )
        return said

    def _rule_in_words(self) -> str:
        word = "and" if self.rule == "kovaleva2021" else "or"
        who, whose = ("γ", "its") if self.beta is None else (f"γ {word} β", "their")
        both = " both" if self.beta is not None and word == "and" else ""
        return (
            f"{who}{both} further than {self.k:g} σ from {whose} layer's mean, in at least "
            f"{self.min_layers} of the {len(self.layers)} layers"
        )

    def _chance_in_words(self) -> str:
        found = self.false_positives
        if not found.permutations:
            return ""

        def mean(dims: float) -> str:
            return number(dims, 2) if dims else "none"

        kept = found.expected_dims_layers_kept
        stricter = (
            ""
            if math.isnan(kept)
            else f"; {mean(kept)} if those of β are shuffled against γ but alike in all layers, as "
            "a dimension that is extreme in one layer often is in the next"
        )
        return (
            "Dimensions that the rule finds by chance alone, on average over "
            f"{found.permutations:,} permutations of their positions: {mean(found.expected_dims)} "
            f"(each layer apart{stricter})."
        )


def detect_parameters(
    gamma: ArrayLike,
    beta: ArrayLike | None = None,
    *,
    layers: Sequence[int] | None = None,
    norms: Sequence[str] = (),
    rule: Rule = "kovaleva2021",
    k: float = 3.0,
    min_fraction: float = 0.5,
    permutations: int = 1000,
    seed: int = 0,
    note: str = "",
) -> Detection:
    """`detect` on the parameters themselves, [L, D]: arrays or tensors of any dtype, or lists.

    Each row counts as a layer: give a norm that layers share once.

    Args:
        gamma: [L, D], the weights of the norms.
        beta: [L, D], their biases; None where there are none.
        layers: Number of the layer of each row; None counts them from 0.
        norms: Name of each row's norm.
        rule: As of `detect`.
        k: As of `detect`.
        min_fraction: As of `detect`.
        permutations: As of `detect`.
        seed: As of `detect`.
        note: What a reader has to know of the parameters.

    Raises:
        ArgumentError: Shapes or parameters do not fit.
        DataError: A value is NaN or infinite.
    """
    gamma = _float64(gamma)
    beta = None if beta is None else _float64(beta)
    check_rule(gamma, beta, rule, k, min_fraction)
    _check_finite({"gamma": gamma, "beta": beta}, layers, norms)
    depth = len(gamma)
    min_layers = (
        _PUCCETTI_MIN_LAYERS
        if rule == "puccetti2022"
        else math.ceil(min_fraction * depth - 1e-9)  # 0.1 * 10 is a little more than 1
    )
    gamma_z = _z_scores(gamma)
    beta_z = _z_scores(beta) if beta is not None else None
    over_gamma = np.abs(gamma_z) > k
    over_beta = np.abs(beta_z) > k if beta_z is not None else None
    flags = _flag(over_gamma, over_beta, rule, min_layers)
    both = over_gamma if over_beta is None else over_gamma & over_beta
    return Detection(
        dims=tuple(int(dim) for dim in np.flatnonzero(flags)),
        rule=rule,
        k=k,
        min_fraction=min_fraction,
        min_layers=min_layers,
        layers=tuple(layers) if layers is not None else tuple(range(1, depth + 1)),
        norms=tuple(norms) or ("",) * depth,
        gamma=gamma,
        beta=beta,
        gamma_z=gamma_z,
        beta_z=beta_z,
        layers_gamma=over_gamma.sum(0),
        layers_beta=over_beta.sum(0) if over_beta is not None else None,
        layers_both=both.sum(0),
        false_positives=_permute(over_gamma, over_beta, rule, min_layers, permutations, seed),
        note=note,
    )


def check_rule(gamma: Array, beta: Array | None, rule: str, k: float, min_fraction: float) -> None:
    """Raise ArgumentError where parameters or thresholds are out of range."""
    if gamma.ndim != 2 or gamma.shape[1] < 2:
        raise ArgumentError(f"gamma: expected [L, D] with D >= 2, got shape {list(gamma.shape)}.")
    if beta is not None and beta.shape != gamma.shape:
        raise ArgumentError(
            f"beta: expected the shape of gamma {list(gamma.shape)}, got {list(beta.shape)}."
        )
    if rule not in ("kovaleva2021", "puccetti2022"):
        raise ArgumentError(f"rule: expected 'kovaleva2021' or 'puccetti2022', got {rule!r}.")
    if not k > 0:
        raise ArgumentError(f"k: expected a positive number of standard deviations, got {k}.")
    if not 0 < min_fraction <= 1:
        raise ArgumentError(f"min_fraction: expected a share in (0, 1], got {min_fraction}.")


def _float64(parameters: Any) -> Array:
    if hasattr(parameters, "detach"):  # NumPy has no bfloat16
        parameters = parameters.detach().double().cpu().numpy()
    return np.array(parameters, np.float64)


def _check_finite(
    parameters: Mapping[str, Array | None], layers: Sequence[int] | None, norms: Sequence[str]
) -> None:
    """Raise DataError for a layer whose z-scores would all be NaN: it would count for nothing."""
    for name, values in parameters.items():
        for row, one in enumerate(values if values is not None else ()):
            if len(bad := np.flatnonzero(~np.isfinite(one))):
                layer = layers[row] if layers is not None else row + 1
                of = f" ({norms[row]})" if norms else ""
                raise DataError(
                    f"{name}: layer {layer}{of} is NaN or infinite at dimensions "
                    f"{bad[:5].tolist()} ({len(bad)} of {len(one)}); the checkpoint is damaged"
                )


def beta_note(beta: Array | None) -> str:
    """What there is to say of norms without beta; "" where all have it."""
    return "" if beta is not None else "RMSNorm has no beta: gamma alone decides."


def _z_scores(parameters: Array) -> Array:
    deviation = parameters - parameters.mean(1, keepdims=True)
    spread = parameters.std(1, ddof=1, keepdims=True)
    # An untrained norm is constant: nothing in it is extreme.
    z: Array = np.divide(deviation, spread, out=np.zeros_like(deviation), where=spread > 0)
    return z


def _flag(
    over_gamma: NDArray[np.bool_],
    over_beta: NDArray[np.bool_] | None,
    rule: Rule,
    min_layers: int,
) -> NDArray[np.bool_]:
    """[..., L, D] -> [..., D]."""
    if over_beta is None:
        counts = over_gamma.sum(-2)
    elif rule == "kovaleva2021":
        counts = (over_gamma & over_beta).sum(-2)
    else:
        counts = np.maximum(over_gamma.sum(-2), over_beta.sum(-2))
    flags: NDArray[np.bool_] = counts >= min_layers
    return flags


def _permute(
    over_gamma: NDArray[np.bool_],
    over_beta: NDArray[np.bool_] | None,
    rule: Rule,
    min_layers: int,
    permutations: int,
    seed: int,
) -> FalsePositives:
    if permutations <= 0:
        return FalsePositives(0, math.nan, math.nan, math.nan)
    rng = np.random.default_rng(seed)
    independent = np.empty(permutations)
    layers_kept = np.full(permutations, math.nan)
    for draw in range(permutations):
        gamma = rng.permuted(over_gamma, axis=1)
        beta = rng.permuted(over_beta, axis=1) if over_beta is not None else None
        independent[draw] = _flag(gamma, beta, rule, min_layers).sum()
        if over_beta is not None and rule == "kovaleva2021":
            shuffled = over_beta[:, rng.permutation(over_beta.shape[1])]
            layers_kept[draw] = _flag(over_gamma, shuffled, rule, min_layers).sum()
    return FalsePositives(
        permutations=permutations,
        expected_dims=float(independent.mean()),
        probability_any=float((independent > 0).mean()),
        expected_dims_layers_kept=float(layers_kept.mean()),
    )
