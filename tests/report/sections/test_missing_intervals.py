"""Where no interval can be given, its ends are null: every section is drawn all the same."""

import dataclasses
import re

import numpy as np
import outdim
import pyarrow as pa
import pytest
from outdim import Ablation
from outdim.analysis.attention import AttentionOptions
from outdim.analysis.correlate import CorrelateOptions
from outdim.analysis.lifecycle import LifecycleOptions
from outdim.analysis.results.labelled import LabelledResult
from outdim.analysis.tasks import TASKS
from outdim.analysis.variants.variant import Variant
from outdim.report.sections import section_of
from outdim.report.study import Study, read_study
from report.sections.test_evaluate import planted as evaluated
from report.sections.test_predictions import planted as predicted
from report.sections.test_sweep import planted as swept
from report.synthetic import write_study
from tiny import tiny_model, tiny_tokenizer

DIM = 3


class Bare(Study):
    """A study whose intervals are all missing."""

    def table(self, name):
        found = super().table(name)
        if found is None:
            return None
        for place, column in enumerate(found.schema):
            if re.search(r"(^|_)(low|high)$", column.name):
                found = found.set_column(place, column, pa.nulls(len(found), column.type))
        return found


def four_pairs() -> LabelledResult:
    """Some draws of four pairs are constant: no metric has an interval."""
    variants = [Variant("intact"), Variant("ablated", Ablation([1])),
                Variant("control", Ablation([2]))]  # fmt: skip
    outputs = [np.array(one, np.float32)[:, None] for one in (range(4), (2, 0, 1, 3), (2, 2, 2, 3))]
    return LabelledResult(
        step="evaluate-sts", asked=TASKS["sts"], variants=variants, outputs=outputs,
        truth=np.arange(4.0), clusters=np.arange(4), seed=0,
    )  # fmt: skip


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    words = np.random.default_rng(0).integers(0, 90, (4, 12))
    texts = [" ".join(f"w{w}" for w in row) for row in words]
    steps = {
        "attention": AttentionOptions(dims=(DIM, 1), ablate=(DIM,)),
        "lifecycle": LifecycleOptions(dims=(DIM, 1)),
        "correlate": CorrelateOptions(),
    }
    found = outdim.analyze(tiny_model("bert"), tiny_tokenizer(), texts, steps)
    planted = {
        "evaluate-lm": evaluated(),
        "evaluate-sts": four_pairs(),
        "predictions-lm": predicted(),
        "sweep-lm": swept(),
    }
    run = write_study(tmp_path_factory.mktemp("run") / "run", found | planted)
    whole = read_study(run)
    parts = {field.name: getattr(whole, field.name) for field in dataclasses.fields(whole)}
    return Bare(**parts)


@pytest.mark.parametrize(
    "step",
    [
        *("attention", "lifecycle", "correlate"),
        *("evaluate-lm", "evaluate-sts", "predictions-lm", "sweep-lm"),
    ],
)
def test_a_section_is_drawn_without_any_interval(study, step):
    found = section_of(study, step, [DIM])
    for table in found.tables:
        texts = [cell.text for row in table.cells() for cell in row]
        assert texts
        ends = [text for text in texts if re.search(r"\bnan\b|\[[\d−]|\[n/a", text)]
        assert not ends, table.title
    for figure in found.figures:
        figure.plot()
        figure.draw()
