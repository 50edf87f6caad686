"""A run directory: taken, shared by the processes at work in it, and given up again."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from outdim import manifest
from outdim.errors import ArgumentError, DataError, EmptyCorpusError, OutdimError, ResumeError
from outdim.run.plan import PLAN, Study
from outdim.run.sources import FILES
from outdim.run.store import STATES, StateStore

ATTACHED = "inputs"  # copies of files that steps were given
RESULTS_LOCK = ".lock"
MODEL = "model"  # one that was fine-tuned for the run
_IN_USE = ".in-use"
_TRIES = 100  # to make a directory that others give up; only a vanished one above it takes more
_WITHOUT_PLAN = {STATES, ATTACHED, FILES, RESULTS_LOCK, MODEL, _IN_USE}


def check_directory(path: Path) -> None:
    """Accept a path that is new, empty, a study, or what little was made of one.

    Nothing is created.

    Raises:
        ArgumentError: ``path`` holds something that is not a run of outdim.
    """
    if path.exists() and not path.is_dir():
        raise ArgumentError(
            f"output: {path} is a file; name a directory that is new, empty or a run."
        )
    names = {inside.name for inside in path.iterdir()} if path.exists() else set()
    if PLAN in names:
        return
    others = {name for name in names if not (name.startswith(".") and name.endswith(".tmp"))}
    if others <= _WITHOUT_PLAN:
        return
    raise ArgumentError(
        f"output: the directory {path} is not empty and is not a run of outdim. Name a new "
        "directory; nothing was written."
    )


@contextmanager
def taken(path: Path, study: Study, *, alone: bool) -> Iterator[None]:
    """The run directory, made if it is not there, while the block is at work in it.

    When the block ends with an error, what this process made for nothing is removed again: its
    record of the plan, and the directory if it made that. Not after a refusal, not where the
    process is one of several that share the work, and not where any other process is at work or a
    shard is committed. An error of the clean-up never hides the first one.

    Args:
        path: The run directory.
        study: Its plan, to which the block may add.
        alone: No other process was started for the same work.
    """
    made, presence = _enter(path)
    had_manifest = (path / manifest.NAME).exists()
    try:
        yield
    except (ArgumentError, DataError) as error:
        if alone:
            with suppress(OSError, OutdimError):
                fcntl.flock(presence, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _withdraw(study, empty=isinstance(error, EmptyCorpusError))
                _clear(path, had_manifest=had_manifest)
                for directory in reversed(made):
                    directory.rmdir()
        raise
    finally:
        presence.close()  # and with it the lock


def _enter(path: Path) -> tuple[list[Path], IO[bytes]]:
    """Make the directory and say in it that this process is at work; which directories are new."""
    made: list[Path] = []
    for _ in range(_TRIES):
        made += _make(path)
        with suppress(FileNotFoundError):  # another process gave the directory up meanwhile
            presence = (path / _IN_USE).open("ab")
            with suppress(OSError):  # of a file system without locks
                fcntl.flock(presence, fcntl.LOCK_SH)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(presence.fileno()), (path / _IN_USE).stat()):
                    return made, presence
            presence.close()
    raise DataError(f"output: {path} cannot be made, or is removed again and again.")


def _make(path: Path) -> list[Path]:
    """Make a directory and those around it; which of them this process made."""
    made = []
    for directory in (*reversed(path.parents), path):
        try:
            directory.mkdir()
        except FileExistsError:
            if not directory.is_dir():
                raise ArgumentError(f"output: {directory} is not a directory.") from None
        except FileNotFoundError:  # the one above it was removed meanwhile
            break
        else:
            made.append(directory)
    return made


def _withdraw(study: Study, *, empty: bool) -> None:
    """Remove what this process added to the plan; an error, and all stays, if it is of use.

    The directory is locked until all is done: who comes meanwhile waits, and then begins anew.
    """
    record = study.added
    if record is None:
        return
    if record.path != study.last():
        raise ResumeError(f"{study.run}: another command has added to the plan since.")
    for entry in record.entries:
        store = StateStore(study.run, entry)
        for state in store.files() if empty else ():  # of text in which there is no token
            state.unlink(missing_ok=True)
        if store.directory.exists():
            store.directory.rmdir()  # an OSError where a shard is committed
    record.path.unlink()
    study.added = None
    attached = {name for entry in record.entries for name in entry.inputs["attached"]}
    for entry in Study(study.run).entries().values():
        attached -= set(entry.inputs["attached"])
    for name in attached:
        (study.run / ATTACHED / name).unlink(missing_ok=True)


def _clear(run: Path, *, had_manifest: bool) -> None:
    """Remove what lies around a plan, where there is none any more."""
    for folder in (STATES, ATTACHED, PLAN):
        with suppress(OSError):
            (run / folder).rmdir()
    if not (run / PLAN).exists():
        for name in (FILES, RESULTS_LOCK, *(() if had_manifest else (manifest.NAME,)), _IN_USE):
            (run / name).unlink(missing_ok=True)
