"""Several steps in memory, in one forward: the objects that a run spreads over shards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from outdim.analysis.in_memory import inputs_of
from outdim.analysis.input_options import ForwardOptions, ObserveOptions
from outdim.analysis.registry import step_class
from outdim.analysis.step import Step
from outdim.errors import ArgumentError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from outdim.corpus import Corpus
    from outdim.tokens import TokenFrequencies


def analyze(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    texts: str | Path | Sequence[str] | Corpus,
    steps: Mapping[str, Any] | Sequence[str],
    *,
    frequencies: TokenFrequencies | None = None,
    forward: ForwardOptions | None = None,
    fused: bool = True,
) -> dict[str, Any]:
    """Run steps that observe a model over a text, all in one forward.

    Args:
        model: A Hugging Face model in eval mode.
        tokenizer: Its tokenizer.
        texts: Documents, or where they are: a path, glob or dataset id, or an open corpus
            (`outdim.open_corpus`, which takes several files too).
        steps: Names of steps, or their options by name (the dataclass ``Options`` of each).
        frequencies: Token counts of the training corpus, or of any corpus that stands for it. None
            counts the texts themselves.
        forward: How the model is run; None takes the defaults.
        fused: Take moments inside our LayerNorm (may differ from torch's in the last bits).

    Returns:
        The result of each step by name.

    Raises:
        ArgumentError: An option is out of range, steps that cannot share a forward, a model in
            training mode.
        DataError: The tokenizer does not belong to the model, the frequencies not to the tokenizer,
            or the corpus is empty.

    Example:
        >>> found = analyze(model, tokenizer, "wiki.txt", ["correlate"])  # doctest: +SKIP
        >>> print(found["correlate"])  # doctest: +SKIP
    """
    if not steps:
        raise ArgumentError("steps: expected at least one, got none.")
    how = forward or ForwardOptions(), ObserveOptions(fused=fused)
    inputs = inputs_of(model, tokenizer, texts, *how, frequencies=frequencies)
    chosen: list[Step] = []
    with TemporaryDirectory() as folder:  # of what a study keeps
        files: dict[str, Path] = {}
        inputs.attached = files.get
        for name in steps:
            cls = step_class(name)
            options = steps[name] if isinstance(steps, Mapping) else cls.Options()
            if not isinstance(options, cls.Options):
                raise ArgumentError(
                    f"steps: expected {cls.Options.__name__} for {name!r}, got "
                    f"{type(options).__name__}."
                )
            chosen.append(cls({**inputs.options, **cls.resolve(options, inputs)}, inputs))
            for file, content in cls.attach(options, inputs).items():
                files[file] = Path(folder, file)
                files[file].write_bytes(content)
        if len({type(step).together(step.recorded) for step in chosen}) > 1:
            raise ArgumentError(
                f"steps: {', '.join(steps)} cannot share a forward; run them apart."
            )
        for unit in type(chosen[0]).work(chosen[0].recorded, inputs):
            type(chosen[0]).update_all(chosen, unit, lambda tokens: None)
        return {step.name: step.result().beside(inputs) for step in chosen}
