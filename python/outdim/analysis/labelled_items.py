"""Labelled items of a task: the options that name them, and what a plan records of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from outdim.analysis.finetune import training_of
from outdim.analysis.input_options import args_of
from outdim.analysis.inputs import Inputs
from outdim.analysis.step import Json, Progress
from outdim.analysis.tasks import HUB, OTHER, TASKS, Task
from outdim.corpus.labelled import Columns, LabelledTexts, read_hub, read_labelled
from outdim.errors import ArgumentError, DataError
from outdim.models.label_order import label_order

if TYPE_CHECKING:
    from outdim.analysis.variants.items import Batching

TaskName = Literal[
    "cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "mnli_mm", "qnli", "rte", "wnli", "other"
]


@dataclass(frozen=True, kw_only=True)
class StsOptions:
    """Compare the cosine of two pooled texts with the score that people gave them.

    Args:
        data: Files (.tsv, .csv, .jsonl, .parquet), or a folder in GLUE's layout; none takes the
            validation split of nyu-mll/glue on the hub.
        text: Columns of the text, or of the two texts; none takes those of the task.
        label: Column of the label or score; None takes that of the task.
        rows: So many rows, drawn at random; None takes all.
        batch_size: Texts in a batch.
        max_length: Tokens of a text (or two) with special tokens; longer ones are cut.
        threads: Threads of a process.
    """

    data: list[str] = dataclasses.field(default_factory=list)
    text: list[str] = dataclasses.field(default_factory=list)
    label: str | None = None
    rows: int | None = None
    batch_size: int = 256
    max_length: int = 256
    threads: int = 1

    def check(self) -> None:
        """Raise ArgumentError for a value out of range."""
        for name in ("rows", "batch_size", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ArgumentError(f"{name}: expected at least 1, got {value}.")
        if len(self.text) > 2:
            raise ArgumentError(f"text: expected one or two columns, got {len(self.text)}.")


@dataclass(frozen=True, kw_only=True)
class GlueOptions(StsOptions):  # noqa: D101 - also what is said of labelled items
    __doc__ = f"""Evaluate a classifier on a task of GLUE or any labelled file, intact and ablated.

    Args:
        task: Of GLUE, or other for a file whose columns and labels are named.
        labels: Names of the labels of another file, in the order of their numbers; none where the
            label is a score.
        outputs: Labels in the order of the model's outputs, where its id2label does not say them.
{args_of(StsOptions).lstrip(chr(10))}"""

    task: TaskName = dataclasses.field(metadata={"example": "sst2"})
    labels: list[str] = dataclasses.field(default_factory=list)
    outputs: list[str] | None = None


def task_of(options: StsOptions) -> Task:
    """The task that options speak of, with the columns they name.

    Raises:
        ArgumentError: Labels or columns of a file that is no task of GLUE are missing.
    """
    name = getattr(options, "task", "sts")
    labels = tuple(getattr(options, "labels", ()))
    if name != OTHER:
        if labels:
            raise ArgumentError(f"labels: those of {name} are known; they go with --task other.")
        task = TASKS[name]
    elif not (options.data and options.text and options.label):
        raise ArgumentError("task: other needs --data, --text and --label.")
    else:
        task = Task(OTHER, labels, ("acc", "mcc") if labels else ("pearson", "spearman"), ())
    if options.text or options.label:
        text = tuple(options.text) or task.columns[0].texts
        named = Columns(text, options.label or task.columns[0].label)
        task = dataclasses.replace(task, columns=(named,))
    return task


def read_items(task: Task, data: Sequence[str], split: str = "") -> LabelledTexts:
    """The rows of a task: of files or, where none is given, of the hub.

    Args:
        task: Which task.
        data: Files, or a folder in GLUE's layout.
        split: "train", or "" for those with labels to evaluate on.

    Raises:
        DataError: See `read_labelled`.
    """
    if not data:
        config = task.config or task.name
        return read_hub(HUB, config, split or task.split, task.columns[0], task.labels)
    names = ("train.tsv",) if split else task.files
    files = [file for given in data for file in task.files_in(Path(given).expanduser(), names)]
    return read_labelled(files, task.columns, task.labels)


def resolve_items(options: StsOptions, inputs: Inputs, seed: int) -> Json:
    """What a plan records of a labelled task: its options, how many items, and their hash.

    Raises:
        ArgumentError: See `task_of`; one column where two are compared.
        DataError: See `read_labelled`; a tokenizer of another model.
    """
    from outdim.models import sequence_length
    from outdim.tokens import check_tokenizer

    options.check()
    task = task_of(options)
    items = read_items(task, options.data).take(options.rows, seed)
    if task.cosine and items.pairs is None:
        raise ArgumentError("text: expected two columns, whose texts are compared.")
    vocab_size, config = inputs.architecture.vocab_size, inputs.model.config
    inputs.cautions += check_tokenizer(inputs.tokenizer, vocab_size, config)
    limit = sequence_length(inputs.model, None)
    return {
        **dataclasses.asdict(options),
        "items": {"rows": len(items), "sha256": items.sha256},
        "max_length": sequence_length(inputs.model, min(options.max_length, limit)),
    }


def resolve_glue(options: GlueOptions, inputs: Inputs, seed: int) -> Json:
    """What a plan records of the items of a classifier: the labels of the task are its own.

    Raises:
        ArgumentError: A value out of range, or outputs that are no labels.
        DataError: Items that cannot be read, or a classifier of something else.
    """
    config = inputs.model_with("classifier").config
    order = label_order(config, task_of(options).labels, options.outputs)
    if order.caution:
        inputs.cautions.append(order.caution)
    found = {"order": list(order.outputs), "named": not order.caution}
    recorded = {**resolve_items(options, inputs, seed), **found}
    trained = training_of(inputs.options["model"]) if "model" in inputs.options else None
    same = trained and trained["validation"]["sha256"] == recorded["items"]["sha256"]
    if trained and same and len(trained["history"]) > 1:  # of one epoch none was chosen
        inputs.cautions.append(
            f"The model was fine-tuned on {trained['train']['rows']:,} rows, and the best of "
            f"{len(trained['history'])} epochs was chosen on these very items: what the intact "
            "model scores is a little too good."
        )
    return recorded


def recorded_task(kind: type[StsOptions], recorded: Mapping[str, Any]) -> Task:
    """The task of options ``kind`` that a plan recorded."""
    return task_of(kind(**{part.name: recorded[part.name] for part in dataclasses.fields(kind)}))


def recorded_items(kind: type[StsOptions], recorded: Mapping[str, Any]) -> LabelledTexts:
    """The items that a plan recorded of options ``kind``.

    Raises:
        DataError: They are others now.
    """
    items = read_items(recorded_task(kind, recorded), recorded["data"]).take(
        recorded["rows"], recorded["seed"]
    )
    if items.sha256 != recorded["items"]["sha256"]:
        raise DataError("data: the files were changed since the run was planned.")
    return items


def batching(recorded: Mapping[str, Any], inputs: Inputs, progress: Progress) -> Batching:
    """How `variants.predict` reads items; it stops where the process is asked to."""

    def count(tokens: int) -> None:
        inputs.resources.check_stop()
        progress(tokens)

    size, length = recorded["batch_size"], recorded["max_length"]
    return {"batch_size": size, "max_length": length, "progress": count}
