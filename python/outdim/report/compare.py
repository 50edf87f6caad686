"""The page that compares two token counts."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from outdim.report.figures.comparison import comparison_figures
from outdim.report.page import write_page
from outdim.report.text import short_path, token_text
from outdim.text import number

if TYPE_CHECKING:
    from outdim.tokens import Comparison

_LARGEST = 30


def write_comparison(
    comparison: "Comparison", output: str | Path, names: tuple[str, str] = ("first", "second")
) -> Path:
    """Write the page that compares two token counts, with its figures as SVG and CSV beside it.

    Args:
        comparison: What `outdim.tokens.compare` returns.
        output: An existing directory; report.html and the folder figures are written into it.
        names: How the page calls the two; of paths the last two parts, where these differ.

    Returns:
        The path of the HTML file.

    Example:
        >>> write_comparison(compare(wiki, books), "runs/wiki-books")  # doctest: +SKIP
        PosixPath('runs/wiki-books/report.html')
    """
    short = short_path(names[0]), short_path(names[1])
    origin = ""
    if short[0] != short[1] and short != names:
        origin, names = f" · {names[0]} and {names[1]}", short
    return write_page(
        Path(output) / "report.html",
        "comparison.html.j2",
        comparison_figures(comparison, names),
        kind="Two token counts compared",
        title=f"{names[0]} and {names[1]}",
        subtitle=f"{len(comparison.first):,} token ids{origin}",
        date="",
        contents=[
            ("findings", "What was found"),
            ("differences", "Largest differences"),
            ("figures", "Figures"),
            ("definitions", "Definitions"),
        ],
        names=names,
        findings=comparison_in_words(comparison, names),
        differences=[_row(*row) for row in comparison.largest(_LARGEST)],
    )


def comparison_in_words(comparison: "Comparison", names: tuple[str, str]) -> list[str]:
    """What two token counts have in common, in sentences."""
    text = comparison.text
    first, second = comparison.first.counts[text], comparison.second.counts[text]
    r = number(comparison.correlation)
    neither = int(((first == 0) & (second == 0)).sum())
    return [
        f"log(1 + count) in the one correlates with that in the other with r = {r} over all "
        f"{int(text.sum()):,} token ids that stand for text, of which {neither:,} occur in "
        "neither.",
        f"{names[0]} holds {int(first.sum()):,} text tokens, {names[1]} {int(second.sum()):,}.",
        f"{int(((first > 0) & (second > 0)).sum()):,} token ids occur in both, "
        f"{int(((first > 0) & (second == 0)).sum()):,} only in {names[0]}, "
        f"{int(((first == 0) & (second > 0)).sum()):,} only in {names[1]}.",
    ]


def _row(id_: int, token: str, first: int, second: int, ratio: float) -> dict[str, Any]:
    return {
        "id": id_,
        "token": token_text(token),
        "first": number(first),
        "second": number(second),
        "ratio": number(ratio, 2),
    }
