"""What `attention` found, in sentences."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from outdim.analysis.results.attention_side import QUERIES, AttentionSide
from outdim.analysis.step import Json
from outdim.analysis.table import selection_label
from outdim.stats.head_sums import EPSILON
from outdim.text import counted, number, with_interval

if TYPE_CHECKING:
    from outdim.analysis.results.attention import AttentionFound


def headline(found: AttentionFound) -> list[str]:
    """How many heads are vertical and on what, the strongest r, and what is left ablated."""
    heads = found.heads_table.to_pylist()
    counts = Counter(looked_at(row)[0] for row in heads if row["is_vertical"])
    on = ", ".join(f"{n} {where}" for where, n in counts.most_common(4))
    said = [
        f"{_verticals(found.intact)} of {len(heads)} heads are vertical: one key of a sequence "
        f"receives more than {EPSILON} of the attention in more than half of the sequences"
        f"{f' ({on})' if on else ''}{_surely(found.intact)}."
    ]
    for selection in QUERIES:
        if best := _strongest(found, selection):
            said.append(_goes_with(found, best))
    if found.ablated is not None:
        fall = int((found.fall(found.intact.vertical)[1] > 0).sum())
        said.append(
            f"With {found.ablation}, {_verticals(found.ablated)} of {len(heads)} heads are "
            f"vertical{_surely(found.ablated)}; by its interval the share of sequences falls in "
            f"{counted(fall, 'head')}. {_beside_controls(found)}"
        )
    return said


def _beside_controls(found: AttentionFound) -> str:
    if found.control is None:
        return "What random dimensions would do was not measured."
    each = sorted(_verticals(side) for side in found.controls)
    heads = number(each[0]) if each[0] == each[-1] else f"{each[0]:,} to {each[-1]:,}"
    further = int((found.fall(found.control)[1] > 0).sum())
    return (
        f"With {found.others} off instead, {heads} {'is' if heads == '1' else 'are'}; by its "
        f"interval the share falls further than with these in {counted(further, 'head')}."
    )


def _goes_with(found: AttentionFound, best: Json) -> str:
    text = best["selection"] == "text"
    tokens = selection_label("text" if text else found.all_tokens)
    kind = "special" if found.all_tokens == "all" else "first"
    apart = "" if text else f", which mostly tells {kind} tokens from the rest"
    count = len(found.dims)
    which = f", of the {count} dimensions followed, {best['dim']}" if count > 1 else (
        f" dimension {best['dim']}"
    )  # fmt: skip
    return (
        f"Over {best['n']:,} tokens ({tokens}){which} goes with attention most at layer "
        f"{best['layer']}, head {best['head']}, the best of {sum(found.intact.heads.values())}: r "
        "of |h|, of the state that the layer reads, with "
        f"attention received is {_words(best, 'r')}{apart}"
        f"{_beside(best['median_abs_r'])}."
    )


def _strongest(found: AttentionFound, selection: str) -> Json | None:
    rows = [
        row
        for row in found.r_table.to_pylist()
        if row["pairing"] == "read" and row["selection"] == selection and np.isfinite(row["r"])
    ]
    return max(rows, key=lambda row: abs(row["r"]), default=None)


def looked_at(row: Json) -> tuple[str, float]:
    """Where the key is on which a head is vertical, and how often of these.

    The first position, where that says more than the token that stands there most often.

    Example:
        >>> looked_at({"token": "The", "token_share": 0.4, "first_share": 0.9})
        ('at the first position', 0.9)
        >>> looked_at({"token": "[CLS]", "token_share": 1.0, "first_share": 1.0})
        ('on [CLS]', 1.0)
    """
    if row["first_share"] > row["token_share"]:
        return "at the first position", row["first_share"]
    return f"on {row['token']}", row["token_share"]


def _verticals(side: AttentionSide) -> int:
    return int(side.is_vertical.sum())


def _surely(side: AttentionSide) -> str:
    """How many heads are by their intervals; "" where no head is, or there is no interval."""
    if not side.is_vertical.any() or not np.isfinite(side.vertical_interval[0]).any():
        return ""
    return f", {int(side.surely_vertical.sum())} of them surely"


def _beside(median: float) -> str:
    """What is usual there; nothing where all dimensions were chosen, and there are no others."""
    known = np.isfinite(median)
    return f"; the median |r| of random others is {number(median, 2)} there" if known else ""


def _words(row: Json, name: str) -> str:
    return with_interval(row[name], row[f"{name}_low"], row[f"{name}_high"], 2)
