"""Sweep: every dimension of a model disabled in turn, in all layers at once or layer by layer.

Kovaleva et al. 2021, figure 1: two of 768 dimensions break BERT, the others do next to nothing.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from outdim.analysis.input_options import ForwardOptions
from outdim.analysis.inputs import Inputs
from outdim.analysis.predicting import Masking, Predicting
from outdim.analysis.results.screened import LEADING, Score, Screened
from outdim.analysis.results.swept import Sweep
from outdim.analysis.screen import ScreenLm, ScreenMaskedOptions, ScreenMlm, ScreenOptions
from outdim.analysis.sweep_text import SweepLm, SweepMlm, SweepText
from outdim.analysis.sweeps.grid import Mode
from outdim.analysis.sweeps.words import ALL
from outdim.analysis.tasks import GLUE
from outdim.analysis.variants.each_variant import inputs_of
from outdim.errors import ArgumentError
from outdim.models.ablation import At
from outdim.text import together

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
        mode: ``"zero"``, or, of language models, ``"mean"``: that of the text, or of the other
            parameters of a norm.
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
        >>> found.headline()  # doctest: +SKIP
    """
    swept: dict[str, Any] = {
        "dims": words_of(dims),
        "layers": words_of(layers),
        "at": at,
        "controls": controls,
        "pairs": pairs,
        "seed": seed,
        "variants_at_once": variants_at_once,
        "draws": draws,
    }
    ranked = {"mode": mode, "verify": verify, "verify_random": verify_random, "score": score}
    masked = {"masking": masking, "mask_share": mask_share}
    read: dict[str, Any] = {"token_budget": token_budget, "autocast": autocast}
    kind, _, name = task.partition(":")
    if task not in ("lm", "mlm", "cosine") and (kind != "glue" or name not in GLUE):
        raise ArgumentError(
            f"task: expected 'lm', 'mlm', 'cosine', or 'glue:sst2' and the like, got {task!r}."
        )
    if task != "mlm":
        _refuse(task, masked, "they go with task='mlm'")
    if task not in ("lm", "mlm"):
        _refuse(task, ranked, "they go with task='lm' or 'mlm'")
    if kind == "glue":
        _refuse(task, read, "a classifier reads 256 items at a time, in the dtype of the model")
        return _sweep_glue(name, texts, swept, max_length, model, tokenizer)
    inputs = inputs_of(model, tokenizer, texts, ForwardOptions(max_length=max_length, **read), None)
    if task == "cosine":
        from outdim.analysis.sweep_cosine import SweepCosine

        moved: Sweep = in_memory(SweepCosine, swept, inputs)
        return moved
    return _sweep_predictions(task, {**swept, **ranked}, masked, inputs)


def _refuse(task: str, given: Mapping[str, Any], why: str) -> None:
    """Arguments of other tasks have to be left at their defaults."""
    usual = inspect.signature(sweep).parameters
    if amiss := [name for name, value in given.items() if value != usual[name].default]:
        raise ArgumentError(f"{', '.join(amiss)}: not for task={task!r} ({why}); leave it out.")


def _sweep_glue(
    task: str,
    texts: Any,
    options: Mapping[str, Any],
    max_length: int | None,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
) -> Sweep:
    """Sweep a classifier on labelled files."""
    from outdim.analysis.sweep_glue import SweepGlue

    given = [texts] if isinstance(texts, str | Path) else texts
    if not isinstance(given, Sequence):
        raise ArgumentError(f"texts: expected labelled files for task='glue:{task}', got a corpus.")
    options = {**options, "task": task, "data": [str(one) for one in given]}
    if max_length is not None:
        options["max_length"] = max_length
    found: Sweep = in_memory(SweepGlue, options, Inputs.of(model=model, tokenizer=tokenizer))
    return found


def _sweep_predictions(
    task: str, options: Mapping[str, Any], masking: Mapping[str, Any], inputs: Inputs
) -> Sweep:
    """Sweep a language model, screened first if that is to be verified."""
    step: type[SweepText] = SweepLm
    screen: tuple[type[Predicting], Any] = (ScreenLm, ScreenOptions())
    if task == "mlm":
        step, options = SweepMlm, {**options, **masking}
        screen = ScreenMlm, ScreenMaskedOptions(**masking, seed=options["seed"])
    screened = None
    if options["verify"] is not None:
        cls, of_screen = screen
        scores = cls({**inputs.options, **cls.resolve(of_screen, inputs)}, inputs)
        screened = _run(scores, inputs).result()
    found: Sweep = in_memory(step, options, inputs, screened)
    return found


def in_memory(
    step: type[Any], options: Mapping[str, Any], inputs: Inputs, screened: Screened | None = None
) -> Any:
    """The result of a step that takes all of its work."""
    whole = step({**inputs.options, **step.resolve(step.Options(**options), inputs)}, inputs)
    if screened is not None:
        whole.screened = screened
    return _run(whole, inputs).result()


def _run(step: Any, inputs: Inputs) -> Any:
    for unit in step.work(step.recorded, inputs):
        step.update(unit, lambda tokens: None)
    return step


def words_of(given: str | Sequence[str | int | Sequence[int]]) -> list[str]:
    """Words as on the command line; numbers that go together become "507+247"."""
    several = [given] if isinstance(given, str | int) else given
    return [str(one) if isinstance(one, str | int) else together(one) for one in several]
