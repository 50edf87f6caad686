"""Who does the work: devices, threads, and shares of the shards."""

import pytest
import torch
from outdim.errors import ArgumentError, BackendError
from outdim.run import share
from outdim.run.share import Share, SpreadOptions, ranks_of


@pytest.mark.parametrize(
    ("device", "gpus", "environment", "expected"),
    [
        ("auto", 0, {"LOCAL_RANK": "1"}, ["cpu"]),
        ("auto", 2, {"LOCAL_RANK": "3"}, ["cuda:1"]),
        ("cpu", 2, {"LOCAL_RANK": "3"}, ["cpu"]),
        ("cuda:1", 2, {"LOCAL_RANK": "0"}, ["cuda:1"]),
        ("cuda:1", 2, {}, ["cuda:1"]),
        ("auto", 2, {}, ["cuda:0", "cuda:1"]),
        ("cpu", 2, {}, ["cpu"] * 3),
    ],
)
def test_devices(monkeypatch, device, gpus, environment, expected):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(share, "usable_cores", lambda: 3)
    assert SpreadOptions(device=device).devices(1, 1) == expected
    if device != "cuda:1":
        assert SpreadOptions(device=device, engine="ray").devices(1, 1) == ["cpu"]


def test_processes_have_room_for_threads_and_models(monkeypatch):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.setattr(share, "usable_cores", lambda: 8)
    monkeypatch.setattr(share, "_free_bytes", lambda: 1000)
    spread = SpreadOptions(device="cpu")
    assert len(spread.devices(1, 1)) == 8
    assert len(spread.devices(3, 1)) == 2
    assert len(spread.devices(1, 100)) == 3  # three times the model each
    assert len(spread.devices(1, 10_000)) == 1
    assert len(SpreadOptions(device="cpu", workers=5).devices(3, 10_000)) == 5


def test_local_ranks_divide_the_cores_for_counting(monkeypatch):
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    monkeypatch.setattr(share, "usable_cores", lambda: 8)
    assert SpreadOptions().counters() == 8
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    assert SpreadOptions().counters() == 2
    assert SpreadOptions(workers=5).counters() == 5


@pytest.mark.parametrize("engine", ["local", "ray"])
@pytest.mark.parametrize("device", ["tpu", "cudax", "meta", "cuda:x", ""])
def test_unknown_devices_are_refused(device, engine):
    with pytest.raises(ArgumentError, match="device: expected auto"):
        SpreadOptions(device=device, engine=engine).check()


def test_a_device_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(BackendError, match="torch sees 1 CUDA devices"):
        SpreadOptions(device="cuda:1").check()


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, Share()),
        ({"RANK": "1", "WORLD_SIZE": "2"}, Share()),
        ({"TORCHELASTIC_RUN_ID": "x", "RANK": "1", "WORLD_SIZE": "2"}, Share(1, 2, waits=True)),
        # The tasks of an array may be different runs: they share only when they are asked to.
        ({"SLURM_ARRAY_TASK_COUNT": "3", "SLURM_ARRAY_TASK_ID": "2"}, Share()),
        ({"SLURM_ARRAY_TASK_ID": "2"}, Share()),
    ],
)
def test_shares_from_the_environment(environment, expected):
    assert Share.of(SpreadOptions(), environment) == expected


@pytest.mark.parametrize(
    "environment",
    [{}, {"RANK": "1"}, {"RANK": "one", "WORLD_SIZE": "2"}, {"RANK": "2", "WORLD_SIZE": "2"}],
)
def test_what_torchrun_sets_in_part_is_refused_by_name(environment):
    with pytest.raises(ArgumentError, match=r"RANK, WORLD_SIZE: expected|shard-index"):
        Share.of(SpreadOptions(), {"TORCHELASTIC_RUN_ID": "x", **environment})


def test_a_share_that_is_asked_for_goes_before_the_environment():
    torchrun = {"TORCHELASTIC_RUN_ID": "x", "RANK": "1", "WORLD_SIZE": "2"}
    assert Share.of(SpreadOptions(shard_index=2, shard_count=4), torchrun) == Share(2, 4)


@pytest.mark.parametrize("shards", [1, 2, 7, 64])
@pytest.mark.parametrize("count", [1, 2, 3, 9])
def test_shares_are_ranges_that_cover_every_shard_once(shards, count):
    shares = [Share(index, count) for index in range(count)]
    owned = [(shard, share.index) for share in shares for shard in share.own(shards)]
    assert [shard for shard, _ in owned] == list(range(shards))
    assert all(shares[0].owner(shard, shards) == index for shard, index in owned)
    assert ranks_of(shares[0], [shards - 1], shards) == [owned[-1][1]]


def test_variables_that_are_no_numbers_are_refused_by_name(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "first")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "")
    with pytest.raises(ArgumentError, match="LOCAL_RANK: expected a number"):
        SpreadOptions(device="auto").devices(1, 1)
    with pytest.raises(ArgumentError, match="LOCAL_WORLD_SIZE: expected a number"):
        SpreadOptions().counters()


def test_a_million_workers_are_refused():
    with pytest.raises(ArgumentError, match="workers: expected 1 to 1024, got 1000000"):
        SpreadOptions(device="cpu", workers=1_000_000).check()
