"""Runs of `outdim count`, and the command line around all of them."""

import dataclasses
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from outdim import cli
from outdim.errors import ArgumentError, DataError, ResumeError
from outdim.options import CountOptions, DetectOptions
from outdim.run import commands
from outdim.tokens import TokenFrequencies, load_tokenizer


@pytest.fixture
def count_options(tiny_directory, tmp_path) -> CountOptions:
    return CountOptions(
        output=tmp_path / "counts", tokenizer=str(tiny_directory), shard_bytes=1024, documents=True
    )


def test_counts_are_those_of_the_tokenizer(corpus, count_options):
    run = commands.count([str(corpus)], count_options)
    tokenizer = load_tokenizer(count_options.tokenizer)
    ids = [tokenizer(line).input_ids for line in corpus.read_text().splitlines()]
    found = TokenFrequencies.from_parquet(run / "counts.parquet")
    np.testing.assert_array_equal(found.counts, np.bincount(np.concatenate(ids), minlength=200))
    documents = np.bincount(np.concatenate([np.unique(row) for row in ids]), minlength=200)
    np.testing.assert_array_equal(found.documents, documents)
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["tokens"]["read"] == sum(map(len, ids))
    assert manifest["tokens"]["documents"] == len(ids)
    assert manifest["counting"]["why"]


@pytest.mark.parametrize("method", ["chunks", "encode"])
def test_both_methods_give_the_same_bytes(corpus, count_options, method):
    auto = commands.count([str(corpus)], count_options)
    other = dataclasses.replace(
        count_options, output=count_options.output.with_name(method), method=method
    )
    one = commands.count([str(corpus)], other)
    assert (one / "counts.parquet").read_bytes() == (auto / "counts.parquet").read_bytes()


def test_shares_of_a_count_give_the_same_bytes(corpus, count_options):
    whole = commands.count([str(corpus)], count_options)
    parts = dataclasses.replace(count_options, output=count_options.output.with_name("parts"))
    for index in (2, 0, 1):
        commands.count([str(corpus)], dataclasses.replace(parts, shard_index=index, shard_count=3))
    assert (parts.output / "counts.parquet").read_bytes() == (whole / "counts.parquet").read_bytes()


def test_a_broken_row_fails_or_is_accounted_for(count_options, tmp_path):
    source = tmp_path / "broken.jsonl"
    source.write_text('{"text": "w1 w2"}\n{"text": \n{"text": "w3"}\n')
    with pytest.raises(DataError, match="line 2"):
        commands.count([str(source)], count_options)
    assert not count_options.output.exists()
    run = commands.count([str(source)], dataclasses.replace(count_options, on_error="skip"))
    manifest = json.loads((run / "manifest.json").read_text())
    assert sum(manifest["tokens"]["excluded"].values()) == 1
    assert manifest["tokens"]["documents"] == 2


def test_an_unknown_column_lists_those_there_are(count_options, tmp_path):
    source = tmp_path / "rows.jsonl"
    source.write_text('{"body": "w1 w2"}\n')
    with pytest.raises(DataError, match="body"):
        commands.count([str(source)], count_options)
    assert not count_options.output.exists()


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["count", "{corpus}", "--output", "{out}"], 2, "tokenizer: name it"),
        (["count", "--tokenizer", "{model}", "--output", "{out}"], 2, "source: name the text"),
        (
            ["count", "/nowhere.txt", "--tokenizer", "{model}", "--output", "{out}"],
            3,
            "no such file",
        ),
        (["count", "{corpus}", "--tokenizer", "{tmp}", "--output", "{out}"], 3, "tokenizer:"),
        (["count", "{corpus}", "--tokenizer", "{model}", "--output", "{tmp}"], 2, "not empty"),
        (["detect", "--model", "{tmp}", "--output", "{out}"], 3, "model"),
        (["detect", "--model", "{model}", "--output", "{out}", "--k", "0"], 2, "k: expected"),
        (["correlate", "{corpus}", "--output", "{out}"], 2, "model: name it"),
        (["report", "{tmp}"], 3, "holds none of"),
        (["count", "--compare", "{tmp}", "{tmp}", "--output", "{out}"], 3, "counts: there is no"),
    ],
)
def test_errors_end_with_their_exit_code_and_leave_nothing(
    arguments, code, said, corpus, tiny_directory, tmp_path, capsys
):
    (tmp_path / "something").write_text("x")
    names = {"corpus": corpus, "model": tiny_directory, "tmp": tmp_path, "out": tmp_path / "out"}
    assert cli.main([argument.format(**names) for argument in arguments]) == code
    captured = capsys.readouterr()
    assert said in captured.err
    assert "Traceback" not in captured.err
    assert not captured.out
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "arguments", [["count", "--nonsense"], ["nope"], [], ["count", "x", "--k", "3"]]
)
def test_a_wrong_command_line_ends_with_2_and_the_usage(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2
    assert "usage: outdim" in capsys.readouterr().err


def test_stdout_gets_the_path_alone_and_a_reader_a_summary(
    corpus, tiny_directory, tmp_path, capsys
):
    out = tmp_path / "run"
    arguments = [
        str(corpus),
        "--tokenizer",
        str(tiny_directory),
        "--output",
        str(out),
        "--documents",
    ]
    assert cli.main(["count", *arguments]) == 0
    captured = capsys.readouterr()
    assert captured.out == f"{out}\n"
    assert "tokens/s" in captured.err
    assert f"{out}/report.html" in captured.err


def test_yaml_and_command_line_are_the_same(corpus, tiny_directory, tmp_path, capsys):
    options = [
        "count",
        str(corpus),
        "--tokenizer",
        str(tiny_directory),
        "--output",
        str(tmp_path / "a"),
    ]
    with pytest.raises(SystemExit):
        cli.main([*options, "--min-chars", "20", "--print_config"])
    config = tmp_path / "options.yaml"
    config.write_text(capsys.readouterr().out)
    assert cli.main(["count", "--config", str(config)]) == 0
    manifest = json.loads((tmp_path / "a" / "manifest.json").read_text())
    assert manifest["options"]["min_chars"] == 20


def test_resuming_something_else_ends_with_5(corpus, tiny_directory, tmp_path, capsys):
    options = [
        "count",
        str(corpus),
        "--tokenizer",
        str(tiny_directory),
        "--output",
        str(tmp_path / "a"),
    ]
    assert cli.main(options) == 0
    assert cli.main([*options, "--min-chars", "9"]) == 5
    assert "options.min_chars: 0 -> 9" in capsys.readouterr().err


def test_detection_overwrites_no_other_run(corpus, count_options, tmp_path):
    counts = commands.count([str(corpus)], count_options)
    model = count_options.tokenizer
    with pytest.raises(ResumeError, match="holds a run of `outdim count`"):
        commands.detect(DetectOptions(model=model, output=counts, permutations=10))
    assert not (counts / "stats.parquet").exists()
    detected = DetectOptions(model=model, output=tmp_path / "detected", permutations=10)
    commands.detect(detected)
    before = (tmp_path / "detected" / "detection.json").read_bytes()
    commands.detect(detected)
    with pytest.raises(ResumeError, match=r"options\.k: 3\.0 -> 2\.0"):
        commands.detect(dataclasses.replace(detected, k=2.0))
    with pytest.raises(ResumeError, match="holds a run of `outdim detect`"):
        commands.count([str(corpus)], dataclasses.replace(count_options, output=detected.output))
    assert (tmp_path / "detected" / "detection.json").read_bytes() == before


def test_a_comparison_may_be_repeated_and_is_not_overwritten_by_another(
    corpus, count_options, tmp_path
):
    first = commands.count([str(corpus)], count_options)
    fewer = dataclasses.replace(count_options, output=tmp_path / "fewer", min_chars=60)
    second = commands.count([str(corpus)], fewer)
    page = commands.compare(str(first), str(second), tmp_path / "compared")
    assert commands.compare(str(first), str(second), tmp_path / "compared") == page
    with pytest.raises(ResumeError, match=r"inputs\.counts"):
        commands.compare(str(second), str(first), tmp_path / "compared")


def test_a_share_that_fails_leaves_the_directory_to_the_others(count_options, tmp_path):
    source = tmp_path / "broken.jsonl"
    source.write_text('{"text": "w1 w2"}\n' * 100 + "{\n")
    # The method is given: choosing one would read the data before there is a directory.
    share = dataclasses.replace(count_options, method="encode", shard_index=1, shard_count=2)
    with pytest.raises(DataError, match="line 101"):
        commands.count([str(source)], share)
    assert (share.output / "plan.json").exists()


def test_a_system_that_refuses_ends_with_3_and_an_interrupt_with_130(
    corpus, count_options, tmp_path, monkeypatch, capsys
):
    arguments = ["count", str(corpus), "--tokenizer", count_options.tokenizer]

    def raising(error):
        def count(*args):
            raise error

        return count

    monkeypatch.setattr(commands, "count", raising(PermissionError(13, "denied", "/root/run")))
    assert cli.main([*arguments, "--output", "/root/run"]) == 3
    assert capsys.readouterr().err == "outdim count: [Errno 13] denied: '/root/run'\n"
    monkeypatch.setattr(commands, "count", raising(KeyboardInterrupt()))
    assert cli.main([*arguments, "--output", "/root/run"]) == 130
    assert capsys.readouterr().err == "outdim count: interrupted\n"


def test_a_reader_that_leaves_is_no_error():
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "outdim", "doctor"],
        stdout=writing, stderr=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")


def test_negative_sizes_are_refused(corpus, count_options):
    for change in ({"min_chars": -1}, {"shard_bytes": 0}, {"memory": 5}):
        (name,) = change
        with pytest.raises(ArgumentError, match=f"^{name.replace('_', '-')}: expected"):
            commands.count([str(corpus)], dataclasses.replace(count_options, **change))
