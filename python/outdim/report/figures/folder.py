"""The folder of figures: those of earlier reports that a new one has no more are removed.

What is in it is listed in ``.figures.json`` before it is written, so that nothing of others is ever
removed, and nothing of ours is forgotten where a report is broken off.
"""

from collections.abc import Mapping
from pathlib import Path

from outdim.errors import DataError
from outdim.files import read_json, write_json

NAME = ".figures.json"
_ENDINGS = (".svg", ".csv")


def note(folder: Path, page: str, ids: set[str]) -> None:
    """List figures that are about to be written for a page, beside those that are there."""
    there = _listed(folder)
    if not ids <= there.get(page, set()):
        _write(folder, {**there, page: ids | there.get(page, set())})


def keep_only(folder: Path, page: str, ids: set[str]) -> None:
    """Remove those figures of a page that are not among ``ids``, nor of another page."""
    there = _listed(folder)
    stale = there.get(page, set()) - ids
    for id_ in stale.difference(*(others for name, others in there.items() if name != page)):
        for ending in _ENDINGS:
            (folder / f"{id_}{ending}").unlink(missing_ok=True)
    if stale:
        _write(folder, {**there, page: ids})


def _write(folder: Path, listed: Mapping[str, set[str]]) -> None:
    write_json(folder / NAME, {"pages": {page: sorted(ids) for page, ids in listed.items()}})


def _listed(folder: Path) -> dict[str, set[str]]:
    """The figures of each page; none where the list is not sound."""
    try:
        pages = read_json(folder / NAME)["pages"]
    except (FileNotFoundError, DataError, KeyError):
        return {}
    return {page: {id_ for id_ in ids if Path(id_).name == id_} for page, ids in pages.items()}
