"""What a request plans: steps that are needed, and where their options come from."""

from pathlib import Path

import pytest
from outdim.analysis.correlate import CorrelateOptions
from outdim.analysis.count import Count, CountOptions
from outdim.analysis.criteria import CriteriaOptions
from outdim.analysis.detect import DetectOptions
from outdim.analysis.evaluate import EvaluateLm, EvaluateOptions
from outdim.analysis.heads import LanguageModel
from outdim.analysis.input_options import (
    ForwardOptions,
    ModelOptions,
    ObserveOptions,
    TextOptions,
    TokenizerOptions,
)
from outdim.analysis.inputs import Inputs
from outdim.analysis.screen import ScreenMaskedOptions
from outdim.analysis.sweep_glue import SweepGlueOptions
from outdim.analysis.sweeps.options import SweepMaskedOptions, SweepOptions
from outdim.analysis.variants.variant import AblationOptions
from outdim.commands import commands, find
from outdim.run.plan import Entry
from outdim.run.request import Request, _cut_as_before, _options, plan


def planned(step, options, **others):
    return _options(Request(step, Path("run"), {step: options}, [], others=others), {})


def test_a_screening_has_the_masks_and_items_of_the_sweep_that_verifies_it():
    masked = {"masking": "random", "mask_share": 0.4, "seed": 3}
    found = planned("sweep-mlm", SweepMaskedOptions(**masked, verify=2))
    assert found["screen-mlm"] == ScreenMaskedOptions(**masked)
    asked = SweepGlueOptions(task="cola", data=["dev.tsv"], rows=7, seed=2, outputs=["a", "b"])
    screening = planned("sweep-glue", asked)["screen-glue"]
    for name in ("task", "data", "rows", "seed", "outputs"):
        assert getattr(screening, name) == getattr(asked, name)
    drawn = [planned("sweep-lm", SweepOptions(verify=2, seed=seed)) for seed in (0, 3)]
    assert drawn[0]["screen-lm"] == drawn[1]["screen-lm"]  # next tokens are not drawn
    for task in ("mlm", "glue"):
        _, listed = find(commands(), ["sweep", task])
        assert set(listed.load().options()) == {""}  # no flags of the screening beside


def test_a_step_that_has_to_be_told_more_is_told():
    assert not EvaluateLm.lends(Count)
    own = CountOptions(documents=True)
    assert planned("evaluate-lm", EvaluateOptions(), count=own)["count"] == own
    _, listed = find(commands(), ["evaluate", "lm"])
    assert set(listed.load().options()) == {"", "count"}


def test_a_sweep_that_verifies_a_screening_cuts_the_text_as_it_did():
    there = {"screen-lm": Entry("screen-lm", {"shard_bytes": 1024}, {}, ())}
    asked = Request("sweep lm", Path("run"), {"sweep-lm": SweepOptions(verify=2)}, [TextOptions()])
    assert [options.shard_bytes for options in _cut_as_before(asked, there)] == [1024]


@pytest.fixture(scope="module")
def cut(tmp_path_factory, narrow_llama):
    """Entries of a plan over 24,000 bytes of text, by step."""
    text = tmp_path_factory.mktemp("text") / "text.txt"
    lines = [" ".join(f"w{1 + n % 9}" for n in range(i, i + 1 + i % 13)) for i in range(1500)]
    text.write_text("\n".join(lines)[:24_000])

    def entries(steps, there=None, shard_bytes=None, **ablated):
        reads = [
            ModelOptions(model=str(narrow_llama)),
            TextOptions(source=[str(text)], shard_bytes=shard_bytes),
            TokenizerOptions(),
            ForwardOptions(),
            ObserveOptions(),
            AblationOptions(**ablated),
            LanguageModel(),
        ]
        found = plan(Request("a test", Path("run"), steps, reads), Inputs(), there or {}).entries
        return {entry.step: entry for entry in found}

    return entries


def test_text_that_many_variants_read_is_cut_as_much_finer(cut):
    asked = {"evaluate-lm": EvaluateOptions()}
    found = cut(asked, ablate=["3", "5"], at=["state"], controls=2)  # 5 variants
    for entry in found.values():  # what it needs is cut as it is
        assert entry.options["shard_bytes"] == (1 << 14) // 5
        starts = [unit["start"] for unit in entry.work]
        assert starts == list(range(0, 24_000, 3276))
        assert sum(u["size_bytes"] for u in entry.work) == 24_000
    assert set(found) == {"count", "evaluate-lm"}
    assert cut(asked, ablate=["3", "5"], at=["state"], controls=2) == found
    for name, options in (("count", CountOptions()), ("criteria", CriteriaOptions(twins=1))):
        as_ever = cut({name: options})[name]  # no variants, or twins beside other steps
        assert as_ever.options["shard_bytes"] == 1 << 16
        assert len(as_ever.work) == 1


def test_a_cut_that_is_given_or_was_planned_stays(cut, monkeypatch):
    monkeypatch.setattr("outdim.analysis.variants.text_means._TOKENS", 500)  # of the first unit
    asked = {"evaluate-lm": EvaluateOptions()}
    how = {"ablate": ["3"], "mode": ["mean", "zero"]}  # means are planned, of whatever cut
    given = cut(asked, shard_bytes=20_000, **how)
    assert [len(entry.work) for entry in given.values()] == [2, 2]
    found = cut(asked, **how)
    assert cut(asked, found, **how)["evaluate-lm"] == found["evaluate-lm"]


def test_ranked_dimensions_follow_the_detection_that_is_asked_for_and_once_planned_stay(
    cut, monkeypatch
):
    monkeypatch.setattr("outdim.analysis.dimensions._BESIDE", 0)  # the model has 8 dimensions
    detected = {"correlate": CorrelateOptions(), "detect": DetectOptions(k=0.5)}
    first, fresh = cut({"correlate": CorrelateOptions()}), cut(detected)
    assert len(first["correlate"].options["rank"]) < len(fresh["correlate"].options["rank"])
    again = cut(detected, first)
    assert again["correlate"] == first["correlate"]
    assert again["detect"].options["k"] == 0.5
    detected["correlate"] = CorrelateOptions(rank=[1])
    assert cut(detected, first)["correlate"].options["rank"] == [1]


def test_blocks_of_a_sweep_are_shards_already(cut):
    def units(**options):
        entry = cut({"sweep-lm": SweepOptions(controls=4, **options)})["sweep-lm"]
        return entry.options["shard_bytes"], len(entry.work)

    assert units(block=12) == ((1 << 14) // 13, 20)  # 12 variants and the intact model
    assert units(block=2) == ((1 << 14) // 3, 6 * 5)
