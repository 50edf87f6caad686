"""Fine-tuning of a classifier on a labelled task, by the Trainer of transformers."""

from __future__ import annotations

import dataclasses
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from outdim import hub
from outdim.analysis.tasks import Task
from outdim.corpus.labelled import LabelledTexts
from outdim.errors import ArgumentError, BackendError, DataError, ResumeError
from outdim.files import read_json, write_json

#: Beside the model: what it was trained on, and how. Written last.
RECORD = "finetune.json"

_OF_SPEED = ("_runtime", "_per_second", "_time")


@dataclass(frozen=True, kw_only=True)
class FinetuneOptions:
    """Fine-tuning before the evaluation, as in Puccetti et al. 2022.

    Args:
        finetune: Fine-tune the model first, and keep it in the folder "model" of the output; what
            was interrupted goes on after its last whole epoch. The best epoch is that with the best
            metric on the data of the evaluation, as in the papers.
        train: Training files, or a folder in GLUE's layout; none takes the folder of data, or the
            hub.
        train_rows: So many of their rows, drawn at random; None takes all.
        epochs: Passes over the training rows.
        learning_rate: At the start; it falls linearly to 0.
        train_batch_size: Rows per step.
        weight_decay: Of AdamW.
        train_seed: Of the new head, of the order of rows, and of dropout.
    """

    finetune: bool = False
    train: list[str] = dataclasses.field(default_factory=list)
    train_rows: int | None = None
    epochs: int = 4
    learning_rate: float = 2e-5
    train_batch_size: int = 32
    weight_decay: float = 0.01
    train_seed: int = 42

    def changed(self) -> list[str]:
        """Names of the options of the training that are not as they are by default."""
        default = FinetuneOptions(finetune=self.finetune)
        own = dataclasses.asdict(self)
        return [name for name, value in dataclasses.asdict(default).items() if own[name] != value]

    def check(self) -> None:
        """Raise ArgumentError for a value out of range."""
        for name in ("train_rows", "epochs", "train_batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ArgumentError(f"{name}: expected at least 1, got {value}.")
        if not self.learning_rate > 0:
            raise ArgumentError(f"learning_rate: expected more than 0, got {self.learning_rate}.")


def finetune(
    name: str,
    task: Task,
    train: LabelledTexts,
    validation: LabelledTexts,
    options: FinetuneOptions,
    directory: Path,
    *,
    max_length: int = 256,
    device: str = "auto",
    check_stop: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Fine-tune a model and save the best epoch, tokenizer included, in ``directory``.

    One that is there already is taken as it is.

    Returns:
        What is written beside it: base model, data, options, metrics by epoch.

    Raises:
        ArgumentError: An option out of range, or a GPU that is not the first.
        BackendError: accelerate is not installed.
        DataError: The model cannot be loaded, or lacks weights other than those of its head.
        ResumeError: There is another model in ``directory``.
    """
    options.check()
    if device.startswith("cuda:") and device != "cuda:0":
        raise ArgumentError(
            f"device: fine-tuning runs on the CPU or on the first GPU, got {device!r}; let "
            "CUDA_VISIBLE_DEVICES name that GPU alone, and give cuda."
        )
    asked = {
        "base": name,
        "task": task.name,
        "labels": list(task.labels),
        "train": {"rows": len(train), "sha256": train.sha256},
        "validation": {"rows": len(validation), "sha256": validation.sha256},
        "max_length": max_length,
        "options": {k: v for k, v in dataclasses.asdict(options).items() if k != "train"},
    }
    if there := training_of(directory):
        if other := [key for key, value in asked.items() if there.get(key) != value]:
            raise ResumeError(
                f"{directory} holds a model that was fine-tuned otherwise ({', '.join(other)}); "
                "name a new output."
            )
        return there
    trainer, tokenizer = _trainer(
        name, task, train, validation, options, directory, max_length, device, check_stop
    )
    checkpoints = directory / "checkpoints"
    with hub.bars_on_terminals():  # of shards that are written, at every epoch too
        trainer.train(resume_from_checkpoint=_last(checkpoints))
        trainer.model.save_pretrained(directory)
        tokenizer.save_pretrained(directory)
    record = {**asked, "history": _history(trainer.state.log_history)}
    write_json(directory / RECORD, record)
    shutil.rmtree(checkpoints)
    return record


def training_of(model: str | Path) -> dict[str, Any] | None:
    """What is written beside a model that was fine-tuned here; None where there is nothing."""
    path = Path(model) / RECORD
    return read_json(path) if path.is_file() else None


def _last(checkpoints: Path) -> str | None:
    from transformers.trainer_utils import get_last_checkpoint

    return get_last_checkpoint(checkpoints) if checkpoints.is_dir() else None


def _trainer(
    name: str,
    task: Task,
    train: LabelledTexts,
    validation: LabelledTexts,
    options: FinetuneOptions,
    directory: Path,
    max_length: int,
    device: str,
    check_stop: Callable[[], None],
) -> tuple[Any, Any]:
    from transformers import (
        DataCollatorWithPadding,
        PrinterCallback,
        Trainer,
        TrainingArguments,
        set_seed,
    )
    from transformers.utils import is_accelerate_available

    from outdim.tokens import load_tokenizer

    if not is_accelerate_available():
        raise BackendError(
            "accelerate: the Trainer of transformers needs it; install it with "
            "`pip install 'outdim[glue]'`"
        )
    tokenizer = load_tokenizer(name)
    set_seed(options.train_seed)  # before the head is made
    model = _with_new_head(name, task.labels)
    arguments = TrainingArguments(
        output_dir=str(directory / "checkpoints"),
        num_train_epochs=options.epochs,
        learning_rate=options.learning_rate,
        per_device_train_batch_size=options.train_batch_size,
        per_device_eval_batch_size=256,
        weight_decay=options.weight_decay,
        seed=options.train_seed,
        eval_strategy="epoch",
        save_strategy="epoch",
        logging_strategy="epoch",
        save_total_limit=2,
        load_best_model_at_end=True,
        metric_for_best_model=f"eval_{task.metrics[0]}",
        greater_is_better=True,
        report_to="none",
        disable_tqdm=not sys.stderr.isatty(),
        dataloader_pin_memory=False,
        use_cpu=device == "cpu",
    )
    # With several GPUs the Trainer would take so many rows a step for each of them, which is
    # another training. There is no option; it sets this itself where a model is in parts.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=_encoded(tokenizer, train, max_length),
        eval_dataset=_encoded(tokenizer, validation, max_length),
        processing_class=tokenizer,
        data_collator=DataCollatorWithPadding(tokenizer),
        compute_metrics=lambda found: task.scores(found.predictions, validation.labels),
        callbacks=[_watch(check_stop)],
    )
    trainer.remove_callback(PrinterCallback)  # which prints on stdout
    return trainer, tokenizer


def _with_new_head(name: str, labels: Sequence[str]) -> Any:
    """The model with a classifier, whose weights, and a pooler's, may be new."""
    from transformers import AutoConfig, AutoModelForSequenceClassification

    name = hub.expand("model", name)
    named = dict(enumerate(labels)) or {0: "score"}
    config = hub.from_pretrained(
        "model",
        AutoConfig,
        name,
        num_labels=len(named),
        id2label=named,
        label2id={label: number for number, label in named.items()},
    )
    hub.refuse_kernels(config)
    model, info = hub.from_pretrained(
        "model",
        AutoModelForSequenceClassification,
        name,
        config=config,
        output_loading_info=True,
    )
    inside = f"{model.base_model_prefix}."
    lost = [k for k in info["missing_keys"] if k.startswith(inside) and "pooler." not in k]
    if lost:
        raise DataError(
            f"model: the weights of {name!r} lack {len(lost)} tensors of {type(model).__name__}, "
            f"such as {sorted(lost)[0]}, which would be random."
        )
    return model


def _encoded(tokenizer: Any, items: LabelledTexts, max_length: int) -> list[dict[str, Any]]:
    encoded = tokenizer(items.texts, items.pairs, truncation=True, max_length=max_length)
    columns = {**encoded, "labels": items.labels.tolist()}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _watch(check_stop: Callable[[], None]) -> Any:
    """Ends the training when the process was asked to stop, and says how each epoch went."""
    from transformers import TrainerCallback

    class Watch(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            check_stop()

        def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            epoch = _history(state.log_history)[-1]
            said = ", ".join(f"{k} {v:.4g}" for k, v in epoch.items() if k != "epoch")
            print(
                f"outdim: epoch {epoch['epoch']:g} of {args.num_train_epochs:g}: {said}",
                file=sys.stderr,
            )

    return Watch()


def _history(log: Sequence[Mapping[str, Any]]) -> list[dict[str, float]]:
    """Loss and metrics by epoch, of the Trainer's log."""
    epochs: dict[float, dict[str, float]] = {}
    for entry in log:
        row = epochs.setdefault(entry["epoch"], {"epoch": entry["epoch"]})
        for name, value in entry.items():
            if name == "loss":
                row["train_loss"] = value
            elif name.startswith("eval_") and not name.endswith(_OF_SPEED):
                row[name.removeprefix("eval_")] = value
    return [row for row in epochs.values() if len(row) > 1]
