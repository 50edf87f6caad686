"""Whatever happens to a run, and whoever computes which shard: the same bytes."""

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from outdim.analysis.correlate import Correlate
from outdim.analysis.count import Count
from outdim.analysis.inputs import Resources
from outdim.commands import step
from outdim.errors import DataError, Interrupted, PartialRunError, ResumeError
from outdim.run import execute as executing
from outdim.run import worker as working
from outdim.run.plan import Study
from outdim.run.share import Share
from outdim.run.sources import FILES
from outdim.run.store import StateStore
from outdim.run.worker import Worker
from outdim.tokens import TokenFrequencies, load_tokenizer
from run_helpers import give, replaced, results


def test_a_finished_run_given_again_computes_nothing_and_stays_the_same(
    corpus, options, monkeypatch
):
    before = results(give("correlate", corpus, options))
    monkeypatch.setattr(Worker, "compute", lambda *args: pytest.fail("computed again"))
    assert results(give("correlate", corpus, options)) == before


@pytest.mark.parametrize("world", [2, 3, 5, 9])
def test_any_number_of_shares_in_any_order_gives_the_same_bytes(
    corpus, options, undisturbed, world
):
    order = list(range(world))
    random.Random(world).shuffle(order)
    shards = 4
    last = max(at for at, index in enumerate(order) if Share(index, world).own(shards))
    for at, index in enumerate(order):
        share = replaced(options, shard_index=index, shard_count=world)
        if at < last:
            with pytest.raises(PartialRunError, match="belong to others"):
                give("correlate", corpus, share)
            assert not (options.output / "stats.parquet").exists()
        else:
            assert give("correlate", corpus, share) == options.output
    assert len(Study(options.output)["correlate"].work) == shards
    assert results(options.output) == undisturbed


def test_shards_computed_in_any_order_give_the_same_bytes(corpus, options, undisturbed):
    class Shuffled(StateStore):
        def missing(self, among=None):
            return random.Random(1).sample(found := super().missing(among), len(found))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(working, "StateStore", Shuffled)
        patch.setattr(
            executing,
            "_missing",
            lambda worker, group, among=None: worker.store(group[0]).missing(),
        )
        give("correlate", corpus, options)
    assert results(options.output) == undisturbed


@pytest.mark.parametrize("step", ["count", "detect", "correlate"])
def test_a_flipped_bit_in_a_state_is_found_and_computed_again(corpus, options, undisturbed, step):
    run = give("correlate", corpus, options)
    (path,) = run.glob(f"state/{step}/*")
    broken = bytearray(path.read_bytes())
    broken[-100] ^= 1
    path.write_bytes(bytes(broken))
    (run / "stats.parquet").unlink()
    assert results(give("correlate", corpus, options)) == undisturbed


def test_changed_inputs_and_options_are_refused_and_nothing_is_touched(corpus, options, tmp_path):
    copy = tmp_path / "copy.txt"
    copy.write_bytes(corpus.read_bytes())
    run = give("correlate", copy, options)
    before = results(run)
    with pytest.raises(ResumeError, match=r"options.max_length: 24 -> 20"):
        give("correlate", copy, replaced(options, max_length=20))
    copy.write_bytes(corpus.read_bytes().replace(b"w1 ", b"w2 ", 1))
    with pytest.raises(ResumeError, match=r"inputs.files\[0\].sha256"):
        give("correlate", copy, options)
    with pytest.raises(ResumeError, match=r"two\. options.source: 1 entries -> 2 entries"):
        give("correlate", [str(copy), str(corpus)], options)
    copy.write_bytes(corpus.read_bytes())
    with pytest.raises(ResumeError, match=r"options.k: 3.0 -> 2.0\. Give"):
        give("correlate", copy, replaced(options, k=2.0))
    assert results(run) == before


def jsonl(path, rows: str) -> str:
    path.write_text(rows)
    return str(path)


@pytest.mark.parametrize("command", ["count", "correlate"])
def test_states_of_unchanged_files_serve_a_run_in_which_another_was_mended(
    options, count_options, tmp_path, monkeypatch, command
):
    counts = TokenFrequencies.for_tokenizer(load_tokenizer(options.model), np.arange(200))
    counts.to_parquet(tmp_path / "counts.parquet")
    good, broken, last = (tmp_path / f"{name}.jsonl" for name in "abc")
    jsonl(good, '{"text": "w1 w2 w3 w2"}\n' * 60)  # two shards
    jsonl(last, '{"text": "w5 w2 w3 w2"}\n' * 60)
    jsonl(broken, '{"text": "w1 w2 w3"}\n' * 19 + '{"text": "\n')
    sources = [str(good), str(broken), str(last)]
    # With counts that were given, and no ranks, nothing is known of the text as a whole.
    given = {
        "count": replaced(count_options, method="encode", output=tmp_path / "run"),
        "correlate": replaced(options, counts=tmp_path / "counts.parquet", rank=[], types=0),
    }[command]
    with pytest.raises(PartialRunError):  # the last file's
        give(command, sources, replaced(given, shard_index=3, shard_count=5))
    with pytest.raises(DataError, match=r"b\.jsonl: line 20"):
        give(command, sources, given)
    jsonl(broken, '{"text": "w1 w2 w3"}\n' * 20)
    with pytest.raises(ResumeError, match=r"inputs.files\[1\]"):
        give(command, sources, given)
    other = replaced(given, output=tmp_path / "other")
    whole = results(give(command, sources, replaced(given, output=tmp_path / "whole")))
    other.output.mkdir()
    (given.output / "state").rename(other.output / "state")
    step = {"count": Count, "correlate": Correlate}[command]
    computed, run_all = [], step.update_all

    def spying(cls, steps, unit, progress):
        computed.append((steps[0].name, unit["index"]))
        return run_all.__func__(cls, steps, unit, progress)

    monkeypatch.setattr(step, "update_all", classmethod(spying))
    found = results(give(command, sources, other))
    assert {name: found[name] for name in whole} == whole
    assert computed == [(command, 2), (command, 4)]  # the mended one, and one never reached


def test_states_with_rows_left_out_do_not_serve_a_run_that_fails_at_them(options, tmp_path):
    source = tmp_path / "rows.jsonl"
    source.write_text('{"text": "w1 w2 w3"}\n{"text": \n')
    counts = TokenFrequencies.for_tokenizer(load_tokenizer(options.model), np.arange(200))
    counts.to_parquet(tmp_path / "counts.parquet")
    given = replaced(options, counts=tmp_path / "counts.parquet", rank=[], types=0)
    run = give("correlate", source, replaced(given, on_error="skip"))
    other = replaced(given, output=tmp_path / "other")
    other.output.mkdir()
    (run / "state").rename(other.output / "state")
    with pytest.raises(DataError, match="line 2"):
        give("correlate", source, other)


def test_waiting_for_others_ends_with_sound_states_only(corpus, options):
    run = give("correlate", corpus, options)
    worker = Worker(run, Resources())
    store = worker.store("correlate")
    path = store.path(store.tree.root)
    sound = path.read_bytes()
    path.write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]))
    mending = threading.Timer(0.5, lambda: path.write_bytes(sound))
    mending.start()
    stage = range(len(store))
    executing._wait_for_others(worker, ["correlate"], stage, Share(0, 2, waits=True))
    assert path.read_bytes() == sound
    mending.join()


def test_a_broken_note_of_files_is_as_good_as_none(corpus, options, undisturbed):
    run = give("correlate", corpus, options)
    for broken in ("{", '[{"path": 1}]', "7"):
        (run / FILES).write_text(broken)
        assert results(give("correlate", corpus, options)) == undisturbed


def test_a_signal_while_results_are_written_lets_them_be_written(corpus, options, undisturbed):
    result = Correlate.result

    def interrupted(step):
        os.kill(os.getpid(), signal.SIGTERM)
        return result(step)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Correlate, "result", interrupted)
        run = give("correlate", corpus, options)
    assert results(run) == undisturbed


def test_a_stop_comes_between_batches_and_the_run_goes_on(
    corpus, options, undisturbed, monkeypatch
):
    compute, seen = Worker.compute, []

    def stopping(self, steps, shard, progress):
        seen.append(shard)
        if seen[-1] == 3 and steps == ["correlate"]:
            os.kill(os.getpid(), signal.SIGTERM)
        return compute(self, steps, shard, progress)

    monkeypatch.setattr(Worker, "compute", stopping)
    with pytest.raises(Interrupted) as caught:
        give("correlate", corpus, options)
    assert caught.value.exit_code == 143
    assert caught.value.__notes__ == ["3 of 4 shards of 'correlate' are committed"]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    monkeypatch.undo()
    assert results(give("correlate", corpus, options)) == undisturbed


def test_shards_committed_by_another_process_meanwhile_are_not_computed_again(
    corpus, options, monkeypatch
):
    compute, taken = Worker.compute, []
    run_all, counted = Count.update_all, []

    def racing(self, steps, shard, progress):
        compute(self, steps, shard, progress)
        if steps == ["count"] and not taken:  # another one commits the next shard
            taken.append(shard + 1)
            compute(Worker(self.run, Resources()), steps, shard + 1, progress)

    def spying(cls, steps, unit, progress):
        counted.append(unit["index"])
        return run_all.__func__(cls, steps, unit, progress)

    monkeypatch.setattr(Worker, "compute", racing)
    monkeypatch.setattr(Count, "update_all", classmethod(spying))
    give("correlate", corpus, options)
    assert taken == [1]
    assert counted == [0, 1, 2, 3]


def command(corpus, options, *extra: str) -> list[str]:
    return [
        sys.executable, "-m", "outdim", "correlate", str(corpus), "--model", options.model,
        "--output", str(options.output), "--max-length", "24", "--token-budget", "256",
        "--shard-bytes", "1024", "--workers", "1", "--detect.permutations", "10", *extra,
    ]  # fmt: skip


@pytest.mark.slow
def test_worker_processes_and_torchrun_give_the_same_bytes(corpus, options, undisturbed):
    give("correlate", corpus, replaced(options, workers=2))
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
    assert "a worker of 'correlate' died" in process.communicate(timeout=300)[1]
    assert process.returncode == 4


def _spawned_by(parent: int) -> list[int]:
    """Processes that multiprocessing has made of ``parent``."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return [
        int(pid) for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]


def _correlate(corpus, options):
    step.report = lambda run: None
    give("correlate", corpus, options)


@pytest.mark.slow
def test_killed_at_fifty_random_points_a_run_gives_the_same_bytes(corpus, options, undisturbed):
    # The server has everything imported, so that a process is a fork and the kills fall into the
    # work itself.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["outdim.run.execute", "outdim.report", "transformers.models.bert"]
    )
    rng = random.Random(0)
    killed = 0
    while killed < 50:
        process = context.Process(target=_correlate, args=(corpus, options))
        process.start()
        process.join(rng.uniform(0.2, 4.0))
        if process.exitcode is None:
            process.kill()
            killed += 1
            process.join()
        else:  # complete: lose some of it, so that the next one has work
            assert process.exitcode == 0
            assert results(options.output) == undisturbed
            for path in options.output.glob("state/*/*"):
                if rng.random() < 0.5:
                    path.unlink()
    assert results(give("correlate", corpus, options)) == undisturbed
