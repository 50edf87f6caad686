"""Which files are meant by paths, globs and folders."""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Iterator, Sequence

from outdim.corpus import formats
from outdim.corpus.files import Stamp, UnreadableError, open_file, printable
from outdim.corpus.reading import Problems
from outdim.errors import DataError

# What `datasets` writes beside the data: of a dataset saved to disk, and of one on the hub.
_STATE = "state.json"
_METADATA = {_STATE, "dataset_info.json", "dataset_infos.json", "dataset_dict.json"}


def find_files(sources: Sequence[str], problems: Problems) -> dict[str, Stamp]:
    """All files meant by the sources in order, each once however many paths and links lead to it.

    Raises:
        DataError: A source is no file, or not of a known format.
    """
    found: dict[str, Stamp] = {}
    known: set[tuple[int, int]] = set()
    for source in sources:
        for path in _meant_by(os.path.expanduser(source), problems):
            try:
                stamp = Stamp.of(path)
                open_file(path).close()
            except UnreadableError as error:
                problems.file("unreadable file", path, error.why)
                continue
            if stamp.identity not in known:
                known.add(stamp.identity)
                found[path] = stamp
    return found


def _meant_by(source: str, problems: Problems) -> list[str]:
    """Paths in sorted order."""
    literal = os.path.lexists(source)
    matches = [source] if literal else glob.glob(source, recursive=True)
    if not matches:
        raise DataError(f"source: {printable(source)}: no such file")
    found: set[str] = set()
    for path in matches:
        if os.path.isdir(path):
            found.update(_inside(path, problems))
        elif literal or os.path.basename(path) not in _METADATA:
            if not formats.of_file(path):
                raise DataError(f"source: {printable(path)}: {formats.EXPECTED}")
            found.add(path)
    if not found:
        raise DataError(f"source: {printable(source)}: no text in here: {formats.EXPECTED}")
    return sorted(found)


def _inside(top: str, problems: Problems) -> Iterator[str]:
    """The text in a folder and those below and linked from it, each real folder once.

    Hidden files and folders (checkpoints of editors, what macOS writes beside a file) and the
    metadata of saved datasets are no text.
    """
    entered: set[tuple[int, int]] = set()
    for folder, below, names in os.walk(
        top,
        followlinks=True,
        onerror=lambda error: problems.file(
            "unreadable folder", error.filename, str(error.strerror)
        ),
    ):
        about = os.stat(folder)
        if (about.st_dev, about.st_ino) in entered:
            below.clear()
            continue
        entered.add((about.st_dev, about.st_ino))
        below[:] = sorted(name for name in below if not name.startswith("."))
        for name in _data_files(folder, names, problems):
            path = os.path.join(folder, name)
            # What a dangling link without a known ending leads to may have been a folder of text.
            if not name.startswith(".") and (formats.of_file(path) or not os.path.exists(path)):
                yield path


def _data_files(folder: str, names: Sequence[str], problems: Problems) -> Sequence[str]:
    """All but metadata; where `Dataset.save_to_disk` wrote, what its state lists (no caches)."""
    found = [name for name in names if name not in _METADATA]
    if _STATE not in names or "dataset_info.json" not in names:
        return found
    path = os.path.join(folder, _STATE)
    with open(path, "rb") as file:
        try:
            state = json.load(file)
            listed = [entry["filename"] for entry in state["_data_files"]]
        except (ValueError, KeyError, TypeError):
            return found  # not what `datasets` writes
    if state.get("_indices_data_files"):
        problems.file(
            "unreadable folder",
            folder,
            "a saved dataset that is a selection of its rows; save it anew with this version of "
            "datasets",
        )
        return []
    return listed
