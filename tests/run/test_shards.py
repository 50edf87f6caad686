"""Plans and states: immutable, checked, and never half-written."""

import dataclasses
import errno
import json
import os
from pathlib import Path

import pytest
import torch
from outdim.errors import ArgumentError, BackendError, DataError, PartialRunError, ResumeError
from outdim.run import Plan, ShardStore
from outdim.run.files import check_run_directory, create, remove_stale, write_bytes
from outdim.run.shards import ShardState


@pytest.fixture
def plan() -> Plan:
    return Plan(
        command="count",
        stages=("count",),
        inputs={"files": [{"path": "a.txt", "sha256": "0" * 64}], "tokenizer": "1" * 64},
        options={"min_chars": 0, "source": ["a.txt"]},
        units=tuple({"path": "a.txt", "start": i, "size_bytes": 10} for i in range(3)),
    )


STATE = ShardState(
    {"b": torch.arange(5), "a": torch.tensor([0.1, float("nan")]).double()}, {"tokens": 5}
)


def test_a_plan_survives_the_disk_and_another_process_may_commit_it_too(tmp_path, plan):
    plan.commit(tmp_path)
    written = (tmp_path / "plan.json").read_bytes()
    plan.commit(tmp_path)
    assert Plan.read(tmp_path) == plan or Plan.read(tmp_path).sha256 == plan.sha256
    assert (tmp_path / "plan.json").read_bytes() == written
    assert os.listdir(tmp_path) == ["plan.json"]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"options": {"min_chars": 7, "source": ["a.txt"]}}, "options.min_chars: 0 -> 7"),
        (
            {"inputs": {"files": [{"path": "a.txt", "sha256": "f" * 64}], "tokenizer": "1" * 64}},
            "inputs.files[0].sha256: 0000",
        ),
        (
            {"units": ({"path": "a.txt", "start": 0, "size_bytes": 10},)},
            "units: 3 entries -> 1 entries",
        ),
    ],
)
def test_another_plan_is_refused_with_the_difference(tmp_path, plan, change, named):
    plan.commit(tmp_path)
    with pytest.raises(ResumeError) as caught:
        dataclasses.replace(plan, **change).commit(tmp_path)
    assert named in str(caught.value)
    assert caught.value.exit_code == 5


def test_a_directory_without_a_plan_and_a_broken_plan_are_data_errors(tmp_path):
    with pytest.raises(DataError, match="not a run"):
        Plan.read(tmp_path)
    (tmp_path / "plan.json").write_text('{"format": 1')
    with pytest.raises(DataError, match="broken"):
        Plan.read(tmp_path)


def test_a_plan_of_another_format_is_refused(tmp_path, plan):
    (tmp_path / "plan.json").write_text(json.dumps({**plan.to_json(), "format": 99}))
    with pytest.raises(ResumeError, match="format 99"):
        Plan.read(tmp_path)


def test_shards_are_named_by_their_content_and_the_plan(plan):
    names = [shard.sha256 for shard in plan.shards()]
    assert len(set(names)) == 3
    other = dataclasses.replace(plan, options={**plan.options, "min_chars": 1})
    assert not set(names) & {shard.sha256 for shard in other.shards()}


def test_states_come_back_bit_by_bit(tmp_path, plan):
    store = ShardStore(tmp_path, plan)
    for shard in store.shards:
        store.commit("count", shard, STATE)
    for state in store.states("count"):
        assert state.info == {"tokens": 5}
        assert state.tensors["b"].tolist() == [0, 1, 2, 3, 4]
        assert state.tensors["a"].view(torch.int64).equal(STATE.tensors["a"].view(torch.int64))


def test_committing_again_writes_the_same_bytes(tmp_path, plan):
    store = ShardStore(tmp_path, plan)
    store.commit("count", store.shards[0], STATE)
    first = store.path("count", store.shards[0]).read_bytes()
    reordered = ShardState(dict(reversed(STATE.tensors.items())), STATE.info)
    store.commit("count", store.shards[0], reordered)
    assert store.path("count", store.shards[0]).read_bytes() == first


def test_states_of_several_versions_are_merged_with_a_word(tmp_path, plan, capsys):
    store = ShardStore(tmp_path, plan)
    for shard in store.shards:
        store.commit("count", shard, STATE)
    list(store.states("count"))
    assert not capsys.readouterr().err
    other = dataclasses.replace(STATE, versions={**STATE.versions, "torch": "0.1"})
    store.commit("count", store.shards[1], other)
    assert len(list(store.states("count"))) == 3
    assert f"(torch 0.1 and {STATE.versions['torch']})" in capsys.readouterr().err


def test_every_flipped_bit_makes_a_state_count_as_missing(tmp_path, plan):
    store = ShardStore(tmp_path, plan)
    shard = store.shards[0]
    store.commit("count", shard, STATE)
    path = store.path("count", shard)
    sound = path.read_bytes()
    for position in range(0, len(sound), 3):
        broken = bytearray(sound)
        broken[position] ^= 1 << position % 8
        path.write_bytes(bytes(broken))
        state = store.read("count", shard)
        # A flip in the header's padding or spacing may leave the content as it was; nothing else
        # may pass.
        assert state is None or (
            state.info == STATE.info
            and all(
                tensor.contiguous().numpy().tobytes() == state.tensors[name].numpy().tobytes()
                for name, tensor in STATE.tensors.items()
            )
        )
    for length in (0, 4, 8, 100, len(sound) - 1):
        path.write_bytes(sound[:length])
        assert store.read("count", shard) is None


def test_a_state_of_another_stage_shard_or_plan_counts_as_missing(tmp_path, plan):
    store = ShardStore(tmp_path, plan)
    store.commit("count", store.shards[0], STATE)
    content = store.path("count", store.shards[0]).read_bytes()
    store.path("count", store.shards[1]).write_bytes(content)
    store.path("correlate", store.shards[0]).write_bytes(content)
    assert [shard.index for shard in store.missing("count")] == [1, 2]
    assert len(store.missing("correlate")) == 3
    other = ShardStore(tmp_path, dataclasses.replace(plan, options={}))
    assert len(other.missing("count")) == 3


def test_merging_an_incomplete_run_says_what_is_missing(tmp_path, plan):
    store = ShardStore(tmp_path, plan)
    store.commit("count", store.shards[0], STATE)
    with pytest.raises(PartialRunError, match=r"2 of 3 shards .* the first is number 1") as caught:
        list(store.states("count"))
    assert caught.value.exit_code == 4


def test_a_full_disk_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_bytes(path, b"old")

    def full(self: Path, content: bytes) -> int:
        self.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(BackendError, match="disk is full"):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_directory_with_other_things_in_it_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(ArgumentError, match="not empty"):
        check_run_directory(tmp_path, "count")
    with pytest.raises(ArgumentError, match="is a file"):
        check_run_directory(tmp_path / "thesis.tex", "count")
    check_run_directory(tmp_path / "a" / "b", "count")
    assert not (tmp_path / "a").exists()


def test_a_run_of_another_command_is_refused(tmp_path, plan):
    plan.commit(tmp_path)
    check_run_directory(tmp_path, "count")
    with pytest.raises(ResumeError, match="holds a run of `outdim count`"):
        check_run_directory(tmp_path, "detect")
    (tmp_path / "plan.json").write_text("{}")
    with pytest.raises(DataError, match="broken"):
        check_run_directory(tmp_path, "count")


def test_what_a_process_killed_at_once_leaves_does_not_block_the_directory(
    tmp_path, plan, monkeypatch
):
    def killed(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "link", killed)
        patch.setattr(Path, "unlink", killed)
        with pytest.raises(KeyboardInterrupt):
            plan.commit(tmp_path)
    (left,) = tmp_path.iterdir()
    check_run_directory(tmp_path, "count")
    plan.commit(tmp_path)
    remove_stale(tmp_path)
    assert left.exists()  # its process may be alive
    os.utime(left, (0, 0))
    remove_stale(tmp_path)
    assert os.listdir(tmp_path) == ["plan.json"]


@pytest.mark.parametrize("links", [True, False])
def test_the_first_to_create_a_file_wins(tmp_path, monkeypatch, links):
    def refuse(*args):
        raise OSError(errno.EPERM, "no hard links here")

    if not links:
        monkeypatch.setattr(os, "link", refuse)
    create(tmp_path / "file", b"first")
    create(tmp_path / "file", b"second")
    looked = iter([False, True])  # the file appears after we looked
    with monkeypatch.context() as patch:
        patch.setattr(Path, "exists", lambda self: next(looked))
        create(tmp_path / "file", b"third")
    assert (tmp_path / "file").read_bytes() == b"first"
    assert os.listdir(tmp_path) == ["file"]
