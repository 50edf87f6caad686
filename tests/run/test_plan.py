"""The plan of a study: a log that never changes, in which of commands that race one wins."""

import dataclasses
import multiprocessing
import os
import random
import re
import threading
from pathlib import Path

import pytest
from outdim.errors import DataError, ResumeError
from outdim.files import json_bytes, read_json
from outdim.run.plan import Entry, Study, check_reads, differences

UNITS = tuple({"index": i, "path": "a.txt", "start": i, "size_bytes": 10} for i in range(3))
FILES = [{"path": "a.txt", "size_bytes": 30, "sha256": "0" * 64}]


def entry(step="count", **changes) -> Entry:
    options = {"min_chars": 0, "source": ["a.txt"], "shard_bytes": 10, "tokenizer": "t"}
    inputs = {"files": FILES, "tokenizer": "1" * 64, "attached": {}, "needs": {}}
    return dataclasses.replace(Entry(step, options, inputs, UNITS), **changes)


def with_options(found: Entry, **changes) -> Entry:
    return dataclasses.replace(found, options={**found.options, **changes})


def with_inputs(found: Entry, **changes) -> Entry:
    return dataclasses.replace(found, inputs={**found.inputs, **changes})


def test_a_plan_survives_the_disk_and_another_process_may_add_the_same(tmp_path):
    study = Study(tmp_path)
    study.add([entry("count"), entry("correlate")])
    written = (tmp_path / "plan" / "0.json").read_bytes()
    other = Study(tmp_path)
    other.add([entry("count"), entry("correlate")])
    assert other.added is None
    assert list(other.entries()) == ["count", "correlate"]
    assert other["correlate"] == entry("correlate")
    assert other["correlate"].sha256 == entry("correlate").sha256
    assert os.listdir(tmp_path / "plan") == ["0.json"]
    assert (tmp_path / "plan" / "0.json").read_bytes() == written


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda e: with_options(e, min_chars=7), "options.min_chars: 0 -> 7"),
        (
            lambda e: with_inputs(e, files=[{**FILES[0], "sha256": "f" * 64}]),
            "inputs.files[0].sha256: 0000",
        ),
        (lambda e: dataclasses.replace(e, work=UNITS[:1]), "work: 3 entries -> 1 entries"),
        (lambda e: with_inputs(e, attached={"a": "2"}), "inputs.attached.a: nothing -> 2"),
    ],
)
def test_another_plan_of_a_step_is_refused_with_the_difference(tmp_path, change, named):
    Study(tmp_path).add([entry()])
    with pytest.raises(ResumeError) as caught:
        Study(tmp_path).add([entry("correlate"), change(entry())])
    assert named in str(caught.value)
    assert caught.value.exit_code == 5
    assert list(Study(tmp_path).entries()) == ["count"]  # all of a command, or nothing


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda e: with_options(e, tokenizer="u"), "options.tokenizer: t -> u"),
        (lambda e: with_options(e, min_chars=9), "options.min_chars: 0 -> 9"),
        (lambda e: with_inputs(e, tokenizer="2" * 64), "inputs.tokenizer: 1111"),
        (
            lambda e: with_inputs(e, files=[{**FILES[0], "size_bytes": 31}]),
            "inputs.files[0].size_bytes: 30 -> 31",
        ),
    ],
)
def test_a_step_about_something_else_does_not_join(tmp_path, change, named):
    Study(tmp_path).add([entry()])
    with pytest.raises(ResumeError) as caught:
        Study(tmp_path).add([change(entry("correlate"))])
    assert named in str(caught.value)


def test_another_model_is_said_before_all_else(tmp_path):
    detect = Entry("detect", {"model": "m", "dtype": "float32", "a": 1}, {"model": "3" * 64}, ({},))
    Study(tmp_path).add([detect])
    changed = with_inputs(detect, model="4" * 64)
    for step in ("detect", "screen"):
        for model, said in (
            ("m", "a run of another model (m has other weights now), and"),
            ("n", "a run of another model (m there, n here), and"),
        ):
            other = dataclasses.replace(with_options(changed, model=model, a=2), step=step)
            with pytest.raises(ResumeError, match=re.escape(said)):
                Study(tmp_path).add([other])
    with pytest.raises(ResumeError, match=r"its model in another dtype \(float32 there, bfloat16"):
        Study(tmp_path).add([with_options(changed, dtype="bfloat16")])
    with pytest.raises(ResumeError, match="a run of something else, and"):
        Study(tmp_path).add([with_options(detect, a=2)])


def test_what_a_user_told_leads_and_another_text_is_said(tmp_path):
    """Not what followed from it: nothing of that can be given."""
    text = {"source": ["a.txt"], "min_chars": 0, "left_out": [1, 2]}
    there = Entry("geometry", text, {}, ({},))
    Study(tmp_path).add([there])
    given = {**text, "source": ["b.txt"], "left_out": [3, 4]}
    for refuse in (
        lambda: Study(tmp_path).add([dataclasses.replace(there, options=given)]),
        lambda: check_reads(tmp_path, Study(tmp_path).entries(), given),
    ):
        with pytest.raises(ResumeError) as caught:
            refuse()
        said = str(caught.value)
        assert "holds a run of another text (a.txt there, b.txt here)" in said
        assert "options.source[0]: a.txt -> b.txt. Give" in said
    with pytest.raises(ResumeError, match=r"options\.left_out\[0\]: 1 -> 3"):
        Study(tmp_path).add([dataclasses.replace(there, options={**text, "left_out": [3, 2]})])
    check_reads(tmp_path, Study(tmp_path).entries(), {**text, "model": "m"})


def test_steps_may_cut_the_text_in_their_own_ways_and_read_more(tmp_path):
    Study(tmp_path).add([entry()])
    other = with_options(entry("correlate"), shard_bytes=30, model="m", max_length=9)
    Study(tmp_path).add([with_inputs(other, model="3" * 64)])
    Study(tmp_path).add([Entry("detect", {"model": "m"}, {"model": "3" * 64}, ({},))])
    with pytest.raises(ResumeError, match=r"options\.model: m -> n"):
        Study(tmp_path).add([Entry("other", {"model": "n"}, {"model": "3" * 64}, ({},))])
    assert list(Study(tmp_path).entries()) == ["count", "correlate", "detect"]


def test_two_files_of_one_name_cannot_both_be_kept(tmp_path):
    Study(tmp_path).add([with_inputs(entry(), attached={"counts.parquet": "1"})])
    with pytest.raises(ResumeError, match=r"attached\.counts\.parquet: 1 -> 2"):
        Study(tmp_path).add([with_inputs(entry("other"), attached={"counts.parquet": "2"})])
    Study(tmp_path).add([with_inputs(entry("other"), attached={"counts.parquet": "1"})])


@pytest.mark.parametrize(
    ("content", "error", "said"),
    [
        (b'{"format": 4', DataError, "cannot be read"),
        (b"7", DataError, "cannot be read"),
        (json_bytes({"format": 99, "entries": []}), ResumeError, "format 99"),
        (json_bytes({"format": 3, "entries": []}), ResumeError, "format 3, this .* writes 4"),
        (json_bytes({"format": 4}), DataError, "no part of a plan"),
        (json_bytes({"format": 4, "entries": [{"step": "x"}]}), DataError, "no part of a plan"),
        (json_bytes({"format": 4, "entries": ["x"]}), DataError, "no part of a plan"),
    ],
)
def test_a_broken_plan_and_one_of_another_version_are_errors(tmp_path, content, error, said):
    (tmp_path / "plan").mkdir()
    (tmp_path / "plan" / "0.json").write_bytes(content)
    with pytest.raises(error, match=said):
        Study(tmp_path).entries()


def test_a_step_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(DataError, match="holds no step 'count'"):
        Study(tmp_path)["count"]


def test_every_flipped_bit_of_a_plan_is_found(tmp_path):
    Study(tmp_path).add([entry()])
    path = tmp_path / "plan" / "0.json"
    sound, content = path.read_bytes(), read_json(path)
    for position in range(0, len(sound), 3):
        broken = bytearray(sound)
        broken[position] ^= 1 << position % 8
        path.write_bytes(bytes(broken))
        try:
            assert read_json(path) == content  # a blank became another
        except DataError:
            continue


def test_a_shard_is_named_by_its_unit_its_file_and_what_its_state_depends_on():
    leaves = entry().leaves
    assert len(set(leaves)) == 3
    for other in (with_options(entry(), min_chars=1), with_inputs(entry(), tokenizer="2" * 64)):
        assert not set(leaves) & set(other.leaves)
    assert with_options(entry(), source=["b", "a.txt"], shard_bytes=7).leaves == leaves
    moved = tuple({**unit, "index": unit["index"] + 5} for unit in UNITS)
    assert dataclasses.replace(entry(), work=moved).leaves == leaves
    one = {"index": 3, "path": "b.txt", "start": 0, "size_bytes": 5}
    more = [*FILES, {"path": "b.txt", "size_bytes": 5, "sha256": "5" * 64}]
    both = dataclasses.replace(with_inputs(entry(), files=more), work=(*UNITS, one))
    assert both.leaves[:3] == leaves
    mended = with_inputs(both, files=[*FILES, {**more[1], "sha256": "6" * 64}])
    assert mended.leaves[:3] == leaves
    assert mended.leaves[3] != both.leaves[3]
    drawn = dataclasses.replace(with_options(entry(), k=2), presentation=("k",))
    assert drawn.leaves == with_options(drawn, k=3).leaves


@pytest.mark.parametrize("attempt", range(50))
def test_of_commands_that_race_with_different_options_exactly_one_wins(tmp_path, attempt):
    barrier = threading.Barrier(4)
    outcome = {}

    def add(index):
        steps = ["count", "correlate", "detect"]
        random.Random(attempt * 4 + index).shuffle(steps)
        entries = [with_options(entry(step), k=index) for step in steps]
        barrier.wait()
        try:
            Study(tmp_path).add(entries)
            outcome[index] = "won"
        except ResumeError:
            outcome[index] = "refused"

    threads = [threading.Thread(target=add, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcome.values()) == ["refused"] * 3 + ["won"]
    (winner,) = (index for index, found in outcome.items() if found == "won")
    assert {e.options["k"] for e in Study(tmp_path).entries().values()} == {winner}
    assert os.listdir(tmp_path / "plan") == ["0.json"]


def _add(run: Path, index: int) -> None:
    for number in range(20):
        Study(run).add([entry(f"step-{number}"), entry(f"own-{index}-{number}")])


def test_processes_that_add_different_steps_lose_none(tmp_path):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_add, args=(tmp_path, index)) for index in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    steps = list(Study(tmp_path).entries())
    assert len(steps) == len(set(steps)) == 20 + 4 * 20


def test_differences_name_a_handful():
    assert differences({"a": [1, 2]}, {"a": [1, 3]}) == ["a[1]: 2 -> 3"]
    assert differences({"a": None}, {}) == []
    many = differences({str(i): i for i in range(9)}, {})
    assert len(many) == 7
    assert many[-1] == "and 3 more"
