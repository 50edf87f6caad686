"""Sweeps in Python: every dimension disabled in turn, in all layers at once or layer by layer.

Kovaleva et al. 2021, figure 1: two of 768 dimensions break BERT, the others do next to nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

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
from outdim.analysis.results.screened import LEADING, Score
from outdim.analysis.results.swept import Sweep
from outdim.analysis.sweep_cosine import SweepCosine, SweepCosineOptions
from outdim.analysis.sweep_glue import SweepGlue, SweepGlueOptions
from outdim.analysis.sweep_text import SweepLm, SweepMlm
from outdim.analysis.sweeps.grid import Mode
from outdim.analysis.sweeps.options import SweepMaskedOptions, SweepOptions
from outdim.analysis.sweeps.words import ALL, words_of
from outdim.models.ablation import At

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from outdim.corpus import Corpus


def sweep(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    texts: str | Path | Sequence[str] | Corpus,
    *,
    task: str = "lm",
    dims: str | Sequence[str | int | Sequence[int]] = ALL,
    layers: str | Sequence[str | int | Sequence[int]] = ALL,
    at: At = "state",
    mode: Mode = "zero",
    controls: int | None = None,
    pairs: bool = False,
    verify: int | None = None,
    verify_random: int = 40,
    score: Score = LEADING,
    masking: Masking = "random",
    mask_share: float | None = None,
    max_length: int | None = None,
    token_budget: int = 4096,
    variants_at_once: int | None = None,
    autocast: Literal["bfloat16", "float16"] | None = None,
    draws: int = 2000,
    seed: int = 0,
) -> Sweep:
    """Disable every dimension of a model in turn, and say which break it.

    The states of a variant are those of the same `outdim.Ablation` in `outdim.evaluate` with the
    same batches: to the bit where each has a forward of its own (``variants_at_once`` 1, and on
    CPUs with batches of more than 256 tokens), else up to rounding. Its loss is the same up to 2e-6
    nats a token, after the last layer alone up to 2e-5. The layers below the first edited one run
    once for all variants: a grid of every layer and dimension costs half a forward a variant. For
    runs that must survive interruption or be spread over processes, use the command line,
    ``outdim sweep lm``.

    Args:
        model: A Hugging Face model with a head for the task, in eval mode.
        tokenizer: Its tokenizer.
        texts: Documents, or where they are, see `outdim.evaluate`; of a task of GLUE its labelled
            files.
        task: ``"lm"``: every token from those before it. ``"mlm"``: masked tokens. ``"cosine"``:
            how far the vectors of texts move. ``"glue:sst2"`` and the like: a classifier on a task
            of `outdim evaluate glue`.
        dims: ``"all"``, or some: each a variant, ranges as ``"0-99"``, tuples together.
        layers: ``"all"`` at once, ``"each"`` alone, ``"window:3"``, or some: tuples together.
        at: What is edited, see `outdim.ablate`.
        mode: ``"zero"``, or ``"mean"``: that of the text, or of the other parameters of a norm.
        controls: Random dimensions beside them at every place; None takes 10.
        pairs: Beside single dimensions all pairs of them, ``.interactions``: whether two do more
            harm together than the sum of both.
        verify: Screen by gradients, and measure only so many that come first, in all layers
            together or, with ``layers="each"``, of all layers and dimensions, and some others.
        verify_random: How many others, drawn at random: whether the screening is to be believed.
        score: By which it ranks: ``"absolute"``, ``"squared"`` or ``"magnitude"``.
        masking: See `outdim.evaluate`.
        mask_share: How many of the tokens are predicted, with random masking; None takes 0.15.
        max_length: Tokens per sequence; None takes the model's own limit, at most 512.
        token_budget: Tokens per batch of text, padding included; not of a classifier.
        variants_at_once: How many variants share a forward; None takes as many as fill a batch.
        autocast: Run the model under `torch.autocast` with this type; not a classifier.
        draws: How often documents are drawn for the intervals.
        seed: Of controls, masks and draws.

    Returns:
        What every variant does; ``.harm("loss")`` is [places, sets].

    Raises:
        ArgumentError: Words that say nothing, dimensions or layers that the model does not have; no
            head for the task; an argument that goes with other tasks.
        DataError: See `outdim.evaluate`.

    Example:
        >>> found = sweep(model, tokenizer, texts, layers="each")  # doctest: +SKIP
        >>> print(found)  # doctest: +SKIP
    """
    swept: dict[str, Any] = {
        "dims": words_of(dims),
        "layers": words_of(layers),
        "at": at,
        "mode": mode,
        "controls": controls,
        "pairs": pairs,
        "seed": seed,
        "variants_at_once": variants_at_once,
        "draws": draws,
    }
    screened: dict[str, Any] = {"verify": verify, "verify_random": verify_random, "score": score}
    masked: dict[str, Any] = {"masking": masking, "mask_share": mask_share}
    read: dict[str, Any] = {"token_budget": token_budget, "autocast": autocast}
    labelled = glue_task(task, ("lm", "mlm", "cosine"))
    if task != "mlm":
        refuse(sweep, task, masked, "they go with task='mlm'")
    if task == "cosine":
        refuse(sweep, task, screened, "nothing is predicted by whose loss to screen")
    if labelled:
        refuse(sweep, task, read, OF_TEXT)
        options = {**swept, **screened, **items_of(labelled, texts, max_length)}
        inputs = Inputs.of(model=model, tokenizer=tokenizer)
        return run_in_memory(SweepGlue, SweepGlueOptions(**options), inputs).result().beside(inputs)
    inputs = inputs_of(model, tokenizer, texts, ForwardOptions(max_length=max_length, **read))
    if task == "cosine":
        return (
            run_in_memory(SweepCosine, SweepCosineOptions(**swept), inputs).result().beside(inputs)
        )
    if task == "lm":
        return (
            run_in_memory(SweepLm, SweepOptions(**swept, **screened), inputs)
            .result()
            .beside(inputs)
        )
    options = {**swept, **screened, **masked}
    return run_in_memory(SweepMlm, SweepMaskedOptions(**options), inputs).result().beside(inputs)
