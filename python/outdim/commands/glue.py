"""``outdim evaluate glue``: the step, with a model that may be fine-tuned for it first."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from outdim.analysis.evaluate_glue import Glue
from outdim.analysis.finetune import FinetuneOptions, finetune
from outdim.analysis.input_options import ModelOptions, TokenizerOptions
from outdim.analysis.labelled_items import GlueOptions
from outdim.analysis.variants.variant import AblationOptions
from outdim.commands.step import OutputOptions, StepCommand
from outdim.errors import ArgumentError
from outdim.run.share import Share, SpreadOptions


class EvaluateGlue:
    """Evaluate a classifier on a labelled task."""

    def __init__(self) -> None:
        self._step = StepCommand(Glue)

    def options(self) -> dict[str, list[type]]:
        """Those of the step and of the training."""
        found = self._step.options()
        return {**found, "": [*found[""], FinetuneOptions]}

    def run(self, given: Mapping[type, Any]) -> Path | None:
        """Fine-tune if asked, evaluate, and write the report."""
        training: FinetuneOptions = given[FinetuneOptions]
        if training.finetune:
            given = {**given, ModelOptions: _finetuned(given)}
        elif changed := training.changed():
            raise ArgumentError(
                f"{changed[0]}: goes with --finetune, without which nothing trains."
            )
        return self._step.run(given)


def _finetuned(given: Mapping[type, Any]) -> ModelOptions:
    """The model of the run directory, trained or already there."""
    from outdim.analysis.labelled_items import read_items, task_of
    from outdim.run.directory import MODEL, check_directory
    from outdim.run.stop import StopSignal

    glue: GlueOptions = given[GlueOptions]
    options: FinetuneOptions = given[FinetuneOptions]
    model: ModelOptions = given[ModelOptions]
    output: Path = given[OutputOptions].output
    glue.check()
    options.check()
    given[SpreadOptions].check()
    if Share.of(given[SpreadOptions]).count > 1:
        raise ArgumentError("finetune: one process trains; share the evaluation alone, afterwards.")
    if given[TokenizerOptions].tokenizer is not None:
        raise ArgumentError("tokenizer: fine-tuning takes that of the model; name no other.")
    check_directory(output)
    task = task_of(glue)
    folders = [path for path in glue.data if Path(path).expanduser().is_dir()]
    if glue.data and not (options.train or folders):
        raise ArgumentError("train: name the training files; data names those of the evaluation.")
    train = read_items(task, options.train or folders, "train")
    validation = read_items(task, glue.data).take(glue.rows, given[AblationOptions].seed)
    with StopSignal().installed() as stop:
        finetune(
            model.model,
            task,
            train.take(options.train_rows, options.train_seed),
            validation,
            options,
            output / MODEL,
            max_length=glue.max_length,
            device=given[SpreadOptions].device,
            check_stop=stop.check,
        )
    return dataclasses.replace(model, model=str(output / MODEL))
