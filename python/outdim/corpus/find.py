"""Which files are meant by paths, globs and directories."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence

from outdim.corpus import formats
from outdim.errors import DataError


def find_files(sources: Sequence[str]) -> list[str]:
    """All files meant by the sources, each once.

    Raises:
        DataError: A source is no file, or not of a known format.
    """
    found: dict[str, None] = {}
    for source in sources:
        text = os.path.expanduser(source)
        if os.path.isdir(text):
            inside = (
                os.path.join(folder, file) for folder, _, files in os.walk(text) for file in files
            )
            matches = sorted(path for path in inside if formats.of_file(path))
        elif os.path.exists(text):
            matches = [text]
        else:
            matches = sorted(
                path for path in glob.glob(text, recursive=True) if os.path.isfile(path)
            )
        if not matches:
            raise DataError(f"source: {text}: no such file")
        for path in matches:
            if formats.of_file(path) is None:
                raise DataError(f"source: {path}: {formats.EXPECTED}")
        found.update(dict.fromkeys(matches))
    return list(found)
