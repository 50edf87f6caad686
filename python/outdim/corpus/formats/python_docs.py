"""The English documentation inside Python: help topics and the standard library's docstrings.

Units are ranges of documents.
"""

from __future__ import annotations

import ast
import gc
import hashlib
import importlib
import sysconfig
import warnings
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from outdim.corpus.files import STAMP_KEYS
from outdim.corpus.reading import Problems, ReadOptions
from outdim.corpus.texts import Texts
from outdim.corpus.unit import Span, Unit, ranges

_LEFT_OUT = {
    "site-packages",
    "dist-packages",
    "test",
    "tests",
    "idlelib",
    "lib2to3",
    "turtledemo",
    "pydoc_data",
}
_DOCUMENTED = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def resolve(source: str) -> str:
    """The name itself: there is one version, that of the running Python."""
    return source


def describe(path: str) -> dict[str, Any]:
    """Size and hash of all documents."""
    data = "\n".join(python_documents()).encode()
    found = {"path": path, "size_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    return dict.fromkeys(STAMP_KEYS) | found


def units(path: str, options: ReadOptions, problems: Problems) -> list[Span]:
    """Ranges of documents."""
    return ranges([len(text.encode()) for text in python_documents()], options.unit_bytes)


def read(unit: Unit, options: ReadOptions, problems: Problems) -> Iterator[Texts]:
    """Documents by their number."""
    yield Texts.of(python_documents()[unit.start : unit.stop])


@lru_cache(maxsize=1)
def python_documents() -> tuple[str, ...]:
    """Help topics by name, then docstrings by file and position; nothing is imported for it.

    About 2.1 million characters for Python 3.11; which documents there are depends on the Python
    version.
    """
    topics = importlib.import_module("pydoc_data.topics").topics
    found = [topics[name] for name in sorted(topics)]
    root = Path(sysconfig.get_path("stdlib"))
    files = {path.relative_to(root).as_posix(): path for path in root.rglob("*.py")}
    collecting = gc.isenabled()
    gc.disable()  # syntax trees are many small objects: 40 % of the time would be collecting
    try:
        for name in sorted(files):
            if _LEFT_OUT.isdisjoint(name.split("/")):
                found.extend(_docstrings(files[name].read_bytes()))
    finally:
        if collecting:
            gc.enable()
    return tuple(text for text in found if text.strip())


def _docstrings(source: bytes) -> list[str]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of invalid escapes in sources that are not ours
            tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return []
    return [text for node in _documented(tree) if (text := ast.get_docstring(node))]


def _documented(
    node: ast.stmt | ast.Module,
) -> Iterator[ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]:
    """Modules, classes and functions in source order; expressions are not descended into."""
    if isinstance(node, (ast.Module, *_DOCUMENTED)):
        yield node
    for part in ("body", "handlers", "orelse", "finalbody"):
        for child in getattr(node, part, ()):
            yield from _documented(child)
