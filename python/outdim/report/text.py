"""Turns numbers and foreign strings into text that is safe to draw and easy to read."""

import html
import math
from collections.abc import Sequence
from pathlib import Path

_MINUS = "\u2212"


def number(value: float | int | None, digits: int = 3) -> str:
    """Write a number for people: thousands grouped, a true minus, 'n/a' for nothing and for NaN.

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
    """Write a count with its noun: '1 layer', '1,024 layers'."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def listing(items: Sequence[object], limit: int = 12) -> str:
    """Write items as prose, the rest counted: '308, 381 and 3 more'."""
    shown = [str(item) for item in items[:limit]]
    if len(items) > limit:
        return f"{', '.join(shown)} and {len(items) - limit:,} more"
    return " and ".join(filter(None, [", ".join(shown[:-1]), *shown[-1:]]))


def visible(token: str) -> str:
    r"""Make the blanks of a token, and characters that cannot be drawn, visible.

    >>> visible(" a\n") == "␣a\\n"
    True
    """
    if not token:
        return "(empty)"
    return "".join("␣" if c == " " else c if c.isprintable() else ascii(c)[1:-1] for c in token)


def short_path(path: str) -> str:
    """Give the last two parts of a path: of a long local one they say what it is.

    >>> short_path("/home/me/runs/bert"), short_path("org/model"), short_path("bert")
    ('runs/bert', 'org/model', 'bert')
    """
    return "/".join(Path(path).parts[-2:])


def plot_text(text: str) -> str:
    """Escape text for plotly, which reads a few HTML tags and entities, and TeX between dollars."""
    return html.escape(text, quote=False).replace("$", "&#36;")
