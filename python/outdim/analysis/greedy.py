"""Greedy sets: dimensions taken out one after the other, each time what then does most harm.

The Python function; `outdim.analysis.greedy_text` has the steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from outdim.analysis.greedy_text import Greedy, GreedyLm, GreedyMlm
from outdim.analysis.input_options import ForwardOptions
from outdim.analysis.predicting import Masking
from outdim.analysis.results.chosen import Chosen
from outdim.analysis.sweep import in_memory, words_of
from outdim.analysis.sweeps.greedy_options import Goal
from outdim.analysis.sweeps.words import ALL
from outdim.analysis.variants.each_variant import inputs_of
from outdim.errors import ArgumentError
from outdim.models.ablation import At

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from outdim.corpus import Corpus


def greedy(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    texts: str | Path | Sequence[str] | Corpus,
    *,
    task: Literal["lm", "mlm"] = "lm",
    rounds: int = 5,
    goal: Goal = "break",
    dims: str | Sequence[str | int] = ALL,
    layers: str = ALL,
    at: At = "state",
    controls: int = 10,
    masking: Masking = "random",
    mask_share: float | None = None,
    max_length: int | None = None,
    token_budget: int = 4096,
    variants_at_once: int | None = None,
    autocast: Literal["bfloat16", "float16"] | None = None,
    draws: int = 2000,
    seed: int = 0,
) -> Chosen:
    """Choose dimensions one after the other that together break a language model, or spare it.

    Args:
        model: A Hugging Face model with a head for the task, in eval mode.
        tokenizer: Its tokenizer.
        texts: Documents, or where they are, see `outdim.evaluate`. A half of them, drawn at random,
            is for the choice, the other for what is said of it.
        task: ``"lm"`` or ``"mlm"``.
        rounds: How many dimensions are chosen.
        goal: ``"break"``: each does most harm beside those before; ``"spare"``: least.
        dims: Candidates; a round tries each, so that rounds x candidates forwards are run.
        layers: ``"all"`` at once, ``"4-6"`` together, or ``"4"``.
        at: What is edited, see `outdim.ablate`.
        controls: Random sets of each size.
        masking: See `outdim.evaluate`.
        mask_share: How many of the tokens are predicted, with random masking; None takes 0.15.
        max_length: Tokens per sequence; None takes the model's own limit, at most 512.
        token_budget: Tokens per batch of text, padding included.
        variants_at_once: How many variants share a forward; None takes as many as fill a batch.
        autocast: Run the model under `torch.autocast` with this type.
        draws: How often documents are drawn for the intervals.
        seed: Of halves, controls, masks and draws.

    Returns:
        What was chosen; ``.dims``, ``.harm()``.

    Raises:
        ArgumentError: See `outdim.sweep`.
        DataError: A half of the documents has nothing to predict.

    Example:
        >>> greedy(model, tokenizer, texts, dims=worst).headline()  # doctest: +SKIP
    """
    options: dict[str, Any] = {
        "rounds": rounds,
        "goal": goal,
        "dims": words_of(dims),
        "layers": layers,
        "at": at,
        "controls": controls,
        "variants_at_once": variants_at_once,
        "draws": draws,
        "seed": seed,
    }
    if task not in ("lm", "mlm"):
        raise ArgumentError(f"task: expected 'lm' or 'mlm', got {task!r}.")
    step: type[Greedy] = GreedyLm
    if task == "mlm":
        step, options = GreedyMlm, {**options, "masking": masking, "mask_share": mask_share}
    forward = ForwardOptions(max_length=max_length, token_budget=token_budget, autocast=autocast)
    found: Chosen = in_memory(step, options, inputs_of(model, tokenizer, texts, forward, None))
    return found
