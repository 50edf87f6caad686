"""What a run found, for a terminal: the same sentences and numbers as the page."""

from pathlib import Path

from outdim.report.cautions import cautions
from outdim.report.page import layers_in_words, sections
from outdim.report.section import Table
from outdim.report.study import read_study
from outdim.text import number, visible


def summary(run_dir: str | Path) -> str:
    """Say in a few lines what a run found: headlines, tables by layer, cautions, speed, report.

    Raises:
        DataError: run_dir is no run directory, or a file of it is damaged or was altered.

    Example:
        >>> print(summary("runs/bert"))  # doctest: +SKIP
    """
    study = read_study(run_dir)
    lines, shown = [], sections(study)
    for section in shown:
        said = [*study.sentences("headlines", section.step), *section.sentences]
        lines += [f"- {sentence}" for sentence in said]
    for section in shown:
        for table in section.tables:
            lines += ["", *_plain(table)] if table.brief else []
    if note := layers_in_words(study):
        lines += ["", note]
    if beware := cautions(study):
        lines += ["", "Beware:", *(f"- {sentence}" for sentence in beware)]
    lines.append("")
    if rate := study.manifest.get("tokens_per_second"):
        lines.append(f"speed   {number(round(rate))} tokens/s")
    report = study.path / "report.html"
    lines.append(f"report  {report if report.exists() else 'not written yet: outdim report'}")
    return visible("\n".join(lines), keep="\n")


def _plain(table: Table) -> list[str]:
    """The table in columns of text."""
    head = list(table.columns)
    star = "*" if table.marks else ""
    rows = [[cell.text + (star if cell.marked else "") for cell in row] for row in table.cells()]
    widths = [max(len(line[column]) for line in [head, *rows]) for column in range(len(head))]
    return [
        f"{table.caption} With a star: {table.marks}." if table.marks else table.caption,
        *(
            "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True))
            for line in [head, *rows]
        ),
    ]
