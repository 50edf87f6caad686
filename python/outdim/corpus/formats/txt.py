"""Text: one document a line. Units are ranges of bytes, or the whole of a packed file."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
from numpy.typing import NDArray

from outdim.corpus.lines import Lines, is_utf8, line_units, read_lines
from outdim.corpus.reading import Problems, ReadOptions
from outdim.corpus.texts import Texts
from outdim.corpus.unit import Span, Unit


def units(path: str, options: ReadOptions, problems: Problems) -> list[Span]:
    """Ranges of bytes; nothing is read for it."""
    return line_units(path, options.unit_bytes)


def read(unit: Unit, options: ReadOptions, problems: Problems) -> Iterator[Texts]:
    """A document a line; those that are not UTF-8 or too long are problems."""
    for lines in read_lines(unit, problems):
        texts = lines.texts
        if is_utf8(texts.data) and not (texts.lengths() > problems.longest).any():
            yield texts
        else:
            yield texts.take(_valid(lines, problems))


def _valid(lines: Lines, problems: Problems) -> NDArray[np.bool_]:
    valid = lines.texts.lengths() <= problems.longest
    for i, line in enumerate(lines.texts.views()):
        if not valid[i]:
            problems.too_long(partial(lines.place, i, problems))
            continue
        try:
            str(line, "utf-8")
        except UnicodeDecodeError:
            place = partial(lines.place, i, problems)
            problems.row("invalid UTF-8", place, "the line is not UTF-8 text")
            valid[i] = False
    return valid
