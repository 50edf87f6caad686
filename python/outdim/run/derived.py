"""Directories with what is made of the results of runs, without a plan of their own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from outdim import manifest
from outdim.errors import ArgumentError, DataError, ResumeError
from outdim.run.plan import differences


@contextmanager
def derived(
    output: Path, command: str, options: Mapping[str, Any], inputs: Mapping[str, Any]
) -> Iterator[dict[str, str]]:
    """A directory for what ``command`` makes of ``inputs``: new, empty, or made of the same.

    The block puts the hashes of the files that it wrote into the mapping it gets.

    Raises:
        ArgumentError: There is something else in the directory.
        ResumeError: It holds what was made of other inputs.
    """
    there = output.exists() and any(output.iterdir())
    if there and not (output / manifest.NAME).is_file():
        raise ArgumentError(
            f"output: the directory {output} is not empty and is not one of `outdim {command}`. "
            "Name a new directory; nothing was written."
        )
    if there:
        written = manifest.read(output)
        old = {"command": written.get("command"), "inputs": written.get("inputs")}
        if found := differences(old, {"command": command, "inputs": dict(inputs)}):
            raise ResumeError(
                f"{output} holds something else, which would be overwritten: {'; '.join(found)}. "
                "Name a new directory; nothing was written."
            )
    output.mkdir(parents=True, exist_ok=True)
    manifest.begin(output, command)
    manifest.update(output, {"options": {command: dict(options)}, "inputs": dict(inputs)})
    hashes: dict[str, str] = {}
    yield hashes
    manifest.update(output, {"finished": manifest.now(), "results": hashes})


def given_counts(given: Path) -> Path:
    """``counts.parquet`` of a run, its checksum checked, or the file itself.

    Raises:
        DataError: There is none.
    """
    if given.is_dir():
        return manifest.result_path(given, "counts.parquet")
    if not given.is_file():
        raise DataError(f"counts: there is no {given}; write one with `outdim count`.")
    return given
