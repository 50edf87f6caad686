"""Attacks on a run: text that changes, bits that flip, commands that race, signals."""

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from outdim import manifest
from outdim.analysis.count import Count
from outdim.analysis.inputs import Resources
from outdim.errors import DataError, OutdimError, ResumeError
from outdim.run.plan import Study
from outdim.run.sources import FILES, Sources
from outdim.run.stop import StopSignal
from outdim.run.store import StateStore
from outdim.run.worker import Worker
from outdim.tables import read_parquet
from outdim.tokens import TokenFrequencies
from run_helpers import give, replaced, results

# --- Text that changes while it is read.

OTHER = "w7 " * 2000 + "\n"


def _replace(path: Path, saved: Path) -> None:
    saved.write_bytes(OTHER.encode())
    saved.replace(path)


def _same_size(path: Path, saved: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"w1", b"w2"))


CHANGES = {
    "replaced": _replace,
    "same size": _same_size,
    "cut": lambda path, saved: os.truncate(path, 100),
    "appended": lambda path, saved: path.write_bytes(path.read_bytes() + OTHER.encode()),
    "emptied": lambda path, saved: os.truncate(path, 0),
    "removed": lambda path, saved: path.unlink(),
}


@pytest.fixture
def text(corpus, tmp_path) -> Path:
    copy = tmp_path / "text.txt"
    copy.write_bytes(corpus.read_bytes())
    return copy


@pytest.fixture
def during(monkeypatch):
    """Does something before, or after, a shard is counted."""

    def do(shard: int, action, *, after: bool) -> None:
        update_all = Count.update_all.__func__

        def changing(cls, steps, unit, progress):
            if unit["index"] == shard and not after:
                action()
            update_all(cls, steps, unit, progress)
            if unit["index"] == shard and after:
                action()

        monkeypatch.setattr(Count, "update_all", classmethod(changing))

    return do


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("change", CHANGES)
def test_text_that_changes_while_it_is_read_counts_for_nothing(
    text, corpus, count_options, tmp_path, monkeypatch, during, change, after
):
    undisturbed = results(give("count", text, replaced(count_options, output=tmp_path / "whole")))
    during(1, lambda: CHANGES[change](text, tmp_path / "saved"), after=after)
    with pytest.raises(DataError, match=r"text\.txt"):
        give("count", text, count_options)
    monkeypatch.undo()
    # What was read before the change stays, and counts once the text is back.
    text.write_bytes(corpus.read_bytes())
    store = StateStore(count_options.output, Study(count_options.output)["count"])
    assert store.missing() == [1, 2, 3]
    found = results(give("count", text, count_options))
    assert found["counts.parquet"] == undisturbed["counts.parquet"]


def test_text_replaced_killed_restored_and_resumed_is_no_mixture(
    text, corpus, count_options, tmp_path, monkeypatch, during
):
    undisturbed = results(give("count", text, replaced(count_options, output=tmp_path / "whole")))

    text.rename(tmp_path / "kept")
    text.write_bytes((tmp_path / "kept").read_bytes())
    stamp = os.stat(text)
    during(1, lambda: _replace(text, tmp_path / "saved"), after=True)
    with pytest.raises(DataError, match="was changed while it was read"):
        give("count", text, count_options)
    with pytest.raises(ResumeError, match=r"files\[0\]"):  # the other text is another run
        give("count", text, count_options)
    monkeypatch.undo()
    text.write_bytes(corpus.read_bytes())
    os.utime(text, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    found = results(give("count", text, count_options))
    assert found["counts.parquet"] == undisturbed["counts.parquet"]


def test_a_file_with_new_times_and_the_same_words_is_the_same(text, count_options):
    run = give("count", text, count_options)
    sources = Sources(run)
    (file,) = Study(run)["count"].inputs["files"]
    os.utime(text)
    with sources.unchanged({"path": str(text)}, {str(text): file["sha256"]}):
        pass
    with (
        pytest.raises(DataError, match="changed while"),
        sources.unchanged({"path": str(text)}, {str(text): file["sha256"]}),
    ):
        os.utime(text)
    text.write_text(OTHER)
    with (
        pytest.raises(DataError, match="not what it was"),
        sources.unchanged({"path": str(text)}, {str(text): file["sha256"]}),
    ):
        pass


# --- Bits that flip.


def _read_all(run: Path) -> dict[str, object]:
    """What readers of a run get: each result with its checksum."""
    found: dict[str, object] = {}
    for name in manifest.read(run)["results"]:
        path = manifest.result_path(run, name)
        found[name] = path.read_bytes()
        if path.suffix == ".parquet":
            read_parquet(path)
    TokenFrequencies.from_parquet(manifest.result_path(run, "counts.parquet"))
    return found


@pytest.mark.slow
def test_of_a_thousand_flipped_bits_none_goes_unnoticed_and_none_is_a_raw_error(
    corpus, options, tmp_path
):
    """A reader gets what was written or an OutdimError; the command mends it or refuses."""
    given = tmp_path / "given"
    give("correlate", corpus, replaced(options, output=given))
    options = replaced(options, per_token=[3], counts=given / "counts.parquet", types=32)
    run = give("correlate", corpus, options)
    sound = _read_all(run)
    log = (run / "manifest.json").read_bytes()
    files = [
        path
        for path in sorted(run.rglob("*"))
        if path.is_file() and path.name != "report.html" and path.stat().st_size
    ]
    assert {path.suffix for path in files} == {".json", ".parquet", ".safetensors"}
    rng, outcome = random.Random(0), Counter()
    for number in range(1000):
        path = files[number % len(files)]
        name, content = str(path.relative_to(run)), path.read_bytes()
        broken = bytearray(content)
        place = rng.randrange(len(broken))
        broken[place] ^= 1 << rng.randrange(8)
        path.write_bytes(bytes(broken))
        try:
            assert _read_all(run) == sound, path
            outcome["read", name] += 1
        except OutdimError:
            outcome["refused", name] += 1
        if number % 19 == 0:  # the command itself: it mends, or refuses
            try:
                give("correlate", corpus, options)
                assert _read_all(run) == sound, path
                outcome["mended", name] += 1
            except OutdimError:
                outcome["not mended", name] += 1
        path.write_bytes(content)
        (run / "manifest.json").write_bytes(log)
    for name in sound:
        assert outcome["refused", name] > 50
        assert not outcome["read", name]
    print(dict(outcome))


def test_kept_counts_that_were_altered_are_not_used(corpus, options, tmp_path):
    given = give("correlate", corpus, replaced(options, output=tmp_path / "given"))
    options = replaced(options, counts=given / "counts.parquet")
    run = give("correlate", corpus, options)
    before = results(run)
    kept = run / "inputs" / "counts.parquet"
    for path in run.glob("state/correlate/*"):
        path.unlink()
    for broken in (kept.read_bytes()[:-1], None):
        if broken is None:
            kept.unlink()
        else:
            kept.write_bytes(broken)
        with pytest.raises(DataError, match="is not what the step 'correlate' was given"):
            Worker(run, Resources()).compute(["correlate"], 0, lambda tokens: None)
        assert results(give("correlate", corpus, options)) == before
        for path in run.glob("state/correlate/*"):
            path.unlink()


# --- Commands that race.


def _race(barrier, codes, corpus, trials) -> None:
    """One of two processes that give their commands at the same moments."""
    from outdim.commands import step

    step.report = lambda run: None
    for options in trials:
        barrier.wait(timeout=120)
        try:
            give("count", corpus, options)
            codes.put(0)
        except OutdimError as error:
            codes.put(error.exit_code)


@pytest.mark.slow
def test_of_two_commands_in_one_new_directory_exactly_one_wins_fifty_times(
    corpus, count_options, tmp_path
):
    right = {}
    for chars in (0, 60):
        alone = replaced(count_options, output=tmp_path / str(chars), min_chars=chars)
        right[chars] = (give("count", corpus, alone) / "counts.parquet").read_bytes()
    assert right[0] != right[60]
    runs = [tmp_path / f"trial-{trial}" for trial in range(50)]
    context = multiprocessing.get_context("spawn")
    barrier, queues = context.Barrier(2), [context.Queue(), context.Queue()]
    processes = []
    for chars, codes in zip(right, queues, strict=True):
        trials = [replaced(count_options, output=run, min_chars=chars) for run in runs]
        arguments = (barrier, codes, corpus, trials)
        processes.append(context.Process(target=_race, args=arguments, daemon=True))
        processes[-1].start()
    won = Counter()
    for run in runs:
        codes = [queue.get(timeout=120) for queue in queues]
        assert sorted(codes) == [0, 5], codes
        chars = list(right)[codes.index(0)]
        assert manifest.result_path(run, "counts.parquet").read_bytes() == right[chars]
        assert Study(run)["count"].options["min_chars"] == chars
        assert (run / FILES).exists()
        won[chars] += 1
    for process in processes:
        process.join()
    print(dict(won))


# --- Signals.


def test_a_first_signal_is_asked_for_and_handlers_are_restored():
    before = signal.getsignal(signal.SIGINT)
    with StopSignal().installed() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.05)
        with pytest.raises(OutdimError, match="interrupted by SIGINT"):
            stop.check()
    assert signal.getsignal(signal.SIGINT) == before
    assert signal.set_wakeup_fd(-1) == -1


@pytest.mark.parametrize("signals", [(signal.SIGINT,) * 2, (signal.SIGTERM, signal.SIGINT)])
def test_a_second_signal_ends_the_process_in_the_middle_of_native_code(signals):
    script = (
        "from outdim.run.stop import StopSignal\n"
        "import re\n"
        "with StopSignal().installed():\n"
        "    print('in', flush=True)\n"
        "    re.match(r'(a|aa)+$', 'a' * 60 + 'b')\n"  # for ages, and never back in Python
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(0.3)
    process.send_signal(signals[0])
    time.sleep(0.5)
    assert process.poll() is None  # the first one is a wish
    begin = time.monotonic()
    process.send_signal(signals[1])
    assert process.wait(timeout=30) == 128 + signals[1]
    assert time.monotonic() - begin < 2
    process.stdout.close()


@pytest.mark.slow
def test_a_worker_that_is_stopped_does_not_keep_the_command_from_ending(
    corpus, tiny_directory, tmp_path
):
    given = [
        sys.executable, "-m", "outdim", "correlate", str(corpus), "--model", str(tiny_directory),
        "--output", str(tmp_path / "run"), "--shard-bytes", "256", "--workers", "2", "--types", "0",
    ]  # fmt: skip
    process = subprocess.Popen(given, stderr=subprocess.PIPE, text=True)
    while not (children := _workers(process.pid)):
        assert process.poll() is None
        time.sleep(0.05)
    os.kill(children[0], signal.SIGSTOP)
    process.send_signal(signal.SIGTERM)
    begin = time.monotonic()
    _, error = process.communicate(timeout=120)
    assert process.returncode == 143, error
    assert time.monotonic() - begin < 60  # it is given time for a batch, and then ended
    assert "give the same command again" in error
    assert not Path(f"/proc/{children[0]}").exists()


def _workers(parent: int) -> list[int]:
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return [
        int(pid) for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
