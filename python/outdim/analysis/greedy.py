"""Greedy sets in Python; how they are chosen, see `outdim.analysis.sweeps.greedy_step`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from outdim.analysis.greedy_glue import GreedyGlue, GreedyGlueOptions
from outdim.analysis.greedy_text import GreedyLm, GreedyMlm
from outdim.analysis.in_memory import (
    OF_TEXT,
    glue_task,
    inputs_of,
    items_of,
    refuse,
    run_in_memory,
)
from outdim.analysis.input_options import ForwardOptions
from outdim.analysis.inputs import Inputs
from outdim.analysis.predicting import Masking
from outdim.analysis.results.chosen import Chosen
from outdim.analysis.sweeps.greedy_options import Goal, GreedyMaskedOptions, GreedyOptions
from outdim.analysis.sweeps.words import ALL, words_of
from outdim.models.ablation import At

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from outdim.corpus import Corpus


def greedy(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    texts: str | Path | Sequence[str] | Corpus,
    *,
    task: str = "lm",
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
    """Choose dimensions one after the other that together break a model, or spare it.

    Args:
        model: A Hugging Face model with a head for the task, in eval mode.
        tokenizer: Its tokenizer.
        texts: Documents, or where they are, see `outdim.evaluate`. A half of them, drawn at random,
            is for the choice, the other for what is said of it. Of a task of GLUE its labelled
            files.
        task: ``"lm"``, ``"mlm"``, or ``"glue:sst2"`` and the like.
        rounds: How many dimensions are chosen.
        goal: ``"break"``: each does most harm beside those before; ``"spare"``: least.
        dims: Candidates; a round tries each, so that rounds x candidates forwards are run.
        layers: ``"all"`` at once, ``"4-6"`` together, or ``"4"``.
        at: What is edited, see `outdim.ablate`.
        controls: Random sets of each size.
        masking: See `outdim.evaluate`.
        mask_share: How many of the tokens are predicted, with random masking; None takes 0.15.
        max_length: Tokens per sequence; None takes the model's own limit, at most 512.
        token_budget: Tokens per batch of text, padding included; not of a classifier.
        variants_at_once: How many variants share a forward; None takes as many as fill a batch.
        autocast: Run the model under `torch.autocast` with this type; not a classifier.
        draws: How often documents are drawn for the intervals.
        seed: Of halves, controls, masks and draws.

    Returns:
        What was chosen; ``.dims``, ``.harm()``.

    Raises:
        ArgumentError: See `outdim.sweep`.
        DataError: A half of the documents has nothing to predict.

    Example:
        >>> print(greedy(model, tokenizer, texts, dims=worst))  # doctest: +SKIP
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
    masked: dict[str, Any] = {"masking": masking, "mask_share": mask_share}
    read: dict[str, Any] = {"token_budget": token_budget, "autocast": autocast}
    labelled = glue_task(task, ("lm", "mlm"))
    if task != "mlm":
        refuse(greedy, task, masked, "they go with task='mlm'")
    if labelled:
        refuse(greedy, task, read, OF_TEXT)
        given = GreedyGlueOptions(**options, **items_of(labelled, texts, max_length))
        inputs = Inputs.of(model=model, tokenizer=tokenizer)
        return run_in_memory(GreedyGlue, given, inputs).result().beside(inputs)
    inputs = inputs_of(model, tokenizer, texts, ForwardOptions(max_length=max_length, **read))
    if task == "lm":
        return run_in_memory(GreedyLm, GreedyOptions(**options), inputs).result().beside(inputs)
    return (
        run_in_memory(GreedyMlm, GreedyMaskedOptions(**options, **masked), inputs)
        .result()
        .beside(inputs)
    )
