"""Steps of other packages: one that cannot be loaded is named, and in nobody's way."""

import importlib
import re
import sys
from pathlib import Path

import newcomer
import pytest
from outdim import cli
from outdim.analysis import registry
from outdim.analysis.registry import step_class, steps, usable
from outdim.commands import step
from outdim.errors import BackendError
from outdim.report import write_report
from outdim.run.plan import Study

BROKEN = {
    "not there": "",
    "a fault": "1 / 0\n",
    "not Python": "def\n",
    "no such class": "x = 1\n",
    "no step": "class NormShare:\n    pass\n",
}


@pytest.fixture
def clean():
    yield
    sys.modules.pop("norm_share", None)
    for function in (steps, usable):
        function.cache_clear()


@pytest.fixture
def package(tmp_path, monkeypatch, clean) -> Path:
    """The step of CONTRIBUTING.md, installed."""
    folder = tmp_path / "packages"
    folder.mkdir()
    newcomer.install(folder)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "norm_share", raising=False)
    for function in (steps, usable):
        function.cache_clear()
    return folder


def break_it(folder: Path, content: str) -> None:
    (folder / "norm_share.py").unlink()
    if content:
        (folder / "norm_share.py").write_text(content)
    usable.cache_clear()
    sys.modules.pop("norm_share", None)
    importlib.invalidate_caches()


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_one_is_named_in_one_line_and_the_rest_works(
    package, corpus, tiny_directory, tmp_path, monkeypatch, capsys, name
):
    break_it(package, BROKEN[name])
    monkeypatch.setattr(step, "report", lambda run: None)
    for words in (["--help"], ["count", "--help"], ["analyze", "--help"]):
        with pytest.raises(SystemExit) as left:
            cli.main(words)
        assert left.value.code == 0
    said = capsys.readouterr()
    assert "norm-share" in said.out
    given = [str(corpus), "--model", str(tiny_directory), "--device", "cpu"]
    given += ["--correlate.types", "0"]
    if name != "a fault":  # one is enough that runs all the rest
        given += ["--steps", "correlate"]
    assert cli.main(["analyze", *given, "--output", str(tmp_path / "run")]) == 0
    assert "correlate" in Study(tmp_path / "run").entries()
    said = said.err + capsys.readouterr().err
    assert len(re.findall(r"^outdim: the step 'norm-share' of another package", said, re.M)) == 1
    assert cli.main(["norm-share", "--help"]) == 3
    error = capsys.readouterr().err
    assert error.startswith("outdim norm-share: the step 'norm-share' of another package cannot be")
    assert error.count("\n") == 1
    with pytest.raises(BackendError, match=r"norm_share:NormShare: \w+: "):
        step_class("norm-share")


def test_a_run_with_one_that_broke_since_is_still_read_and_mended(
    package, corpus, tiny_directory, tmp_path, monkeypatch, capsys
):
    run = tmp_path / "run"
    given = [str(corpus), "--model", str(tiny_directory), "--device", "cpu", "--output", str(run)]
    with monkeypatch.context() as patch:
        patch.setattr(step, "report", lambda run: None)
        assert cli.main(["norm-share", *given]) == 0
        assert cli.main(["detect", *given[1:], "--permutations", "10"]) == 0
        break_it(package, "1 / 0\n")
        (run / "detection.json").write_text("{}")
        assert cli.main(["detect", *given[1:], "--permutations", "10"]) == 0
    page = write_report(run).read_text()
    assert "The package that brings norm-share is not installed here, or broken" in page
    assert (run / "detection.json").read_text() != "{}"


def test_a_fault_of_our_own_is_not_taken_for_one_of_another_package(monkeypatch, clean):
    steps.cache_clear()
    monkeypatch.setitem(registry._STEPS, "count", ("About.", "outdim.analysis.count:Nothing"))
    with pytest.raises(AttributeError, match="Nothing"):
        step_class("count")
