"""Lives of dimensions in sentences."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from outdim.analysis.places import FIRST
from outdim.analysis.results.life import STANDS_OUT, Life, Rise
from outdim.text import counted, listing, number, percent

_TOLD, _MOST_RISES = 3, 3
_GROWN = 1.5  # times as large as behind the layer that writes it: the rise goes on
#: What branches of a block are called.
BRANCHES = {"attention": "the attention", "mlp": "the feed-forward part", "norms": "the norms"}


def in_words(lives: Sequence[Life]) -> list[str]:
    """The lives of those that stand out most, in a sentence or two each."""
    born = sorted(
        (life for life in lives if life.rises),
        key=lambda life: -np.nan_to_num(life.times, nan=-1),
    )
    if not born:
        return [
            f"Of {counted(len(lives), 'dimension')} that were followed none stands out in any "
            f"layer: the largest value of a sequence is nowhere {STANDS_OUT:g} times that of the "
            "median dimension."
        ]
    said = [_life(life) for life in born[:_TOLD]]
    said[0] += " Sizes are the largest |h| of a sequence, on average."
    if rest := [life.dim for life in born[_TOLD:]]:
        said.append(f"{listing(rest)} stand{'s' if len(rest) == 1 else ''} out less.")
    return said


def _life(life: Life) -> str:
    births = ", then ".join(_birth(rise) for rise in life.rises[:_MOST_RISES])
    return (
        f"Dimension {life.dim} is largest in {_layer(life.peak)} ({size(life.size)}, "
        f"{number(life.times, 0)} times the median dimension). "
        f"It is {births}{_agreement(life)}; {_end(life)}. {_where(life)}"
    )


def _agreement(life: Life) -> str:
    """How far the layer of birth can be trusted; "" where every sample says the same."""
    if not life.agreement < 1:
        return ""
    share = percent(life.agreement)
    return f" (the first layer is so in {share} of the samples without one block of documents)"


def _birth(rise: Rise) -> str:
    goes_on = rise.top > rise.layer and rise.top_size >= _GROWN * rise.size
    on = f", rising to {size(rise.top_size)} in layer {rise.top}" if goes_on else ""
    if rise.layer == 0:
        return f"there from the embeddings on ({size(rise.size)}{on})"
    by = f"by {BRANCHES[rise.branch]} of" if rise.branch in BRANCHES else "at"
    return f"written {by} layer {rise.layer} (from {size(rise.before)} to {size(rise.size)}{on})"


def _layer(layer: int) -> str:
    return f"layer {layer}" if layer else "the embeddings"


def _end(life: Life) -> str:
    first, last = life.plateau
    plateau = f"at half of its largest or more in layers {first} to {last}" if last > first else ""
    if life.fell is not None:
        fall = f"falls below half of its largest in layer {life.fell}"
        if life.fall_branch in BRANCHES:
            verb = "take" if life.fall_branch == "norms" else "takes"
            fall += f", where {BRANCHES[life.fall_branch]} {verb} most away"
    elif life.fall_branch:
        fall = f"and not finite in layer {last + 1}"
    else:
        fall = "and lasts to the last layer"
    final = (
        f"{number(life.times_final, 1)} times the median dimension after the final norm"
        if life.times_final is not None
        else ""
    )
    return ", ".join(filter(None, [plateau, fall, final]))


def _where(life: Life) -> str:
    sign = "positive" if life.positive >= 0.5 else "negative"
    share = max(life.positive, 1 - life.positive)
    text = (
        f"Of its squares in {_layer(life.peak)}, {percent(life.kind_share)} stand at "
        f"{'the ' if life.kind == FIRST else ''}{life.kind}, and {percent(share)} are of {sign} "
        "values"
    )
    if life.norm_share is not None:
        part = percent(life.norm_share)
        text += f"; at the worst token of a sequence it is {part} of what a norm divides by"
        text += ", on average"
    return f"{text}."


def digits(value: float) -> int:
    """How many digits of a size behind the point are told."""
    return 0 if abs(value) >= 100 else 1


def size(value: float | None) -> str:
    """A size of a dimension, for people."""
    return number(value, 1 if value is None else digits(value))
