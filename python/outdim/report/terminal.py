"""What a run found, for a terminal: the same sentences and numbers as the page."""

import os
import textwrap
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TextIO

from outdim.report.cautions import cautions, folded, of_study
from outdim.report.columns import in_columns
from outdim.report.page import layers_in_words, sections
from outdim.report.section import Section
from outdim.report.study import Study, read_study
from outdim.text import counted, number, visible

_WIDTH = 120  # of tables in a file
_LEAST = 40  # the narrowest terminal that is heeded


def terminal_width(stream: TextIO) -> int | None:
    """Characters in a line of the terminal that a stream writes to; None where it is another."""
    return os.get_terminal_size(stream.fileno()).columns or None if stream.isatty() else None


def summary(
    run_dir: str | Path,
    width: int | None = None,
    *,
    steps: Sequence[str] | None = None,
    briefly: Collection[str] = (),
) -> str:
    """Say in a few lines what a run found: headlines, tables by layer, cautions, speed, report.

    Of several steps it says the most telling sentence each, and how much more is in the report.

    Args:
        run_dir: Run directory.
        width: Characters in a line, within which sentences and tables are. None is for a file:
            sentences are a line each, tables within 120 characters.
        steps: Those of which it is said; None says all. The others of the study are named.
        briefly: Of these others those of which the first sentence is said.

    Raises:
        DataError: run_dir is no run directory, or a file of it is damaged or was altered.

    Example:
        >>> print(summary("runs/bert"))  # doctest: +SKIP
    """
    study = read_study(run_dir)
    width = None if width is None else max(width, _LEAST)
    told = [step for step in study.steps if steps is None or step in steps]
    lines, shown = [], sections(study, told)
    for section in shown:
        said = _lead(study, section) if len(shown) > 1 else _all(study, section)
        lines += [_wrapped(f"- {sentence}", width) for sentence in said]
    for table in (table for section in shown for table in section.tables if table.brief):
        caption = f"{table.caption} With a star: {table.marks}." if table.marks else table.caption
        lines += ["", _wrapped(caption, width), *in_columns(table, width or _WIDTH)]
    if (steps is None or study.statistics.keys() & told) and (note := layers_in_words(study)):
        lines += ["", _wrapped(note, width)]
    beware = of_study(study) if len(shown) > 1 else cautions(study, told)
    if beware:
        lines += ["", "Beware:", *(_wrapped(f"- {sentence}", width) for sentence in beware)]
    if len(shown) > 1 and (more := _in_the_report(study, shown)):
        lines += ["", _wrapped(more, width)]
    if others := [step for step in study.steps if step not in told]:
        lines += ["", *(_wrapped(line, width) for line in _of_others(study, others, briefly))]
    return "\n".join([*lines, "", *_where(study)])


def _all(study: Study, section: Section) -> list[str]:
    return [*study.sentences("headlines", section.step), *section.sentences]


def _lead(study: Study, section: Section) -> list[str]:
    """The most telling sentence of a step, with what takes it back."""
    lead = study.lead(section.step)
    doubts = "".join(f" But: {doubt}" for doubt in study.sentences("doubts", section.step))
    return [f"{lead}{doubts}"] if lead else []


def _in_the_report(study: Study, shown: Sequence[Section]) -> str:
    """How much more the report says of these steps."""
    sentences = sum(len(_all(study, one)) - len(_lead(study, one)) for one in shown)
    warned = sum(len(folded(study, one.step)) for one in shown)
    parts = [(sentences, "more sentence"), (warned, "more caution")]
    said = " and ".join(counted(count, noun) for count, noun in parts if count)
    return f"The report has {said}." if said else ""


def _of_others(study: Study, others: Sequence[str], briefly: Collection[str]) -> list[str]:
    """A line each of those that were computed on the way, and one that names the rest."""
    said = [
        f"On the way, {step}: {study.lead(step)}"
        for step in others
        if step in briefly and study.lead(step)
    ]
    rest = [step for step in others if step not in briefly]
    return [*said, *([f"Also in this study: {', '.join(rest)}; see the report."] if rest else [])]


def _where(study: Study) -> list[str]:
    """How fast it was, and where the rest is to be read."""
    lines = []
    if rate := study.manifest.get("tokens_per_second"):
        lines.append(f"speed   {number(round(rate))} tokens/s")
    if tables := [name for name in study.manifest["results"] if name.endswith(".parquet")]:
        lines.append(f"tables  {visible(str(study.path))}: {', '.join(sorted(tables))}")
    report = study.path / "report.html"
    shown = visible(str(report)) if report.exists() else "not written yet: outdim report"
    return [*lines, f"report  {shown}"]


def _wrapped(line: str, width: int | None) -> str:
    said = visible(line)
    if width is None:
        return said
    indent = "  " if line.startswith("- ") else ""
    return textwrap.fill(
        said, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
