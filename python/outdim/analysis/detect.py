"""Outlier dimensions by their LayerNorm parameters (Kovaleva et al. 2021, section 3)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
import torch

from outdim.analysis.gathered import Gathered
from outdim.analysis.input_options import ModelOptions
from outdim.analysis.inputs import Inputs
from outdim.analysis.results.detection import (
    Array,
    Detection,
    Rule,
    beta_note,
    check_rule,
    detect_parameters,
)
from outdim.analysis.step import Json, Progress
from outdim.errors import DataError

if TYPE_CHECKING:
    from outdim.models import Architecture


def detect(
    model: torch.nn.Module,
    *,
    rule: Rule = "kovaleva2021",
    k: float = 3.0,
    min_fraction: float = 0.5,
    permutations: int = 1000,
    seed: int = 0,
    found: Architecture | None = None,
) -> Detection:
    """Find dimensions whose LayerNorm parameters are extreme at the same position in many layers.

    z_l,d = (w_l,d - mean_d w_l) / sd_d(w_l), for w = gamma and w = beta of the norm that ends each
    layer (post-LN models) or, where no norm ends the layer, of the norm that reads its output
    (pre-LN models).

    - ``"kovaleva2021"`` (Kovaleva et al. 2021, section 3): |z| > k for gamma AND beta, in at least
      ``ceil(min_fraction * L)`` layers. RMSNorm has no beta: gamma alone decides, and ``note`` says
      so.
    - ``"puccetti2022"`` (the code published with Puccetti et al. 2022): |z| > k in more than 3
      layers for gamma OR for beta. ``min_fraction`` is not used. The published code also cuts its
      list at six and at twice the shorter of the two; neither is part of the definition, or done.

    Args:
        model: A Hugging Face model of a family that `outdim.models.architecture` knows.
        rule: Which rule.
        k: Threshold in standard deviations. Kovaleva et al. use 3, and 2 for RoBERTa.
        min_fraction: Share of the layers, in (0, 1].
        permutations: How many permutations estimate the false positives; 0 skips them (NaN).
        seed: Of the permutations.
        found: architecture(model), which saves the small forward that finds it.

    Returns:
        The dimensions with z-scores, counts per parameter, and false positives.

    Raises:
        ArgumentError: A parameter is out of range.
        DataError: The model has no norms to read.

    Example:
        >>> from transformers import BertConfig, BertModel
        >>> config = BertConfig(
        ...     hidden_size=64, num_hidden_layers=4, num_attention_heads=2, vocab_size=99
        ... )
        >>> model = BertModel(config)
        >>> for layer in model.encoder.layer:
        ...     norm = layer.output.LayerNorm
        ...     _ = norm.weight.data.normal_(1, 0.02), norm.bias.data.normal_(0, 0.02)
        ...     norm.weight.data[7], norm.bias.data[7] = 3.0, -2.0
        >>> detect(model).dims
        (7,)
    """
    from outdim.models import architecture

    norms = Norms.of(architecture(model) if found is None else found)
    return detect_parameters(
        norms.gamma,
        norms.beta,
        layers=norms.layers,
        norms=norms.paths,
        rule=rule,
        k=k,
        min_fraction=min_fraction,
        permutations=permutations,
        seed=seed,
        note=norms.note,
    )


class Norms(NamedTuple):
    """The parameters in which outlier dimensions are looked for: of one norm a layer.

    Attributes:
        gamma, beta: [L, D] float64; ``beta`` is None where a norm has none.
        layers: 1 for the first block, [L].
        paths: Of the norms, [L].
        note: What a reader has to know about them.
    """

    gamma: Array
    beta: Array | None
    layers: list[int]
    paths: list[str]
    note: str

    @classmethod
    def of(cls, arch: Architecture) -> Norms:
        """Those of a model.

        Raises:
            DataError: It has none.
        """
        norms = arch.norms()
        if not norms:
            raise DataError(
                f"model: this {arch.family} has no LayerNorm or RMSNorm that ends or reads its "
                "blocks, so its parameters cannot show outlier dimensions; use `outdim correlate`, "
                "which reads hidden states."
            )
        gamma = np.stack([norm.gamma.detach().double().cpu().numpy() for norm in norms])
        betas = [n.beta.detach().double().cpu().numpy() for n in norms if n.beta is not None]
        beta = np.stack(betas) if len(betas) == len(norms) else None
        return cls(
            gamma,
            beta,
            [norm.layer for norm in norms],
            [norm.path for norm in norms],
            " ".join(filter(None, [arch.norms_note, beta_note(beta)])),
        )


@dataclass(frozen=True, kw_only=True)
class DetectOptions:
    """Find outlier dimensions by their LayerNorm parameters (Kovaleva et al. 2021).

    Args:
        rule: kovaleva2021: gamma AND beta beyond k sigma in min_fraction of the layers;
            puccetti2022: gamma OR beta in more than 3 layers, as in the code published with
            that paper.
        k: Threshold in standard deviations.
        min_fraction: Share of the layers.
        permutations: For the false-positive rate of the rule.
    """

    rule: Rule = "kovaleva2021"
    k: float = 3.0
    min_fraction: float = 0.5
    permutations: int = 1000


class Detect(Gathered):
    """Reads the norms of a model, in one shard.

    State: ``gamma`` [L, D] and, where all norms have it, ``beta`` [L, D], float64.
    """

    name = "detect"
    Options = DetectOptions
    reads = (ModelOptions,)
    presentation = ("rule", "k", "min_fraction", "permutations")

    @classmethod
    def resolve(cls, options: DetectOptions, inputs: Inputs) -> Json:
        """The norms are found here."""
        norms = Norms.of(inputs.architecture)
        check_rule(norms.gamma, norms.beta, options.rule, options.k, options.min_fraction)
        found = {"layers": norms.layers, "norms": norms.paths, "note": norms.note}
        return {**dataclasses.asdict(options), **found}

    def update(self, unit: Mapping[str, Any], progress: Progress) -> Self:
        """Read the parameters."""
        norms = Norms.of(self.inputs.architecture)
        both = {"gamma": norms.gamma, "beta": norms.beta}
        return self.merge({k: torch.from_numpy(v) for k, v in both.items() if v is not None})

    def result(self) -> Detection:
        """The rule applied."""
        beta = self.tensors.get("beta")
        return detect_parameters(
            self.tensors["gamma"].numpy(),
            None if beta is None else beta.numpy(),
            **{name: self.recorded[name] for name in ("layers", "norms", "note")},
            **{name: self.recorded[name] for name in self.presentation},
        )
