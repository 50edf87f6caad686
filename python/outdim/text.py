"""Foreign strings made safe to print."""


def visible(text: str, keep: str = "") -> str:
    r"""Make characters that cannot be drawn visible, but for those to ``keep``.

    >>> visible("a\x1b[2J\n", keep="\n")
    'a\\x1b[2J\n'
    """
    return "".join(c if c.isprintable() or c in keep else ascii(c)[1:-1] for c in text)
