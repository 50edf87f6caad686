"""Whether dimensions were ranked on the very text on which they are measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from outdim import manifest
from outdim.errors import DataError
from outdim.text import counted


def ranked_on(ranking: str | None, words: Sequence[str], texts: Sequence[str]) -> str:
    """What a reader has to know of the texts that ranked dimensions, "" where there is nothing.

    The first of many noisy measurements look worse than they are, and on the same text they look so
    again. Texts are told by their content, wherever they lie; one within another is not found.

    Args:
        ranking: The run that ranks, see `outdim.analysis.sweeps.ranking.Ranking`.
        words: That name dimensions; without ``worst:8`` or ``least:8`` nothing was ranked.
        texts: Hashes of the files, or the items of a task, that are read.
    """
    if ranking is None or not any(":" in word for word in words):
        return ""
    try:
        about = manifest.read(Path(ranking).expanduser())
    except DataError:
        return f"Whether {ranking} ranked the dimensions on the same text is not known."
    known = {file["sha256"] for file in about.get("data", {}).get("files", ())}
    known |= {one["items"]["sha256"] for one in about.get("options", {}).values() if "items" in one}
    same = sum(text in known for text in texts)
    if not same:
        return ""
    return (
        f"{ranking} ranked the dimensions on {same} of the {counted(len(texts), 'text')} read "
        "here: they had a part in that choice, and what comes first of many on a text looks more "
        "extreme on it than it is. Rank on another text."
    )
