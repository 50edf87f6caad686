"""Labelled tasks: GLUE, similarity of sentences, and any labelled file.

Names of metrics are those of lm-evaluation-harness; orders of labels those of the data set
``nyu-mll/glue``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from outdim.corpus.labelled import Columns
from outdim.errors import ArgumentError
from outdim.stats.scores import score

HUB = "nyu-mll/glue"


@dataclass(frozen=True)
class Task:
    """What is asked of a model, and where the answers are.

    Attributes:
        name: Of the task.
        labels: Names in the order of their numbers; none where the label is a score.
        metrics: The first one leads, and chooses the best epoch.
        columns: Ways in which files name their columns, the hub's first.
        config, split: Of the data set on the hub.
        files: Names of the files with labels in GLUE's own folder of the task.
        cosine: Whether the score is the cosine of two pooled texts, which needs no head.
    """

    name: str
    labels: tuple[str, ...]
    metrics: tuple[str, ...]
    columns: tuple[Columns, ...]
    config: str = ""
    split: str = "validation"
    files: tuple[str, ...] = ("dev.tsv",)
    cosine: bool = False

    def predicted(self, outputs: NDArray[np.float32]) -> NDArray[Any]:
        """Labels int64 [N], or scores float64 [N], of outputs [N, C] in the order of the labels."""
        return outputs.argmax(1) if self.labels else outputs[:, 0].astype(np.float64)

    def scores(self, outputs: NDArray[np.float32], truth: NDArray[Any]) -> dict[str, float]:
        """Every metric of outputs [N, C]."""
        predicted = self.predicted(outputs)
        return {metric: score(metric, predicted, truth) for metric in self.metrics}

    def files_in(self, given: Path, names: tuple[str, ...]) -> list[Path]:
        """``given`` or, of a folder in GLUE's own layout, the one of its files that is wanted.

        Raises:
            ArgumentError: The folder has none of them.
        """
        if not given.is_dir():
            return [given]
        there = [given / name for name in names if (given / name).is_file()]
        if not there:
            raise ArgumentError(f"data: the folder {given} has no {' or '.join(names)}.")
        return there[:1]


_PAIR = Columns(("sentence1", "sentence2"))
_SCORES = ("pearson", "spearman")
_ENTAILMENT = ("entailment", "not_entailment")
_NLI = ("entailment", "neutral", "contradiction")
_NLI_COLUMNS = (
    Columns(("premise", "hypothesis")),
    Columns(("sentence1", "sentence2"), "gold_label"),
)
_SIMILARITY = (_PAIR, Columns(("sentence1", "sentence2"), "score"))

TASKS = {
    task.name: task
    for task in (
        Task(
            "cola",
            ("unacceptable", "acceptable"),
            ("mcc",),
            (Columns(("sentence",), headerless=("source", "label", "mark", "sentence")),),
        ),
        Task(
            "sst2",
            ("negative", "positive"),
            ("acc",),
            (Columns(("sentence",), headerless=("sentence", "label")),),
        ),
        Task(
            "mrpc",
            ("not_equivalent", "equivalent"),
            ("acc", "f1"),
            (_PAIR, Columns(("#1 String", "#2 String"), "Quality")),
        ),
        Task("stsb", (), _SCORES, _SIMILARITY),
        Task(
            "qqp",
            ("not_duplicate", "duplicate"),
            ("acc", "f1"),
            (
                Columns(("question1", "question2")),
                Columns(("question1", "question2"), "is_duplicate"),
            ),
        ),
        Task(
            "mnli",
            _NLI,
            ("acc",),
            _NLI_COLUMNS,
            split="validation_matched",
            files=("dev_matched.tsv",),
        ),
        Task(
            "mnli_mm",
            _NLI,
            ("acc",),
            _NLI_COLUMNS,
            config="mnli",
            split="validation_mismatched",
            files=("dev_mismatched.tsv",),
        ),
        Task("qnli", _ENTAILMENT, ("acc",), (Columns(("question", "sentence")),)),
        Task("rte", _ENTAILMENT, ("acc",), (_PAIR,)),
        Task("wnli", ("not_entailment", "entailment"), ("acc",), (_PAIR,)),
        Task("sts", (), ("spearman", "pearson"), _SIMILARITY, config="stsb", cosine=True),
    )
}

#: The task of a labelled file that is none of these.
OTHER = "other"

#: Those that a classifier is asked, by name.
GLUE = tuple(name for name, task in TASKS.items() if not task.cosine)
