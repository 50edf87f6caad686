"""Words and numbers for people, and foreign strings made safe to print."""

from __future__ import annotations

import math
from collections.abc import Sequence

_MINUS = "\u2212"


def visible(text: str, keep: str = "") -> str:
    r"""Make characters that cannot be drawn visible, but for those to ``keep``.

    Example:
        >>> visible("a\x1b[2J\n", keep="\n")
        'a\\x1b[2J\n'
    """
    return "".join(c if c.isprintable() or c in keep else ascii(c)[1:-1] for c in text)


def number(value: float | int | None, digits: int = 3) -> str:
    """Write a number for people: thousands grouped, a true minus, 'n/a' for nothing and for NaN.

    Example:
        >>> number(-0.8137, 2), number(1234567), number(float("nan"))
        ('−0.81', '1,234,567', 'n/a')
    """
    if value is None or math.isnan(value):
        return "n/a"
    if isinstance(value, int):
        text = f"{value:,}"
    elif math.isinf(value) or value == 0 or 1e-3 <= abs(value) < 1e6:
        text = f"{value:,.{digits}f}"
    else:
        text = f"{value:.2e}"
    return text.replace("-", _MINUS)


def counted(count: int, noun: str) -> str:
    """Write a count with its noun.

    Example:
        >>> counted(1, "layer"), counted(1024, "layer")
        ('1 layer', '1,024 layers')
    """
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def listing(items: Sequence[object], limit: int = 12) -> str:
    """Write items as prose, the rest counted.

    Example:
        >>> listing([308, 381]), listing([1, 2, 3, 4], limit=2)
        ('308 and 381', '1, 2 and 2 more')
    """
    shown = [str(item) for item in items[:limit]]
    if len(items) > limit:
        return f"{', '.join(shown)} and {len(items) - limit:,} more"
    return " and ".join(filter(None, [", ".join(shown[:-1]), *shown[-1:]]))


def layers_in_words(layers: Sequence[int]) -> str:
    """Write layers as prose.

    Example:
        >>> layers_in_words([3]), layers_in_words([4, 5, 6]), layers_in_words([4, 6])
        ('layer 3', 'layers 4 to 6', 'layers 4, 6')
    """
    if len(layers) == 1:
        return f"layer {layers[0]}"
    if list(layers) == list(range(layers[0], layers[-1] + 1)):
        return f"layers {layers[0]} to {layers[-1]}"
    return f"layers {', '.join(map(str, layers))}"
