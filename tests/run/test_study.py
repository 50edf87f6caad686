"""A study: steps added one after the other, each computed once, whatever goes on beside it."""

import dataclasses
import threading
from contextlib import nullcontext

import pyarrow.parquet as pq
import pytest
import torch
from outdim import manifest
from outdim.analysis import registry
from outdim.analysis.correlate import Correlate
from outdim.analysis.count import Count
from outdim.analysis.detect import Detect
from outdim.analysis.step import Observer
from outdim.analysis.table import TidyRows
from outdim.errors import DataError, ResumeError
from outdim.run.execute import group_steps
from outdim.run.plan import Entry, Study
from outdim.run.stop import StopSignal
from run_helpers import give, replaced, results, without


@dataclasses.dataclass(frozen=True, kw_only=True)
class LargestOptions:
    """The largest |h| of every point.

    Args:
        points: Names of points.
    """

    points: list[str] | None = None


class _Max:
    def __init__(self, points):
        self.largest = {point: torch.zeros(()) for point in points}
        self.pending = {}

    def begin(self, ids, group, rows):
        self.pending, self.valid = {}, group > 0

    def add(self, point, hidden):
        self.pending[point] = hidden.reshape(-1, hidden.shape[-1])[self.valid].abs().max()

    def commit(self):
        self.merge(self.pending)

    def discard(self):
        self.pending = {}

    def state_dict(self):
        return dict(self.largest)

    def merge(self, state):
        self.largest = {p: torch.maximum(self.largest[p], state[p]) for p in self.largest}


@dataclasses.dataclass(frozen=True)
class LargestResult:
    rows: dict

    def tables(self):
        tidy = TidyRows()
        for layer, (point, value) in enumerate(self.rows.items()):
            tidy.add("absmax", value[None], point=point, layer=layer, selection="all", n=1)
        return {"stats": tidy.table()}

    def account(self):
        return {}

    def headline(self):
        return ["something"]

    def cautions(self):
        return []


class Largest(Observer):
    """The largest |h|."""

    name = "largest"
    Options = LargestOptions

    def accumulators(self):
        self.__dict__.setdefault("_parts", {"max": _Max(self.points)})
        return self._parts

    def result(self):
        largest = self.accumulators()["max"].largest
        return LargestResult({point: value.numpy() for point, value in largest.items()})


@pytest.fixture(autouse=True)
def another_step(monkeypatch):
    """A step of another package."""
    monkeypatch.setitem(registry._STEPS, "largest", ("The largest.", f"{__name__}:Largest"))
    registry.steps.cache_clear()
    yield
    registry.steps.cache_clear()


@pytest.fixture
def computed(monkeypatch) -> list[tuple[str, int]]:
    """Which shard of which steps was computed, in one go."""
    found: list[tuple[str, int]] = []

    def spy(update_all):
        def spying(cls, steps, unit, progress):
            entry = "+".join(step.name for step in steps), unit.get("index", 0)
            if entry not in found[-1:]:  # an observer alone takes its shard in two calls
                found.append(entry)
            return update_all(cls, steps, unit, progress)

        return classmethod(spying)

    for cls in (Count, Detect, Correlate, Largest):
        monkeypatch.setattr(cls, "update_all", spy(cls.update_all.__func__))
    return found


def test_another_text_is_refused_before_the_model_runs(corpus, options, tmp_path, monkeypatch):
    give("correlate", corpus, options)
    other = tmp_path / "other.txt"
    other.write_text("w1 w2 w3\n")

    def resolve(cls, options, inputs):
        raise AssertionError("the step was asked")

    monkeypatch.setattr(Largest, "resolve", classmethod(resolve))
    with pytest.raises(ResumeError, match=r"another text \(.*other\.txt here\)"):
        give("largest", other, without(options, "permutations"))


def test_steps_one_after_the_other_cost_their_own_shards_alone(
    corpus, options, tiny_directory, computed
):
    free = without(options, "shard_bytes")  # the cut of the text is the study's own business
    counting = replaced(without(free, "model", "max_length", "token_budget", "permutations"),
                        tokenizer=str(tiny_directory))  # fmt: skip
    shards = [0]
    give("count", corpus, counting)
    assert computed == [("count", shard) for shard in shards]
    detecting = replaced(options, k=3.0)
    give("detect", (), without(detecting, "max_length", "token_budget", "shard_bytes"))
    assert computed[1:] == [("detect", 0)]
    run = give("correlate", corpus, free)
    assert [name for name, _ in computed[2:]] == ["correlate"]
    before = results(run)
    del computed[:]
    give("analyze", corpus, replaced(free, steps=["correlate"]))
    give("correlate", corpus, free)
    give("count", corpus, counting)
    give("detect", (), without(detecting, "max_length", "token_budget", "shard_bytes"))
    assert not computed
    assert results(run) == before
    assert list(Study(run).entries()) == ["count", "detect", "correlate"]
    read = manifest.read(run)
    assert set(read["results"]) >= {"counts.parquet", "stats.parquet", "detection.json"}
    assert all(manifest.result_path(run, name) for name in read["results"])
    assert set(read["headlines"]) == {"count", "detect", "correlate"}
    assert set(pq.read_table(run / "stats.parquet")["step"].to_pylist()) == {"detect", "correlate"}


def test_a_pass_serves_both_steps_and_gives_what_each_alone_gives(
    corpus, options, computed, undisturbed, monkeypatch
):
    names = ["correlate", "largest"]
    run = give("analyze", corpus, replaced(options, steps=names))
    assert [found for found in computed if found[0] != "count"] == [
        ("detect", 0),
        *(("correlate+largest", shard) for shard in range(4)),
    ]
    together = pq.read_table(run / "stats.parquet").to_pandas()
    alone = results(give("correlate", corpus, replaced(options, output=run.with_name("alone"))))
    assert alone == undisturbed
    (state,) = run.glob("state/correlate/*")
    (other,) = run.with_name("alone").glob("state/correlate/*")
    assert state.read_bytes() == other.read_bytes()
    del computed[:]
    later = give("correlate", corpus, replaced(options, output=run.with_name("later")))
    del computed[:]
    give("analyze", corpus, replaced(options, output=later, steps=names))
    assert computed == [("largest", shard) for shard in range(4)]
    assert pq.read_table(later / "stats.parquet").to_pandas().equals(together)


def test_two_steps_that_race_in_one_study_are_both_there(corpus, options):
    errors = []

    def run(steps):
        try:
            give("analyze", corpus, replaced(options, steps=steps))
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=([name],)) for name in ("correlate", "largest")]
    with pytest.MonkeyPatch.context() as patch:
        # Signals are the main thread's business.
        patch.setattr(StopSignal, "installed", lambda stop: nullcontext(stop))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not errors
    study = Study(options.output)
    assert {"count", "detect", "correlate", "largest"} <= set(study.entries())
    steps = set(pq.read_table(options.output / "stats.parquet")["step"].to_pylist())
    assert steps == {"detect", "correlate", "largest"}
    assert all(
        manifest.result_path(options.output, name)
        for name in manifest.read(options.output)["results"]
    )


def test_an_altered_table_is_written_anew_for_all_steps(corpus, options):
    run = give("analyze", corpus, replaced(options, steps=["correlate", "largest"]))
    before = (run / "stats.parquet").read_bytes()
    for broken in (before[:-1], b""):
        (run / "stats.parquet").write_bytes(broken)
        with pytest.raises(DataError, match="altered since"):
            manifest.result_path(run, "stats.parquet")
        give("detect", (), without(options, "max_length", "token_budget", "shard_bytes"))
        assert (run / "stats.parquet").read_bytes() == before
    (run / "manifest.json").unlink()
    give("detect", (), without(options, "max_length", "token_budget", "shard_bytes"))
    assert (run / "stats.parquet").read_bytes() == before
    assert manifest.result_path(run, "stats.parquet")


def test_steps_go_together_where_they_run_the_model_in_the_same_way(tmp_path):
    units = ({"index": 0}, {"index": 1})
    options = {"model": "m", "max_length": 9, "source": ["x"]}

    def entry(step, work=units, **changes):
        return Entry(step, {**options, **changes}, {"attached": {}}, work)

    def grouped(*entries):
        study = Study(tmp_path / str(len(list(tmp_path.iterdir()))))
        study.run.mkdir()
        study.add(entries)
        return group_steps(study, [entry.step for entry in entries])

    alone = [["count"], ["detect"]]
    first = (entry("count"), entry("detect", ({},)))
    assert grouped(*first, entry("correlate"), entry("largest")) == [
        *alone,
        ["correlate", "largest"],
    ]
    for other in (entry("largest", max_length=8), entry("largest", work=units[:1])):
        assert grouped(*first, entry("correlate"), other) == [*alone, ["correlate"], ["largest"]]
