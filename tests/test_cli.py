"""The command line: what is understood, what is refused and how, and where the output goes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from outdim import cli, manifest
from outdim.analysis import registry
from outdim.commands import step
from outdim.run.plan import Study


@pytest.fixture(autouse=True)
def no_report(request, monkeypatch):
    if "reader" not in request.node.name:
        monkeypatch.setattr(step, "report", lambda run: None)


@pytest.fixture
def count(corpus, tiny_directory, tmp_path) -> list[str]:
    """The arguments of a small run of `outdim count`."""
    return [
        "count", str(corpus), "--tokenizer", str(tiny_directory), "--output", str(tmp_path / "run"),
        "--device", "cpu",
    ]  # fmt: skip


def outdim(*arguments: str, **keywords) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "outdim", *arguments]
    keywords = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **keywords}
    return subprocess.run(command, check=False, timeout=300, **keywords)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (
            ["count", "/nowhere.txt", "--tokenizer", "{model}", "--output", "{out}"],
            3,
            "/nowhere.txt",
        ),
        (["count", "{corpus}", "--tokenizer", "{tmp}", "--output", "{out}"], 3, "tokenizer:"),
        (["count", "{corpus}", "--tokenizer", "{model}", "--output", "{tmp}"], 2, "not empty"),
        (["detect", "--model", "{tmp}", "--output", "{out}"], 3, "model"),
        (["detect", "--model", "{model}", "--output", "{out}", "--k", "0"], 2, "k: expected"),
        (["report", "{tmp}"], 3, "{tmp}"),
        (["compare", "{tmp}", "{tmp}", "--output", "{out}"], 3, "{tmp}"),
        (["compare", "{tmp}/no", "{tmp}/no", "--output", "{out}"], 3, "counts: there is no"),
        (["recorrelate", "{tmp}", "--output", "{out}"], 3, "{tmp}"),
        (
            ["analyze", "{corpus}", "--model", "{model}", "--output", "{out}", "--steps", "count"],
            2,
            "steps: expected steps that observe a model, got count",
        ),
        (
            ["analyze", "{corpus}", "--model", "{model}", "--output", "{out}", "--steps", "x"],
            2,
            "steps: expected some of count, detect",
        ),
        (
            ["correlate", "{corpus}", "--model", "{model}", "--output", "{out}", "--points"],
            2,
            "points: expected at least one",
        ),
        (
            ["correlate", "{corpus}", "--model", "{model}", "--output", "{out}", "--rank", "99"],
            2,
            "rank: expected dimensions 0 to 15",
        ),
    ],
)
def test_errors_end_with_their_exit_code_and_leave_nothing(
    arguments, code, said, corpus, tiny_directory, tmp_path, capsys
):
    (tmp_path / "something").write_text("x")
    names = {"corpus": corpus, "model": tiny_directory, "tmp": tmp_path, "out": tmp_path / "out"}
    assert cli.main([argument.format(**names) for argument in arguments]) == code
    captured = capsys.readouterr()
    assert captured.err.startswith(f"outdim {arguments[0]}: ")
    assert said.format(**names) in captured.err
    assert not captured.out
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["count", "--nonsense"], "nonsense"),
        (["nope"], "nope"),
        ([], "usage: outdim"),
        (["count", "x", "--k", "3"], "--k"),
        (["count", "x", "--tokenizer", "t"], "output"),
        (["correlate", "x", "--output", "o"], "model"),
        (["count", "x", "--output", "o", "--min-chars", "many"], "min-chars: expected"),
        (["count", "x", "--output", "o", "--on-error", "maybe"], "on-error: expected one of"),
        (["correlate", "x", "--output", "o", "--model", "m", "--rank", "a"], "rank"),
        (["detect", "--output", "o", "--model", "m", "--detect.k", "2"], "detect.k"),
        (
            ["sweep", "sts", "--output", "o", "--model", "m", "--mode", "mean"],
            "--mode mean",
        ),
        (["sweep", "lm", "x", "--output", "o", "--model", "m", "--seed=1", "--var=2"], "--var=2"),
    ],
)
def test_a_wrong_command_line_ends_with_2_and_the_usage(arguments, said, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("usage: outdim")
    assert said in error


def test_usage_names_what_is_required(capsys):
    for command, usage in {
        "count": "outdim count TEXT --tokenizer TOKENIZER --output OUTPUT [options]",
        "correlate": "outdim correlate TEXT --model MODEL --output OUTPUT [options]",
        "compare": "outdim compare FIRST SECOND --output OUTPUT [options]",
        "doctor": "outdim doctor [options]",
    }.items():
        with pytest.raises(SystemExit) as caught:
            cli.main([command, "--help"])
        assert caught.value.code == 0
        assert f"usage: {usage}\n" in capsys.readouterr().out


def test_help_and_version_need_no_torch():
    found = outdim("--help")
    assert found.returncode == 0
    for command in ("count", "correlate", "analyze", "recorrelate", "compare", "report", "demo"):
        assert f"    {command} " in found.stdout
    for arguments in (["--help"], ["--version"], ["count", "--help"]):
        script = (
            "import sys\nfrom outdim import cli\n"
            f"try: cli.main({arguments!r})\nexcept SystemExit: pass\n"
            "heavy = {'torch', 'transformers', 'pyarrow', 'datasets', 'numpy'} & set(sys.modules)\n"
            "sys.exit(', '.join(sorted(heavy)) or None)"
        )
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")


class TestGroup:
    """Commands whose names begin with that of a group are its members."""

    @pytest.fixture(autouse=True)
    def members(self, monkeypatch):
        added = {
            "evaluate-count": ("Count as a member.", "outdim.analysis.count:Count"),
            "evaluate-other": ("Do another thing.", "outdim.analysis.detect:Detect"),
        }
        monkeypatch.setattr(registry, "_STEPS", {**registry._STEPS, **added})
        registry.steps.cache_clear()
        yield
        registry.steps.cache_clear()

    def test_help_shows_the_group_then_its_members_then_their_options(self, capsys):
        said = []
        for words in (["--help"], ["evaluate", "--help"], ["evaluate", "count", "--help"]):
            with pytest.raises(SystemExit) as caught:
                cli.main(words)
            assert caught.value.code == 0
            said.append(" ".join(capsys.readouterr().out.split()))
        assert "evaluate Disable dimensions" in said[0]
        assert "Count as a member" not in said[0]
        assert "count Count as a member. other Do another thing." in said[1].replace("  ", " ")
        assert (
            "usage: outdim evaluate count TEXT --tokenizer TOKENIZER --output OUTPUT [options]"
            in said[2]
        )

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            ([], "expected"),
            (["nope"], "'nope'"),
            (["count", "--nonsense"], "nonsense"),
            (["count", "x"], "output"),
        ],
    )
    def test_a_wrong_command_line_ends_with_2_and_the_usage(self, words, said, capsys):
        with pytest.raises(SystemExit) as caught:
            cli.main(["evaluate", *words])
        assert caught.value.code == 2
        error = capsys.readouterr().err
        assert error.startswith("usage: outdim")
        assert said in error

    @pytest.mark.parametrize(
        ("words", "command", "said"),
        [
            (["evaluate", "count", "--nonsense"], "evaluate count", "unrecognized"),
            (["evaluate", "count"], "evaluate count", "are required: TEXT, --tokenizer"),
            (["evaluate"], "evaluate", "expected COMMAND to be one of {"),
            (["evaluate", "nope"], "evaluate", "nope"),
            (["sweep", "lm"], "sweep lm", "are required: TEXT, --model, --output"),
            (["detect"], "detect", "are required: --model, --output"),
            ([], "", "expected COMMAND to be one of {"),
        ],
    )
    def test_the_help_that_is_advised_is_that_of_the_command(self, words, command, said, capsys):
        with pytest.raises(SystemExit) as caught:
            cli.main(words)
        assert caught.value.code == 2
        error = capsys.readouterr().err
        assert f"run: {' '.join(['outdim', *command.split()])} --help\n" in error
        assert said in error

    def test_errors_name_the_member(self, tmp_path, capsys):
        out = tmp_path / "out"
        assert cli.main(["evaluate", "count", "/no.txt", "--tokenizer", "t", "--output", str(out)])
        assert capsys.readouterr().err.startswith("outdim evaluate count: ")

    def test_yaml_and_command_line_are_the_same(self, corpus, tiny_directory, tmp_path, capsys):
        given = ["evaluate", "count", str(corpus), "--tokenizer", str(tiny_directory),
                 "--output", str(tmp_path / "run"), "--min-chars", "20"]  # fmt: skip
        with pytest.raises(SystemExit):
            cli.main([*given, "--print_config"])
        (tmp_path / "options.yaml").write_text(capsys.readouterr().out)
        assert cli.main(["evaluate", "count", "--config", str(tmp_path / "options.yaml")]) == 0
        assert Study(tmp_path / "run")["count"].options["min_chars"] == 20
        assert cli.main(given) == 0


def test_what_is_told_is_of_the_steps_asked_for(corpus, tiny_directory, tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(step, "report", told.append)
    run = tmp_path / "run"
    model = ["--model", str(tiny_directory), "--output", str(run)]
    assert cli.main(["correlate", str(corpus), *model, "--device", "cpu"]) == 0
    assert cli.main(["detect", *model]) == 0
    assert told == [(run, ["correlate"], ["count", "detect", "correlate"]), (run, ["detect"], [])]


def test_stdout_gets_the_path_alone_and_a_reader_a_summary(count, tmp_path, capsys):
    assert cli.main([*count, "--documents"]) == 0
    captured = capsys.readouterr()
    assert captured.out == f"{tmp_path / 'run'}\n"
    assert f"{tmp_path / 'run'}/report.html" in captured.err


def test_what_python_is_told_a_command_line_is_told_in_its_own_words(
    tmp_path, tiny_directory, capsys
):
    (tmp_path / "bad.jsonl").write_text('{"text": "w1"}\n{"text"')
    given = ["--tokenizer", str(tiny_directory), "--output", str(tmp_path / "run")]
    assert cli.main(["count", str(tmp_path / "bad.jsonl"), *given]) == 3
    assert "leave such rows out with --on-error skip" in capsys.readouterr().err
    assert cli.main(["count", str(tmp_path / "missing.txt"), *given]) == 3
    assert capsys.readouterr().err.startswith("outdim count: TEXT: ")


def test_yaml_and_command_line_are_the_same(corpus, tiny_directory, tmp_path, capsys):
    given = [
        "correlate", str(corpus), "--model", str(tiny_directory), "--output", str(tmp_path / "a"),
        "--min-chars", "20", "--rank", "3", "5", "--no-fused", "--detect.k", "2",
        "--count.method", "encode", "--per_token", "3", "--device", "cpu", "--max-length=24",
    ]  # fmt: skip
    with pytest.raises(SystemExit):
        cli.main([*given, "--print_config"])
    config = tmp_path / "options.yaml"
    config.write_text(capsys.readouterr().out)
    assert not (tmp_path / "a").exists()
    assert cli.main(["correlate", "--config", str(config)]) == 0
    entries = Study(tmp_path / "a").entries()
    assert entries["correlate"].options["min_chars"] == 20
    assert entries["correlate"].options["rank"] == [3, 5]
    assert entries["correlate"].options["fused"] is False
    assert entries["detect"].options["k"] == 2
    assert entries["count"].options["method"] == "encode"
    assert cli.main(given) == 0  # else it would end with 5
    # What is given behind the file goes before it.
    assert cli.main(["correlate", "--config", str(config), "--rank", "4"]) == 5


def test_a_list_without_a_value_is_empty(corpus, tiny_directory, tmp_path):
    run = tmp_path / "run"
    given = ["correlate", str(corpus), "--model", str(tiny_directory), "--device", "cpu"]
    assert cli.main([*given, "--rank", "--types", "0", "--output", str(run)]) == 0
    assert Study(run)["correlate"].options["rank"] == []


@pytest.mark.parametrize(
    ("content", "code", "said"),
    [
        (b"source: {corpus}\ntokenizer: {model}\noutput: {out}\ndevice: cpu\n", 0, "{out}"),
        (b"source: []\ntokenizer: {model}\noutput: {out}\n", 2, "TEXT: name the text"),
        (b"source: [\xff\xfe]\n", 2, "not UTF-8"),
        (b"source: [a\n", 2, "parsing"),
        (b"nonsense: 1\n", 2, "nonsense"),
        (b"- 1\n", 2, "config: expected a file of YAML with lines such as seed: 1; got '- 1'"),
        (b"", 2, "such as seed: 1; got ''"),
        (b"source: x\nmin_chars: abc\n", 2, "min-chars: expected a whole number; got 'abc'"),
    ],
)
def test_files_of_options(corpus, tiny_directory, tmp_path, capsys, content, code, said):
    names = {"corpus": corpus, "model": tiny_directory, "out": tmp_path / "out"}
    for name, value in names.items():
        content = content.replace(b"{%s}" % name.encode(), str(value).encode())
    (tmp_path / "options.yaml").write_bytes(content)
    try:
        found = cli.main(["count", "--config", str(tmp_path / "options.yaml")])
    except SystemExit as left:
        found = left.code
    captured = capsys.readouterr()
    assert found == code
    assert said.format(**names) in captured.out + captured.err


def test_resuming_something_else_ends_with_5(count, capsys):
    assert cli.main(count) == 0
    assert cli.main([*count, "--min-chars", "9"]) == 5
    assert "options.min_chars: 0 -> 9" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (PermissionError(13, "denied", "/root/run"), 3, "[Errno 13] denied: '/root/run'"),
        (OSError(28, "No space left on device", "run/report.html"), 3, "run/report.html"),
        (MemoryError("12 GB"), 3, "out of memory (12 GB)"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (cli.OutdimError("a \x1b[2J b\nc"), 3, "a \\x1b[2J b\nc"),
    ],
)
def test_what_ends_a_command_is_said_in_a_line(count, monkeypatch, capsys, error, code, said):
    def raising(command, given):
        raise error

    monkeypatch.setattr(step.StepCommand, "run", raising)
    assert cli.main(count) == code
    captured = capsys.readouterr().err
    assert captured.startswith("outdim count: ")
    assert captured.endswith("\n")
    assert said in captured


def test_a_fault_of_our_own_is_not_hidden(count, monkeypatch):
    monkeypatch.setattr(step.StepCommand, "run", lambda command, given: {}["nothing"])
    with pytest.raises(KeyError):
        cli.main(count)


def test_a_reader_that_leaves_is_no_error():
    reading, writing = os.pipe()
    os.close(reading)
    done = outdim("doctor", stdout=writing)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
def test_streams_that_are_closed_or_full_are_no_traceback():
    command = f"{sys.executable} -m outdim doctor"
    for redirected, code in ((">&-", 0), (">&- 2>&-", 0), ("2>&-", 0), (">/dev/full", 3)):
        done = subprocess.run(
            ["bash", "-c", f"{command} {redirected}"], capture_output=True, text=True, check=False
        )
        assert done.returncode == code, redirected
        assert "Traceback" not in done.stderr + done.stdout
        assert "Exception ignored" not in done.stderr


@pytest.mark.slow
def test_python_without_docstrings_runs_too(count, tmp_path):
    done = outdim(*count, env={**os.environ, "PYTHONOPTIMIZE": "2"})
    assert (done.returncode, done.stdout) == (0, f"{tmp_path / 'run'}\n"), done.stderr
    assert manifest.result_path(tmp_path / "run", "counts.parquet").exists()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="names of other systems are text")
def test_names_that_are_not_text(corpus, tiny_directory, tmp_path):
    folder = Path(os.fsdecode(bytes(tmp_path) + b"/\xff\xfe"))
    folder.mkdir()
    text = folder / os.fsdecode(b"t\xe9xt.txt")
    text.write_bytes(corpus.read_bytes())
    script = "import sys; from outdim.commands import step; from outdim import cli; "
    script += "step.report = lambda run: None; sys.exit(cli.main())"
    run = folder / os.fsdecode(b"r\xfcn")
    given = [
        sys.executable, "-c", script, "count", str(text), "--tokenizer", str(tiny_directory),
        "--output", str(run), "--device", "cpu",
    ]  # fmt: skip
    done = subprocess.run(given, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == bytes(run) + b"\n"
    assert Study(run)["count"].inputs["files"][0]["path"] == str(text)
    text.write_bytes(b"other\n")
    done = subprocess.run(given, capture_output=True, check=False)
    assert done.returncode == 5
    assert b"Traceback" not in done.stderr
