"""Foreign strings made safe to draw."""

import html
from pathlib import Path

from outdim.text import visible
from outdim.tokens import TokenFrequencies


def token_text(token: str) -> str:
    r"""Make the blanks of a token, and characters that cannot be drawn, visible.

    Example:
        >>> token_text(" a\n") == "␣a\\n"
        True
    """
    return visible(token).replace(" ", "␣") or "(empty)"


def token_of(counts: TokenFrequencies | None, token: int, label: str) -> str:
    """What a token stands for, made visible; its label where its bytes are not known.

    Byte-level vocabularies write a blank as Ġ: their labels are no text.
    """
    raw = counts.raw[token] if counts is not None and counts.raw and token < len(counts) else None
    return token_text(label if raw is None else raw.decode(errors="backslashreplace"))


def short_path(path: str) -> str:
    """Give the last two parts of a path: of a long local one they say what it is.

    Example:
        >>> short_path("/home/me/runs/bert"), short_path("org/model"), short_path("bert")
        ('runs/bert', 'org/model', 'bert')
    """
    return "/".join(Path(path).parts[-2:])


def plot_text(text: str) -> str:
    """Escape text for plotly, which reads a few HTML tags and entities, and TeX between dollars."""
    return html.escape(visible(text), quote=False).replace("$", "&#36;")
