"""A run directory: what is accepted, who may be at work in it, and who clears up after an error."""

import os
from pathlib import Path

import pytest
import torch
from outdim.analysis.step import State
from outdim.errors import ArgumentError, BackendError, DataError, EmptyCorpusError, ResumeError
from outdim.run.directory import check_directory, taken
from outdim.run.plan import Entry, Study
from outdim.run.store import StateStore


def entry(step="count") -> Entry:
    return Entry(step, {}, {"attached": {}, "needs": {}}, ({"start": 0}, {"start": 1}))


def begin(run: Path, *steps: str, alone: bool = True, then=lambda: None) -> None:
    """What a command does: it takes the directory, adds its steps, and works."""
    study = Study(run)
    with taken(run, study, alone=alone):
        study.add([entry(step) for step in steps])
        then()


def fail(run: Path, error: Exception, *steps: str, alone: bool = True, commit: bool = False):
    def raising():
        if commit:
            StateStore(run, entry()).commit(0, State({"h": torch.zeros(1)}, {}), lambda a, b: a)
        raise error

    with pytest.raises(type(error)):
        begin(run, *steps, alone=alone, then=raising)


def test_a_directory_with_other_things_in_it_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(ArgumentError, match="not empty"):
        check_directory(tmp_path)
    with pytest.raises(ArgumentError, match="is a file"):
        check_directory(tmp_path / "thesis.tex")
    check_directory(tmp_path / "a" / "b")
    assert not (tmp_path / "a").exists()


def test_what_little_was_made_of_a_run_does_not_block_the_directory(tmp_path):
    for name in ("state", "inputs"):
        (tmp_path / name).mkdir()
    for name in ("files.json", ".lock", ".in-use", ".0.json.123.tmp"):
        (tmp_path / name).touch()
    check_directory(tmp_path)
    (tmp_path / "manifest.json").touch()  # of a comparison, say
    with pytest.raises(ArgumentError, match="is not a run"):
        check_directory(tmp_path)
    (tmp_path / "plan").mkdir()
    check_directory(tmp_path)


def test_what_was_made_for_nothing_is_removed_with_the_directories_that_were_made(tmp_path):
    fail(tmp_path / "a" / "b", DataError("broken"), "count")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", [".", "mine", "link"])
def test_a_directory_that_was_there_stays_and_the_error_is_the_first_one(
    tmp_path, monkeypatch, name
):
    (tmp_path / "mine").mkdir()
    (tmp_path / "link").symlink_to("mine")
    monkeypatch.chdir(tmp_path / "mine" if name == "." else tmp_path)
    fail(Path(name), DataError("broken"), "count")
    assert not list(Path(name).iterdir())
    assert (tmp_path / "link").is_symlink()


def test_a_clean_up_that_fails_does_not_hide_the_error(tmp_path, monkeypatch):
    def refuse(path, *arguments, **keywords):
        raise PermissionError(13, "denied", str(path))

    monkeypatch.setattr(Path, "unlink", refuse)
    monkeypatch.setattr(Path, "rmdir", refuse)
    fail(tmp_path / "run", DataError("the cause"), "count")
    assert (tmp_path / "run" / "plan" / "0.json").exists()


@pytest.mark.parametrize(
    "error", [ResumeError("refused"), BackendError("disk full"), KeyboardInterrupt()]
)
def test_after_a_refusal_or_an_interruption_nothing_is_removed(tmp_path, error):
    fail(tmp_path, error, "count")
    assert list(Study(tmp_path).entries()) == ["count"]


def test_one_of_several_shares_removes_nothing(tmp_path):
    fail(tmp_path, DataError("broken"), "count", alone=False)
    assert list(Study(tmp_path).entries()) == ["count"]


def test_committed_shards_and_their_plan_stay_but_for_text_without_a_token(tmp_path):
    fail(tmp_path / "one", DataError("broken"), "count", commit=True)
    assert list(Study(tmp_path / "one").entries()) == ["count"]
    assert StateStore(tmp_path / "one", entry()).missing() == [1]
    fail(tmp_path / "two", EmptyCorpusError("no token"), "count", commit=True)
    assert not (tmp_path / "two").exists()


def test_a_plan_that_was_there_stays(tmp_path):
    Study(tmp_path).add([entry()])
    fail(tmp_path, DataError("broken"), "count")
    assert list(Study(tmp_path).entries()) == ["count"]
    fail(tmp_path, DataError("broken"), "count", "other")
    assert list(Study(tmp_path).entries()) == ["count"]


def test_nothing_is_removed_while_another_process_is_at_work(tmp_path):
    run = tmp_path / "run"
    begin(run, then=lambda: fail(run, DataError("broken"), "count"))
    assert list(Study(run).entries()) == ["count"]
    fail(run, DataError("broken"), "count")
    assert list(Study(run).entries()) == ["count"]  # the second did not add it


def test_nothing_is_removed_under_what_another_command_has_added_since(tmp_path):
    def another_comes_and_goes():
        begin(tmp_path, "other")
        raise DataError("broken")

    with pytest.raises(DataError):
        begin(tmp_path, "count", then=another_comes_and_goes)
    assert list(Study(tmp_path).entries()) == ["count", "other"]


def test_who_comes_while_a_directory_is_given_up_makes_it_anew(tmp_path, monkeypatch):
    run = tmp_path / "run"
    opened = Path.open

    def given_up(path, *arguments, **keywords):
        file = opened(path, *arguments, **keywords)
        if path.name == ".in-use" and not gone:  # between opening and locking
            gone.append(path)
            path.unlink()
            run.rmdir()
        return file

    gone: list[Path] = []
    found: list[str] = []
    monkeypatch.setattr(Path, "open", given_up)
    begin(run, then=lambda: found.extend(os.listdir(run)))
    assert sorted(found) == [".in-use", "plan"]
    assert gone


def test_a_place_where_no_directory_can_be_is_an_error(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(ArgumentError, match="is not a directory"):
        begin(tmp_path / "file" / "run")
    vanished = tmp_path / "vanished"
    vanished.mkdir()
    monkeypatch.chdir(vanished)
    vanished.rmdir()
    with pytest.raises(DataError, match="cannot be made"):
        begin(Path("run"))
