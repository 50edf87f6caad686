"""Steps in memory: what the Python functions give them to read, and all of their work at once."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from outdim.analysis.input_options import ForwardOptions, InputOptions, ObserveOptions
from outdim.analysis.inputs import Inputs
from outdim.analysis.registry import step_class
from outdim.analysis.step import Step
from outdim.analysis.tasks import GLUE
from outdim.analysis.variants.variant import variants
from outdim.corpus import corpus_of, listed
from outdim.errors import ArgumentError
from outdim.tokens import check_frequencies

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from outdim.corpus import Corpus
    from outdim.models import Ablation
    from outdim.tokens import TokenFrequencies

S = TypeVar("S", bound=Step)


def inputs_of(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    texts: str | Path | Sequence[str] | Corpus,
    *options: InputOptions,
    frequencies: TokenFrequencies | None = None,
) -> Inputs:
    """What a step reads that runs in memory; ``frequencies`` None counts the texts.

    ``options`` say how, one of each kind (`outdim.analysis.input_options`).

    Raises:
        ArgumentError: Names of files where documents are expected.
        DataError: Model, tokenizer and frequencies do not belong together.
    """
    corpus = corpus_of(texts)
    inputs = Inputs.of({"source": [corpus.source]}, model=model, tokenizer=tokenizer, corpus=corpus)
    inputs.resolve(options)
    if frequencies is not None:
        inputs.cautions += check_frequencies(frequencies, tokenizer)
        inputs.frequencies = frequencies
    return inputs


def run_in_memory(
    step: type[S], options: Any, inputs: Inputs, recorded: Mapping[str, Any] | None = None
) -> S:
    """A step that has taken all of its work, after those it requires and lends its options.

    Args:
        step: Its class.
        options: Its own.
        inputs: What it reads.
        recorded: What a plan would record besides of what it reads.
    """
    resolved = {**inputs.options, **(recorded or {}), **step.resolve(options, inputs)}
    for name in step.requires(resolved):
        needed = step_class(name)
        if step.lends(needed):
            first: Step = run_in_memory(needed, step.lent(needed, options), inputs, recorded)
            inputs.hold(name, first.result())
    whole = step(resolved, inputs)
    for unit in step.work(resolved, inputs):
        whole.update(unit, lambda tokens: None)
    return whole


def one_step(
    step: type[S],
    options: Any,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    texts: str | Path | Sequence[str] | Corpus,
    *,
    exclude: Sequence[str],
    frequencies: TokenFrequencies | None = None,
    fused: bool = True,
    **forward: Any,
) -> S:
    """The same, of a step that observes a model; ``forward`` are options of `ForwardOptions`."""
    how = ForwardOptions(exclude=list(exclude), **forward), ObserveOptions(fused=fused)
    inputs = inputs_of(model, tokenizer, texts, *how, frequencies=frequencies)
    return run_in_memory(step, options, inputs)


def run_variants(
    step: type[S],
    options: Any,
    inputs: Inputs,
    ablations: Sequence[Ablation | int | Sequence[int]],
    *,
    seed: int,
    **beside: Any,
) -> S:
    """The same, of a step that reads `AblationOptions`; ``beside`` says which controls."""
    from outdim.models import Ablation

    asked = [Ablation.of(one) for one in ablations]
    found = variants(inputs, asked, seed=seed, **beside)
    recorded = {"variants": [variant.as_dict() for variant in found], "seed": seed}
    return run_in_memory(step, options, inputs, recorded)


#: Why a classifier takes no options of how a text is read.
OF_TEXT = "a classifier reads 256 items at a time, in the dtype of the model"


def glue_task(task: str, others: Sequence[str]) -> str:
    """The name in ``glue:sst2`` and the like; "" for one of the ``others``.

    Raises:
        ArgumentError: Another task.
    """
    kind, _, name = task.partition(":")
    if task in others:
        return ""
    if kind != "glue" or name not in GLUE:
        expected = ", ".join(map(repr, others))
        raise ArgumentError(
            f"task: expected {expected}, or 'glue:sst2' and the like, got {task!r}."
        )
    return name


def items_of(task: str, texts: Any, max_length: int | None) -> dict[str, Any]:
    """Options of a task of GLUE on labelled files.

    Raises:
        ArgumentError: No files.
    """
    files = f"labelled files for task='glue:{task}'"
    given = [texts] if isinstance(texts, str | Path) else listed("texts", texts, files)
    length = {} if max_length is None else {"max_length": max_length}
    return {"task": task, "data": [str(one) for one in given], **length}


def refuse(function: Callable[..., Any], task: str, given: Mapping[str, Any], why: str) -> None:
    """Arguments of other tasks have to be left at their defaults.

    Raises:
        ArgumentError: They are not.
    """
    usual = inspect.signature(function).parameters
    if amiss := [name for name, value in given.items() if value != usual[name].default]:
        raise ArgumentError(f"{', '.join(amiss)}: not for task={task!r} ({why}); leave it out.")
