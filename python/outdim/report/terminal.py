"""The findings of a run for a terminal: the same numbers as the page."""

from pathlib import Path

from outdim.report.findings import LayerTable, findings, layer_table, layers_in_words
from outdim.report.run_files import read_run
from outdim.report.text import number


def summary(run_dir: str | Path) -> str:
    """Say in a few lines what a run found: outliers, strongest dimensions per layer, speed, report.

    Raises:
        DataError: run_dir is not a run directory, or a part of it cannot be read.

    Example:
        >>> print(summary("runs/bert"))  # doctest: +SKIP
    """
    run = read_run(run_dir)
    lines = [f"- {sentence}" for sentence in findings(run)]
    if table := layer_table(run):
        lines += ["", *_table(table), layers_in_words(run)]
    rate = run.manifest.get("tokens_per_second")
    lines.append("")
    if rate:
        lines.append(f"speed   {number(round(rate))} tokens/s")
    report = run.path / "report.html"
    lines.append(f"report  {report if report.exists() else 'not written yet: outdim report'}")
    return "\n".join(lines)


def _table(table: LayerTable) -> list[str]:
    head = ["layer", "1st dim (r)", "2nd dim (r)", "3rd dim (r)", "median |r|"]
    rows = [
        [
            row.name,
            *(f"{dim} ({number(r, 2)})" for dim, r in row.top),
            *["n/a"] * (3 - len(row.top)),
            number(row.median, 2),
        ]
        for row in table.rows
    ]
    widths = [max(len(line[column]) for line in [head, *rows]) for column in range(len(head))]
    return [
        f"Largest |r| of {table.measure}:",
        *(
            "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True))
            for line in [head, *rows]
        ),
    ]
