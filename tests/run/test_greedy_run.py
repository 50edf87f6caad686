"""A greedy choice as a run: rounds follow from each other, whoever computes them, or resumed."""

import json
import multiprocessing
import sys
from pathlib import Path

import pytest
from outdim import open_corpus
from outdim.analysis.greedy import greedy
from outdim.analysis.greedy_text import GreedyLm
from outdim.analysis.input_options import TextOptions
from outdim.analysis.inputs import Inputs
from outdim.cli import main
from outdim.errors import Interrupted
from outdim.models import load_model
from outdim.run.execute import stages
from outdim.run.plan import Entry, Study
from outdim.tables import read_parquet
from outdim.tokens import load_tokenizer
from run_helpers import command, results, without_report
from tiny import tiny_texts


@pytest.fixture(scope="module")
def common(corpus, narrow_llama) -> list[str]:
    return ["greedy", "lm", str(corpus), "--model", str(narrow_llama), "--shard-bytes", "4096",
            "--token-budget", "512", "--max-length", "24", "--device", "cpu", "--controls", "2",
            "--rounds", "2", "--block", "5", "--draws", "60"]  # fmt: skip


@pytest.fixture(scope="module")
def alone(tmp_path_factory, common) -> Path:
    path = tmp_path_factory.mktemp("alone") / "run"
    command(*common, "--workers", 1, "--output", path, page=True)
    return path


def test_the_run_gives_what_python_gives(alone, corpus, narrow_llama):
    found = greedy(
        load_model(str(narrow_llama), head="lm"), load_tokenizer(str(narrow_llama)),
        open_corpus(corpus, unit_bytes=4096), rounds=2, controls=2, max_length=24,
        token_budget=512, draws=60,
    )  # fmt: skip
    rounds = read_parquet(alone / "greedy_lm_rounds.parquet").to_pylist()
    assert [row["dim"] for row in rounds] == found.dims
    for row, choice in zip(rounds, found.choices, strict=True):
        assert row["chosen_by"] == pytest.approx(choice.harm, abs=1e-6)
    table = read_parquet(alone / "greedy_lm.parquet").to_pandas()
    sets = table[(table.metric == "loss") & (table.role == "ablated")]
    assert [sorted(dims) for dims in sets.dims] == [sorted(found.dims[:n]) for n in (1, 2)]
    assert sets.difference.to_numpy() == pytest.approx(found.harm(), abs=1e-6)
    assert "What the set does as it grows" in (alone / "report.html").read_text()


def test_rounds_are_stages_of_the_plan(alone):
    entry = Study(alone)["greedy-lm"]
    first, second, last = stages(entry)
    assert {entry.work[shard]["round"] for shard in first} == {0}
    assert {(entry.work[s]["first"], entry.work[s]["last"]) for s in second} == {(0, 5), (5, 7)}
    assert {(entry.work[s]["first"], entry.work[s]["last"]) for s in last} == {(0, 5), (5, 6)}
    assert [*first, *second, *last] == list(range(len(entry.work)))


def test_interrupted_in_a_later_round_it_goes_on_and_ends_with_the_same_bytes(
    alone, common, tmp_path, monkeypatch, capsys
):
    path, update, done = tmp_path / "run", GreedyLm.update, []
    entry = Study(alone)["greedy-lm"]
    stop = len(stages(entry)[0]) + 2

    def stopping(self, unit, progress):
        done.append(unit)
        if len(done) == stop:
            raise Interrupted(15)
        return update(self, unit, progress)

    monkeypatch.setattr(GreedyLm, "update", stopping)
    arguments = [*common, "--workers", "1", "--output", str(path)]
    with without_report():
        assert main(arguments) in (130, 143)
        assert f"{stop - 1} of {len(entry.work)} shards" in capsys.readouterr().err
        assert main(arguments) == 0
    assert len({json.dumps(unit) for unit in done}) == len(done) - 1  # none was computed twice
    assert done[-1] == dict(entry.work[-1])
    assert results(path) == results(alone)


def test_shares_take_their_part_of_every_round(alone, common, tmp_path):
    """The first share does what a round lacks before the next; the second finds it done."""
    arguments = [*common, "--workers", "1", "--shard-count", "2", "--output", str(tmp_path / "run")]
    with without_report():
        assert main([*arguments, "--shard-index", "0"]) == 4
        assert main([*arguments, "--shard-index", "1"]) == 0
    assert results(tmp_path / "run") == results(alone)


def test_another_text_in_an_earlier_round_makes_later_rounds_void(narrow_llama, tmp_path):
    """A file that is altered keeps the first round of the other, and nothing of later rounds."""
    files, texts = [tmp_path / name for name in ("a.txt", "b.txt")], tiny_texts(6, 12)
    inputs = {
        "model": load_model(str(narrow_llama), head="lm"),
        "tokenizer": load_tokenizer(str(narrow_llama)),
    }
    recorded = {"rounds": 2, "candidates": [0, 1, 2], "random": [], "controls": 0, "block": 5}

    def planned(last: str) -> Entry:
        for file, own in zip(files, (texts[:3], [*texts[3:5], last]), strict=True):
            file.write_text("\n".join(own) + "\n")
        read = Inputs.of({}, corpus=open_corpus([str(file) for file in files]), **inputs)
        files_of = TextOptions.identity(read)
        return Entry("greedy-lm", recorded, files_of, tuple(GreedyLm.work(recorded, read)))

    old, new = planned(texts[5]), planned(texts[5][::-1])
    same = {
        (unit["round"], Path(unit["path"]).name)
        for unit, *leaves in zip(old.work, old.leaves, new.leaves, strict=True)
        if leaves[0] == leaves[1]
    }
    assert {unit["round"] for unit in old.work} == {0, 1, 2}
    assert same == {(0, "a.txt")}
    assert planned(texts[5]).leaves == old.leaves


def test_two_processes_at_once_share_every_round(alone, common, tmp_path):
    """Each does its part of a round and what the other lacks, while that merges its own."""
    context = multiprocessing.get_context("fork")  # all that takes long to load is loaded
    shared = [*common, "--workers", "1", "--output", str(tmp_path / "run"), "--shard-count", "2"]
    with without_report():
        both = [
            context.Process(
                target=lambda i=i: sys.exit(main([*shared, "--shard-index", str(i)])), daemon=True
            )
            for i in range(2)
        ]
        for process in both:
            process.start()
        for process in both:
            process.join(120)
        assert {process.exitcode for process in both} <= {0, 4}
        assert 0 in [process.exitcode for process in both]
    assert results(tmp_path / "run") == results(alone)
