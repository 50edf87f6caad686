"""Formats of text: a module each, with the functions of `Format`, loaded when it is needed.

To add one, write its module and enter the endings of its files below.
"""

from __future__ import annotations

import glob
import importlib
import os
import re
from collections.abc import Iterable, Iterator
from typing import Any, Protocol, cast

from outdim.corpus.packed import without_packing
from outdim.corpus.reading import Problems, ReadOptions
from outdim.corpus.texts import Texts
from outdim.corpus.unit import Span, Unit

_BY_ENDING = {
    "txt": "txt",
    "text": "txt",
    "jsonl": "jsonl",
    "ndjson": "jsonl",
    "json": "jsonl",
    "parquet": "parquet",
    "arrow": "arrow",
    "csv": "csv",
    "tsv": "csv",
}
_BY_NAME = {"python-docs": "python_docs"}
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
EXPECTED = "expected .txt, .jsonl, .parquet, .arrow or .csv, each also with .gz or .zst"


class Format(Protocol):
    """How documents of one kind are found and read."""

    def units(self, path: str, options: ReadOptions, problems: Problems) -> Iterable[Span]:
        """Cut what is at ``path`` into units; none where there is nothing that can be read."""

    def read(self, unit: Unit, options: ReadOptions, problems: Problems) -> Iterator[Texts]:
        """The documents of a unit in blocks of some megabytes, the same whenever it is called.

        Rows that are null or cannot be read are entered in ``problems`` or its account.
        """


class Source(Format, Protocol):
    """A format whose documents do not lie in files that the user names."""

    def resolve(self, source: str) -> str:
        """What ``path`` of the units will be: it must name one version of the text."""

    def describe(self, path: str) -> dict[str, Any]:
        """As `outdim.corpus.files.describe`, None where something is not known."""


def of_file(path: str) -> str:
    """Name of the format of a file by its ending (also behind .gz or .zst); "" where there is none.

    Example:
        >>> of_file("a/b.jsonl.gz")
        'jsonl'
    """
    return _BY_ENDING.get(os.path.splitext(without_packing(path))[1][1:].lower(), "")


def of_source(source: str) -> str:
    """Name of the format of a source that is no file; "" where it can only be files."""
    if source in _BY_NAME:
        return _BY_NAME[source]
    is_local = os.path.lexists(source) or of_file(source) or glob.has_magic(source)
    return "" if is_local or not _HUB_ID.fullmatch(source) else "hub_dataset"


def load(name: str) -> Format:
    """The module of a format."""
    return cast(Format, importlib.import_module(f"{__name__}.{name}"))


def load_source(name: str) -> Source:
    """The module of a format that is a source."""
    return cast(Source, load(name))
