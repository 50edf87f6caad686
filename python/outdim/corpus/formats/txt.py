"""Text: one document a line. Units are ranges of bytes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from outdim.corpus.lines import Lines, is_utf8, line_units, read_lines
from outdim.corpus.reading import Problems, ReadOptions
from outdim.corpus.texts import Texts
from outdim.corpus.unit import Span, Unit


def units(path: str, options: ReadOptions, problems: Problems) -> list[Span]:
    """Ranges of bytes, or the whole of a packed file."""
    return line_units(path, options)


def read(unit: Unit, options: ReadOptions, problems: Problems) -> Iterator[Texts]:
    """A document a line; lines that are not UTF-8 are problems."""
    for lines in read_lines(unit, problems):
        yield lines.texts if is_utf8(lines.texts.data) else _valid(lines, problems)


def _valid(lines: Lines, problems: Problems) -> Texts:
    texts = lines.texts
    valid = np.ones(len(texts), bool)
    for i in range(len(texts)):
        valid[i] = is_utf8(texts.data[texts.starts[i] : texts.ends[i]])
        if not valid[i]:
            lines.problem(problems, i, "invalid UTF-8", "the line is not UTF-8 text")
    return texts.take(valid)
