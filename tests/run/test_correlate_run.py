"""Whole runs over a tiny model: the right numbers, and the same bytes whoever computed them."""

import dataclasses
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from outdim.corpus import TokenFrequencies, count_tokens, load_tokenizer, open_corpus
from outdim.errors import ArgumentError, BackendError, DataError, ResumeError
from outdim.models import load_model
from outdim.options import CorrelateOptions
from outdim.run import Plan, ShardStore, commands, setup
from outdim.run.engine import Share
from outdim.run.stages import Interrupted, StopSignal, Worker
from run_helpers import replaced, results


@pytest.fixture(autouse=True)
def no_report(request, monkeypatch):
    """The page takes seconds and is no matter of most tests here."""
    if request.node.name != "test_a_run_leaves_everything_a_reader_needs":
        monkeypatch.setattr(commands, "_report", lambda run: None)


def test_numbers_agree_with_hidden_states_kept_and_correlated_afterwards(corpus, options):
    run = commands.correlate([str(corpus)], options)
    table = pq.read_table(run / "stats.parquet").to_pandas()
    tokenizer, model = load_tokenizer(options.model), load_model(options.model)
    counts = count_tokens(str(corpus), tokenizer).counts
    hidden, frequency, special = [], [], []
    for text in open_corpus(str(corpus)).read(open_corpus(str(corpus)).units[0]):
        ids = tokenizer(text, add_special_tokens=False).input_ids
        for start in range(0, len(ids), 22):
            piece = [2, *ids[start : start + 22], 3]
            with torch.inference_mode():
                states = model(torch.tensor([piece]), output_hidden_states=True).hidden_states
            hidden.append(torch.stack([state[0] for state in states], 1).double().numpy())
            frequency += counts[piece].tolist()
            special += [True, *[False] * (len(piece) - 2), True]
    hidden, frequency, special = np.concatenate(hidden), np.array(frequency), np.array(special)
    for selection, rows in (("text", ~special), ("all", np.ones(len(special), bool))):
        for statistic, values in (("pearson", hidden), ("pearson_abs", np.abs(hidden))):
            chosen = (table.selection == selection) & (table.statistic == statistic)
            found = table[chosen & (table.covariate == "count")].sort_values(["layer", "dim"])
            expected = [
                np.corrcoef(frequency[rows], values[rows, layer, dim])[0, 1]
                for layer in range(3)
                for dim in range(16)
            ]
            np.testing.assert_allclose(found.value, expected, atol=2e-6)
            assert set(found.n) == {rows.sum()}
    account = json.loads((run / "manifest.json").read_text())["tokens"]
    assert account["read"] == len(special)
    assert account["special"] == special.sum()
    assert account["used"] == (~special).sum()
    assert account["padded"] <= 0.05 * (account["padded"] + account["read"])


@pytest.mark.parametrize("change", [{"autocast": "bfloat16"}, {"dtype": "bfloat16"}])
def test_half_precision_gives_nearly_the_same_statistics(corpus, options, change):
    whole = pq.read_table(commands.correlate([str(corpus)], options) / "stats.parquet").to_pandas()
    half = replaced(options, output=options.output.with_name("half"), **change)
    found = pq.read_table(commands.correlate([str(corpus)], half) / "stats.parquet").to_pandas()
    for statistic, tolerance in (("mean", 0.02), ("std", 0.02), ("pearson_abs", 0.05)):
        values, others = (table[table.statistic == statistic].value for table in (whole, found))
        assert not np.array_equal(values, others)
        np.testing.assert_allclose(others, values, atol=tolerance)


def test_a_run_leaves_everything_a_reader_needs(corpus, options):
    run = commands.correlate([str(corpus)], options)
    assert json.loads((run / "detection.json").read_text())["dims"][0]["dim"] == 3
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["finished"]
    assert manifest["tokens_per_second"] > 0
    assert manifest["counting"]["accounting"]["documents"] == 60
    assert (run / "report.html").stat().st_size > 10_000
    assert TokenFrequencies.from_parquet(run / "counts.parquet").total_tokens > 1000
    assert not list(run.rglob("*.tmp"))


def test_a_finished_run_given_again_computes_nothing_and_stays_the_same(
    corpus, options, monkeypatch
):
    before = results(commands.correlate([str(corpus)], options))
    monkeypatch.setattr(Worker, "compute", lambda *args: pytest.fail("computed again"))
    assert results(commands.correlate([str(corpus)], options)) == before


@pytest.mark.parametrize("world", [2, 3, 5, 9])
def test_any_number_of_shares_in_any_order_gives_the_same_bytes(
    corpus, options, undisturbed, world
):
    order = list(range(world))
    random.Random(world).shuffle(order)
    written = [
        commands.correlate([str(corpus)], replaced(options, shard_index=index, shard_count=world))
        for index in order
    ]
    assert results(options.output) == undisturbed
    shards = len(Plan.read(options.output).units)
    last = max(at for at, index in enumerate(order) if index < shards)
    assert written[last] == options.output
    assert written[:last] == [None] * last


def test_shards_computed_in_any_order_give_the_same_bytes(corpus, options, undisturbed):
    class Shuffled(ShardStore):
        def missing(self, stage, among=None):
            return random.Random(1).sample(found := super().missing(stage, among), len(found))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(commands, "ShardStore", Shuffled)
        commands.correlate([str(corpus)], options)
    assert results(options.output) == undisturbed


def test_a_flipped_bit_in_a_state_is_found_and_computed_again(corpus, options, undisturbed):
    run = commands.correlate([str(corpus)], options)
    path = run / "state" / "correlate-000002.safetensors"
    broken = bytearray(path.read_bytes())
    broken[-100] ^= 1
    path.write_bytes(bytes(broken))
    (run / "stats.parquet").unlink()
    assert results(commands.correlate([str(corpus)], options)) == undisturbed


def test_changed_inputs_and_options_are_refused_and_nothing_is_touched(corpus, options, tmp_path):
    copy = tmp_path / "copy.txt"
    copy.write_bytes(corpus.read_bytes())
    run = commands.correlate([str(copy)], options)
    before = results(run)
    with pytest.raises(ResumeError, match=r"options.max_length: 24 -> 20"):
        commands.correlate([str(copy)], replaced(options, max_length=20))
    copy.write_bytes(corpus.read_bytes().replace(b"w1 ", b"w2 ", 1))
    with pytest.raises(ResumeError, match=r"inputs.files\[0\].sha256"):
        commands.correlate([str(copy)], options)
    assert results(run) == before


def test_empty_one_token_and_all_special_shards(options, tmp_path):
    source = tmp_path / "odd.txt"
    # One shard of blank lines, one with a single word, one with nothing but special tokens, one
    # ordinary.
    source.write_text(
        "\n" * 64 + "w1\n" + " " * 61 + "[SEP] [SEP]\n" + " " * 52 + "w1 w2 w3 w1 w2\n"
    )
    run = commands.correlate([str(source)], replaced(options, shard_bytes=64))
    table = pq.read_table(run / "stats.parquet").to_pandas()
    assert len(Plan.read(run).units) == 4
    assert set(table.query("selection == 'text' and statistic == 'mean'").n) == {6}
    assert set(table.query("selection == 'all' and statistic == 'mean'").n) == {6 + 2 + 2 * 3}


def test_a_value_that_is_not_defined_has_a_reason(options, tmp_path):
    source = tmp_path / "one.txt"
    source.write_text("w1\n")
    run = commands.correlate([str(source)], options)
    table = pq.read_table(run / "stats.parquet").to_pandas()
    assert (table.value.isna() == (table.reason != "")).all()
    text = table[(table.selection == "text") & (table.statistic == "pearson_abs")]
    assert set(text.reason) == {"fewer than two tokens"}
    everything = table[(table.selection == "all") & (table.covariate == "count")]
    assert set(everything.reason) == {"constant covariate"}  # each of the three occurs once


def test_states_of_unchanged_files_serve_a_run_in_which_another_was_mended(
    options, tmp_path, monkeypatch
):
    counts = TokenFrequencies.for_tokenizer(load_tokenizer(options.model), np.arange(200))
    counts.to_parquet(tmp_path / "counts.parquet")
    good, broken = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    good.write_text('{"text": "w1 w2 w3 w2"}\n' * 60)
    broken.write_text('{"text": "w1 w2 w3"}\n{"text": \n')
    sources = [str(good), str(broken)]
    given = replaced(options, counts=tmp_path / "counts.parquet")
    with pytest.raises(DataError, match=r"b\.jsonl: line 2"):
        commands.correlate(sources, given)
    committed = len(list(given.output.glob("state/*")))
    broken.write_text('{"text": "w1 w2 w3"}\n{"text": "w1 w3"}\n')
    with pytest.raises(ResumeError, match=r"inputs.files\[1\]"):
        commands.correlate(sources, given)
    other = replaced(given, output=tmp_path / "other")
    whole = results(commands.correlate(sources, replaced(given, output=tmp_path / "whole")))
    other.output.mkdir()
    (given.output / "state").rename(other.output / "state")
    computed, compute = [], Worker.compute
    monkeypatch.setattr(
        Worker, "compute", lambda self, *args: computed.append(args) or compute(self, *args)
    )
    assert results(commands.correlate(sources, other)) == whole
    assert committed == 2
    assert len(computed) == 1


def test_a_signal_while_results_are_written_lets_them_be_written(corpus, options, undisturbed):
    merge = commands.merge.merge_correlations

    def interrupted(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        return merge(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(commands.merge, "merge_correlations", interrupted)
        run = commands.correlate([str(corpus)], options)
    assert results(run) == undisturbed


def test_a_corpus_without_a_token_is_an_error_that_leaves_nothing(options, tmp_path):
    source = tmp_path / "blank.txt"
    source.write_text("\n\n \n")
    with pytest.raises(DataError, match="no token"):
        commands.correlate([str(source)], options)
    assert not options.output.exists()


def test_a_stop_comes_between_batches_and_the_run_goes_on(
    corpus, options, undisturbed, monkeypatch
):
    compute, seen = Worker.compute, []

    def stopping(self, stage, shard, progress=None):
        seen.append(shard)
        if len(seen) == 8:
            os.kill(os.getpid(), signal.SIGTERM)
        return compute(self, stage, shard, progress)

    monkeypatch.setattr(Worker, "compute", stopping)
    with pytest.raises(Interrupted) as caught:
        commands.correlate([str(corpus)], options)
    assert caught.value.exit_code == 143
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    monkeypatch.undo()
    assert results(commands.correlate([str(corpus)], options)) == undisturbed


def test_counts_of_another_vocabulary_are_refused(corpus, options, tmp_path):
    tokenizer = load_tokenizer(options.model)
    right = TokenFrequencies.for_tokenizer(tokenizer, np.ones(200, np.int64))
    labels = list(right.tokens)
    first, second = labels.index("w1"), labels.index("w2")
    labels[first], labels[second] = labels[second], labels[first]
    swapped = dataclasses.replace(right, tokens=tuple(labels))
    short = TokenFrequencies(right.counts[:150], right.special[:150], right.tokens[:150])
    for wrong, said in ((swapped, "2 of its 200 ids stand for"), (short, "the counts have 150")):
        wrong.to_parquet(tmp_path / "wrong.parquet")
        with pytest.raises(DataError, match=said) as caught:
            commands.correlate([str(corpus)], replaced(options, counts=tmp_path / "wrong.parquet"))
        assert len(str(caught.value)) < 400
    assert not options.output.exists()
    run = commands.correlate([str(corpus)], replaced(options, per_token=[3]))
    other = CorrelateOptions(
        output=tmp_path / "other", from_run=run, counts=tmp_path / "wrong.parquet"
    )
    for wrong, said in ((swapped, "'w1' in the run, and is 'w2'"), (short, "is not there")):
        wrong.to_parquet(tmp_path / "wrong.parquet")
        with pytest.raises(DataError, match=said):
            commands.correlate([], other)
    assert not other.output.exists()


def test_rows_left_out_are_accounted_for_with_given_counts_too(options, tmp_path):
    source = tmp_path / "rows.jsonl"
    source.write_text('{"text": "w1 w2 w3"}\n{"text": \n{"text": "w1"}\n{"text": " "}\n')
    counts = TokenFrequencies.for_tokenizer(load_tokenizer(options.model), np.ones(200, np.int64))
    counts.to_parquet(tmp_path / "counts.parquet")
    given = replaced(options, counts=tmp_path / "counts.parquet", on_error="skip")
    run = commands.correlate([str(source)], given)
    counting = replaced(options, output=tmp_path / "counting", on_error="skip")
    other = commands.correlate([str(source)], counting)
    accounts = [json.loads((path / "manifest.json").read_text())["tokens"] for path in (run, other)]
    assert accounts[0]["used"] == 4
    assert sum(accounts[0]["excluded"].values()) == 2
    assert accounts[0]["excluded"] == accounts[1]["excluded"]


def test_shards_committed_by_another_process_meanwhile_are_not_computed_again(
    corpus, options, monkeypatch
):
    compute, computed = Worker.compute, []

    def racing(self, stage, shard, progress=lambda tokens: None):
        state = compute(self, stage, shard, progress)
        if stage == "count" and not computed:  # another one commits the next shard
            store = ShardStore(self.run, self.plan)
            following = store.shards[shard.index + 2]
            store.commit(stage, following, compute(self, stage, following))
            computed.append((stage, following.index, "other"))
        computed.append((stage, shard.index))
        return state

    monkeypatch.setattr(Worker, "compute", racing)
    commands.correlate([str(corpus)], replaced(options, shard_index=0, shard_count=2))
    assert ("count", 2, "other") in computed
    assert ("count", 2) not in computed


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
def test_devices(options, monkeypatch, device, gpus, environment, expected):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(setup, "usable_cores", lambda: 3)
    free = replaced(options, workers=None)
    assert setup.choose_devices(free, device) == expected
    assert setup.choose_devices(replaced(free, engine="ray"), device) == ["cpu"]


@pytest.mark.parametrize("device", ["tpu", "cudax", "meta", "cuda:x", ""])
def test_unknown_devices_are_refused(options, device):
    with pytest.raises(ArgumentError, match="device: expected auto"):
        setup.choose_devices(options, device)


def test_a_device_that_is_not_there_is_refused(options, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(BackendError, match="torch sees 1 CUDA devices"):
        setup.choose_devices(options, "cuda:1")


def test_given_counts_are_used_and_belong_to_the_plan(corpus, options, tmp_path):
    tokenizer = load_tokenizer(options.model)
    counts = np.arange(200)[::-1].copy()
    TokenFrequencies.for_tokenizer(tokenizer, counts).to_parquet(tmp_path / "other.parquet")
    run = commands.correlate([str(corpus)], replaced(options, counts=tmp_path / "other.parquet"))
    assert TokenFrequencies.from_parquet(run / "counts.parquet").counts.tolist() == counts.tolist()
    assert not list(run.glob("state/count-*"))
    TokenFrequencies.for_tokenizer(tokenizer, counts + 1).to_parquet(tmp_path / "other.parquet")
    with pytest.raises(ResumeError, match=r"inputs\.counts"):
        commands.correlate([str(corpus)], replaced(options, counts=tmp_path / "other.parquet"))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"model": None}, ArgumentError, "model: name it"),
        ({"model": "/nowhere"}, DataError, "nowhere"),
        ({"token_budget": 0}, ArgumentError, "token-budget"),
        ({"max_length": 4000}, ArgumentError, "max_length: expected 3 to 64"),
        ({"points": ["block.9"]}, ArgumentError, "block.9"),
        ({"per_token": [16]}, ArgumentError, "per-token: expected dimensions 0 to 15"),
        ({"threads": 0}, ArgumentError, "threads"),
        ({"workers": 0}, ArgumentError, "workers"),
        ({"device": "tpu"}, ArgumentError, "device"),
        ({"shard_index": 1}, ArgumentError, "shard-index, shard-count"),
        ({"shard_index": 3, "shard_count": 3}, ArgumentError, "shard-index, shard-count"),
        ({"counts": "/nowhere.parquet"}, DataError, "counts: there is no"),
    ],
)
def test_bad_options_name_what_was_expected_and_leave_nothing(
    corpus, options, change, error, message
):
    if "counts" in change:
        change = {"counts": options.output / "nowhere.parquet"}
    with pytest.raises(error, match=message):
        commands.correlate([str(corpus)], replaced(options, **change))
    assert not options.output.exists()


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, Share()),
        ({"RANK": "1", "WORLD_SIZE": "2"}, Share()),
        ({"TORCHELASTIC_RUN_ID": "x", "RANK": "1", "WORLD_SIZE": "2"}, Share(1, 2, waits=True)),
        ({"SLURM_ARRAY_TASK_COUNT": "3", "SLURM_ARRAY_TASK_ID": "2"}, Share(2, 3)),
        (
            {
                "SLURM_ARRAY_TASK_COUNT": "3",
                "SLURM_ARRAY_TASK_ID": "14",
                "SLURM_ARRAY_TASK_MIN": "10",
                "SLURM_ARRAY_TASK_STEP": "2",
            },
            Share(2, 3),
        ),
    ],
)
def test_shares_from_the_environment(environment, expected):
    assert Share.from_environment(environment) == expected


def test_a_second_signal_kills_as_usual_and_handlers_are_restored():
    before = signal.getsignal(signal.SIGINT)
    with StopSignal().installed() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)
        assert signal.getsignal(signal.SIGINT) == signal.SIG_DFL
        with pytest.raises(Interrupted):
            stop.check()
    assert signal.getsignal(signal.SIGINT) == before


def command(corpus, options, *extra: str) -> list[str]:
    return [
        sys.executable, "-m", "outdim", "correlate", str(corpus), "--model", options.model,
        "--output", str(options.output), "--max-length", "24", "--token-budget", "256",
        "--shard-bytes", "1024", "--workers", "1", "--permutations", "10", *extra,
    ]  # fmt: skip


@pytest.mark.slow
def test_worker_processes_and_torchrun_give_the_same_bytes(corpus, options, undisturbed):
    commands.correlate([str(corpus)], replaced(options, workers=2))
    assert results(options.output) == undisturbed
    other = replaced(options, output=options.output.with_name("torchrun"))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    subprocess.run([*torchrun, *command(corpus, other)[1:]], check=True, timeout=300)
    assert results(other.output) == undisturbed


@pytest.mark.slow
def test_a_failing_rank_ends_torchrun_and_a_killed_worker_the_command(corpus, options, tmp_path):
    broken = tmp_path / "broken.txt"
    broken.write_bytes(corpus.read_bytes() + b"\xff\n")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    ranks = [*torchrun, *command(broken, options)[1:]]
    failed = subprocess.run(ranks, capture_output=True, text=True, timeout=300, check=False)
    assert failed.returncode
    assert "not UTF-8" in failed.stderr
    other = replaced(options, output=tmp_path / "other")
    given = command(corpus, other, "--workers", "2")
    process = subprocess.Popen(given, stderr=subprocess.PIPE, text=True)
    while not (children := _spawned_by(process.pid)):
        assert process.poll() is None
        time.sleep(0.05)
    os.kill(children[0], signal.SIGKILL)
    assert "a worker of the stage 'correlate' died" in process.communicate(timeout=300)[1]
    assert process.returncode == 4


def _spawned_by(parent: int) -> list[int]:
    """Processes that multiprocessing has made of ``parent``."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return [
        int(pid) for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]


@pytest.mark.slow
def test_killed_at_fifty_random_points_a_run_gives_the_same_bytes(corpus, options, undisturbed):
    # The server has everything imported, so that a process is a fork and the kills fall into the
    # work itself.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["outdim.run.commands", "outdim.report", "transformers.models.bert"]
    )
    rng = random.Random(0)
    killed = 0
    while killed < 50:
        process = context.Process(target=commands.correlate, args=([str(corpus)], options))
        process.start()
        process.join(rng.uniform(0.2, 4.0))
        if process.exitcode is None:
            process.kill()
            killed += 1
            process.join()
        else:  # complete: lose some of it, so that the next one has work
            assert process.exitcode == 0
            assert results(options.output) == undisturbed
            for path in options.output.glob("state/*"):
                if rng.random() < 0.5:
                    path.unlink()
    assert results(commands.correlate([str(corpus)], options)) == undisturbed


def test_sums_kept_per_token_give_the_same_r_and_that_of_any_other_frequencies(
    corpus, options, tmp_path
):
    run = commands.correlate([str(corpus)], replaced(options, per_token=[3, 5]))
    again = commands.correlate([], CorrelateOptions(output=tmp_path / "same", from_run=run))
    found = pd.read_csv(again / "correlations.csv")
    table = pq.read_table(run / "stats.parquet").to_pandas()
    one_pass = table[table.selection == "text"].merge(
        found, on=["point", "dim", "statistic", "covariate"], suffixes=("", "_again")
    )
    assert len(one_pass) == 3 * 2 * 2 * 3
    np.testing.assert_allclose(one_pass.value_again, one_pass.value, atol=1e-11)
    assert (one_pass.n_again == one_pass.n).all()

    tokenizer = load_tokenizer(options.model)
    other = TokenFrequencies.for_tokenizer(
        tokenizer, np.random.default_rng(0).integers(0, 1000, 200)
    )
    other.to_parquet(tmp_path / "other.parquet")
    with_other = commands.correlate(
        [],
        CorrelateOptions(
            output=tmp_path / "other", from_run=run, counts=tmp_path / "other.parquet"
        ),
    )
    full = commands.correlate(
        [str(corpus)],
        replaced(options, output=tmp_path / "full", counts=tmp_path / "other.parquet"),
    )
    table = pq.read_table(full / "stats.parquet").to_pandas()
    both = table[table.selection == "text"].merge(
        pd.read_csv(with_other / "correlations.csv"), on=["point", "dim", "statistic", "covariate"]
    )
    np.testing.assert_allclose(
        both.value_x, both.value_y, atol=1e-6
    )  # hooks there, the fused op here
    bins = pd.read_csv(with_other / "bins.csv")
    here = TokenFrequencies.from_parquet(run / "counts.parquet")
    expected = Counter()
    for i in np.flatnonzero(~here.special & (here.counts > 0)).tolist():
        expected[int(other.counts[i]).bit_length()] += int(here.counts[i])
    one = bins[(bins.point == "block.0") & (bins.dim == 5)]
    assert dict(zip(one.bin, one.n, strict=True)) == expected
    assert (one.count_to.apply(int.bit_length) == one.bin).all()
    totals = bins.groupby(["point", "dim"]).n.sum()
    whole = table[(table.selection == "text") & (table.statistic == "mean_abs")]
    means = (bins.mean_abs * bins.n).groupby([bins.point, bins.dim]).sum() / totals
    expected = whole.set_index(["point", "dim"]).value.reindex(means.index)
    np.testing.assert_allclose(means, expected, rtol=1e-6)
    with pytest.raises(ArgumentError, match="source, from-run"):
        commands.correlate([str(corpus)], CorrelateOptions(output=tmp_path / "x", from_run=run))
    drivers = pd.read_csv(again / "drivers.csv")
    assert (drivers.groupby(["point", "dim"]).share.sum() <= 1 + 1e-9).all()


def test_a_run_that_kept_no_sums_says_how_to_keep_them(corpus, options, tmp_path):
    run = commands.correlate([str(corpus)], options)
    with pytest.raises(DataError, match="--per-token"):
        commands.correlate([], CorrelateOptions(output=tmp_path / "x", from_run=run))
