"""What a request plans: steps that are needed, and where their options come from."""

from pathlib import Path

from outdim.analysis.count import Count, CountOptions
from outdim.analysis.evaluate import EvaluateLm, EvaluateOptions
from outdim.analysis.input_options import TextOptions
from outdim.analysis.screen import ScreenMaskedOptions
from outdim.analysis.sweep_glue import SweepGlueOptions
from outdim.analysis.sweeps.options import SweepMaskedOptions, SweepOptions
from outdim.commands import commands, find
from outdim.run.plan import Entry
from outdim.run.request import Request, _cut_as_before, _options


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
