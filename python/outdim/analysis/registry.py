"""The steps there are: name -> what it does and where its class is, loaded when used.

A package outside of outdim adds its own by an entry point of the group ``outdim.steps``; what its
steps do is said by the description of the package:

    [project]
    description = "Measure how much of a token's squared norm sits in its largest dimensions."
    [project.entry-points."outdim.steps"]
    norm-share = "my_package.norm_share:NormShare"
"""

from __future__ import annotations

import importlib
import importlib.metadata
import sys
from functools import cache
from typing import TYPE_CHECKING

from outdim.errors import ArgumentError, BackendError

if TYPE_CHECKING:
    from outdim.analysis.step import Step

_STEPS = {
    "count": ("Count the tokens of a corpus.", "outdim.analysis.count:Count"),
    "detect": (
        "Find outlier dimensions by their LayerNorm parameters.",
        "outdim.analysis.detect:Detect",
    ),
    "correlate": (
        "Correlate hidden states with token frequency.",
        "outdim.analysis.correlate:Correlate",
    ),
    "criteria": (
        "Find outlier dimensions by hidden states, by every published rule.",
        "outdim.analysis.criteria:FindByCriteria",
    ),
    "geometry": (
        "Measure anisotropy, what dimensions add to it, and directions in use.",
        "outdim.analysis.geometry:MeasureGeometry",
    ),
    "lifecycle": (
        "Follow outlier dimensions: what writes them, where, and what they are to a norm.",
        "outdim.analysis.lifecycle:FollowLives",
    ),
    "embeddings": (
        "Take embeddings apart: dimensions that stand out in words, positions, types, norm.",
        "outdim.analysis.embeddings:TakeApart",
    ),
    "evaluate-glue": (
        "Evaluate a classifier on a task of GLUE or a labelled file, fine-tuned first if asked.",
        "outdim.analysis.evaluate_glue:Glue",
    ),
    "evaluate-sts": (
        "Compare the cosine of pooled texts with scores that people gave them.",
        "outdim.analysis.evaluate_glue:Sts",
    ),
    "evaluate-lm": (
        "How well a causal language model predicts, intact and ablated.",
        "outdim.analysis.evaluate:EvaluateLm",
    ),
    "evaluate-mlm": (
        "How well a masked language model predicts, intact and ablated.",
        "outdim.analysis.evaluate:EvaluateMlm",
    ),
    "screen-lm": (
        "Score every dimension of a causal language model by gradients.",
        "outdim.analysis.screen:ScreenLm",
    ),
    "screen-mlm": (
        "Score every dimension of a masked language model by gradients.",
        "outdim.analysis.screen:ScreenMlm",
    ),
    "screen-glue": (
        "Score every dimension of a classifier by gradients, on a labelled task.",
        "outdim.analysis.screen_glue:ScreenGlue",
    ),
    "sweep-lm": (
        "Disable every dimension of a causal language model in turn.",
        "outdim.analysis.sweep_text:SweepLm",
    ),
    "sweep-mlm": (
        "Disable every dimension of a masked language model in turn.",
        "outdim.analysis.sweep_text:SweepMlm",
    ),
    "sweep-glue": (
        "Disable every dimension of a classifier in turn, on a labelled task.",
        "outdim.analysis.sweep_glue:SweepGlue",
    ),
    "sweep-cosine": (
        "Disable every dimension of a model in turn: how far that moves the vectors of texts.",
        "outdim.analysis.sweep_cosine:SweepCosine",
    ),
    "greedy-lm": (
        "Choose dimensions of a causal language model that together break it, or spare it.",
        "outdim.analysis.greedy_text:GreedyLm",
    ),
    "greedy-mlm": (
        "Choose dimensions of a masked language model that together break it, or spare it.",
        "outdim.analysis.greedy_text:GreedyMlm",
    ),
    "greedy-glue": (
        "Choose dimensions of a classifier that together break it, or spare it.",
        "outdim.analysis.greedy_glue:GreedyGlue",
    ),
    "sweep-sts": (
        "Take every dimension out of the cosine of pooled texts, in closed form.",
        "outdim.analysis.sweep_sts:SweepSts",
    ),
    "evaluate-fill": (
        "Let a model fill in or continue sentences, intact and ablated.",
        "outdim.analysis.fill:Fill",
    ),
    "predictions-lm": (
        "Which tokens a causal language model predicts, intact and ablated.",
        "outdim.analysis.predictions:PredictLm",
    ),
    "predictions-mlm": (
        "Which tokens a masked language model predicts, intact and ablated.",
        "outdim.analysis.predictions:PredictMlm",
    ),
    "attention": (
        "Relate hidden states to the attention that their tokens receive.",
        "outdim.analysis.attention:AttentionStep",
    ),
}


@cache
def steps() -> dict[str, tuple[str, str]]:
    """Name of every step -> what it does, ``module:Class``."""
    others = importlib.metadata.entry_points(group="outdim.steps")
    return {**_STEPS, **{p.name: (_about(p), p.value) for p in others if p.name not in _STEPS}}


def _about(point: importlib.metadata.EntryPoint) -> str:
    described = point.dist.metadata.json.get("summary") if point.dist else None
    return str(described or f"A step of {point.module}.")


def step_class(name: str) -> type[Step]:
    """The class of a step.

    Raises:
        ArgumentError: There is no such step.
        BackendError: The package that brings it cannot be loaded.
    """
    if name not in steps():
        raise ArgumentError(f"steps: expected some of {', '.join(steps())}, got {name!r}.")
    target = steps()[name][1]
    if name in _STEPS:
        return _load(target)
    from outdim.analysis.step import Step

    try:
        found = _load(target)
        if not issubclass(found, Step):
            raise TypeError("it is no Step")
    except Exception as error:  # whatever the code of others raises
        raise BackendError(
            f"the step {name!r} of another package cannot be loaded: {target}: "
            f"{type(error).__name__}: {error}. Mend or remove that package."
        ) from error
    return found


@cache
def usable(name: str) -> type[Step] | None:
    """The class of a step; None where its package is not there or broken, said once on stderr."""
    if name not in steps():
        return None
    try:
        return step_class(name)
    except BackendError as error:
        print(f"outdim: {error} It is left out.", file=sys.stderr)
        return None


def _load(target: str) -> type[Step]:
    module, _, attribute = target.partition(":")
    found: type[Step] = getattr(importlib.import_module(module), attribute)
    return found
