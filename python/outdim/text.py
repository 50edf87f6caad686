"""Words and numbers for people, and foreign strings made safe to print."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

_MINUS = "\u2212"
_DIGITS = 6  # of a number: more are never known
_FINEST, _HUGE = 1e-6, 1e12


def visible(text: str, keep: str = "") -> str:
    r"""Make characters that cannot be drawn visible, but for those to ``keep``.

    Example:
        >>> visible("a\x1b[2J\n", keep="\n")
        'a\\x1b[2J\n'
    """
    return "".join(c if c.isprintable() or c in keep else ascii(c)[1:-1] for c in text)


def number(value: float | int | None, digits: int = 3) -> str:
    """Write a number for people, with so many digits behind the point as say something.

    Thousands are grouped, a minus is a true one, nothing and NaN are 'n/a'. Six digits in all are
    enough, from a million on three; where two or more digits behind the point would be zeros, two
    others are shown; a size below a millionth is not told apart from others.

    Example:
        >>> number(-0.8137, 2), number(1234567), number(float("nan"))
        ('−0.81', '1,234,567', 'n/a')
        >>> number(0.000371), number(0.04, 1), number(512133.997), number(2412345.0)
        ('0.00037', '0.0', '512,134', '2,410,000')
        >>> number(8.18e-27), number(8.18e-27, 1), number(1.5e13)
        ('< 0.000001', '0.0', '1.5e+13')
    """
    if value is None or math.isnan(value):
        return "n/a"
    if isinstance(value, int):
        return f"{value:,}".replace("-", _MINUS)
    size = abs(value)
    if math.isinf(value) or size >= _HUGE:
        return f"{value:.1e}".replace("-", _MINUS)
    if size >= 1e6:
        return _fixed(float(f"{value:.2e}"), 0)
    if size >= 1:
        return _fixed(value, min(digits, _DIGITS - len(str(int(size)))))
    if digits > 1 and 0 < size < 0.5 * 10**-digits:
        if size < _FINEST:
            return f"< {_FINEST:.6f}" if value > 0 else f"> {_MINUS}{_FINEST:.6f}"
        digits = 1 - math.floor(math.log10(size))
    return _fixed(value, digits)


def p_value(p: float | None) -> str:
    """Write a p, or a q, as far as it can be told.

    Example:
        >>> p_value(0.0004), p_value(0.046), p_value(None)
        ('< 0.001', '0.046', 'n/a')
    """
    return "< 0.001" if p is not None and p < 0.001 else number(p, 3)


def p_in_words(p: float | None) -> str:
    """Say what a p is.

    Example:
        >>> p_in_words(0.0004), p_in_words(0.046)
        ('p < 0.001', 'p = 0.046')
    """
    said = p_value(p)
    return f"p {said}" if said.startswith("<") else f"p = {said}"


def with_interval(
    value: float | None, low: float | None, high: float | None, digits: int = 3
) -> str:
    """Write a value and its ends, all to as many digits as the smallest of them needs.

    What is below a thousandth of the largest counts as 0. No ends where one is None or NaN.

    Example:
        >>> with_interval(0.0123, -0.0042, 0.0314, digits=2)
        '0.012 [−0.004, 0.031]'
        >>> with_interval(6.45e-4, 2.1e-4, 0.0012), with_interval(2.1, 1.9, 2.4, digits=1)
        ('0.0006 [0.0002, 0.0012]', '2.1 [1.9, 2.4]')
        >>> with_interval(2.94e-4, 2.37e-4, 3.62e-4), with_interval(5e-17, -3e-17, 1e-16)
        ('0.00029 [0.00024, 0.00036]', '0.000000 [0.000000, 0.000000]')
    """
    known = [] if low is None or high is None or math.isnan(low + high) else [low, high]
    parts = [value, *known]
    sizes = [abs(x) for x in parts if x is not None and math.isfinite(x)]
    largest = max(sizes, default=0.0)
    if known and largest < 1e6:
        digits = _digits_of(sizes, digits)
        said = [_fixed(x, digits) for x in parts]
    else:
        said = [number(x, digits) for x in parts]
    return said[0] + (f" [{said[1]}, {said[2]}]" if known else "")


def _digits_of(sizes: Iterable[float], digits: int) -> int:
    """Digits behind the point that show the smallest of some sizes next to the largest."""
    largest = max(sizes, default=0.0)
    if largest >= 1e3:
        return min(digits, max(0, _DIGITS - len(str(int(largest)))))
    if largest >= 1e-3:
        smallest = min(size for size in sizes if size >= largest / 1000)
        return max(digits, math.ceil(-math.log10(smallest)))
    if digits < 2 or largest == 0:
        return digits
    return max(digits, 1 - math.floor(math.log10(max(largest, 10 * _FINEST))))


def _fixed(value: float | None, digits: int) -> str:
    if value is None or not math.isfinite(value):
        return number(value)
    return f"{round(value, digits) + 0.0:,.{digits}f}".replace("-", _MINUS)


def significant(value: float | None, digits: int = 2) -> str:
    """Write what is known to a few digits only, such as a ratio to something noisy.

    Example:
        >>> significant(552.9), significant(5.44), significant(0.0316), significant(1289.0)
        ('550', '5.4', '0.032', '1,300')
    """
    if value is None or not math.isfinite(value) or value == 0:
        return number(value, 0)
    rounded = float(f"{value:.{digits - 1}e}")
    return number(rounded, max(0, digits - 1 - math.floor(math.log10(abs(rounded)))))


def percent(share: float) -> str:
    """Write a share in percent, to as many digits as show that it is not all, or not nothing.

    Example:
        >>> percent(0.456), percent(0.9973), percent(0.99996), percent(0.002), percent(1.0)
        ('46%', '99.7%', '99.996%', '0.2%', '100%')
        >>> percent(0.9999999999), percent(1e-12)
        ('above 99.999%', 'below 0.001%')
    """
    for digits in (0, 1, 2, 3):
        said = f"{100 * share:.{digits}f}"
        if share in (0, 1) or float(said) not in (0, 100):
            return "n/a" if math.isnan(share) else f"{said}%"
    return "above 99.999%" if share > 0.5 else "below 0.001%"


def first_sentence(text: str) -> str:
    """A text up to the first full stop behind which another sentence begins.

    Example:
        >>> first_sentence("r is 0.70 (p < 0.001). The median is 0.22.")
        'r is 0.70 (p < 0.001).'
    """
    return re.split(r"(?<=\.)\s+(?=[A-Z])", text, maxsplit=1)[0]


def counted(count: int, noun: str) -> str:
    """Write a count with its noun.

    Example:
        >>> counted(1, "layer"), counted(1024, "layer")
        ('1 layer', '1,024 layers')
    """
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def duration(seconds: float) -> str:
    """Write a time, roughly.

    Example:
        >>> duration(0.4), duration(42.1), duration(100), duration(7200)
        ('less than a second', '42 s', '2 minutes', '2.0 hours')
    """
    if seconds < 1:
        return "less than a second"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"


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


def together(dims: Iterable[int], limit: int | None = None) -> str:
    """Write dimensions that are changed together, in order; beyond ``limit`` the rest counted.

    Example:
        >>> together([507, 247]), together(range(9), limit=6), together([17])
        ('247+507', '0+1+2+3+4+5 and 3 more', '17')
    """
    ordered = sorted(dims)
    shown = ordered if limit is None else ordered[:limit]
    more = len(ordered) - len(shown)
    return "+".join(map(str, shown)) + (f" and {more} more" if more else "")


def those_together(word: str) -> list[int]:
    """Read what `together` writes; commas stand for the plus signs as well.

    Raises:
        ValueError: Anything but whole numbers.

    Example:
        >>> those_together("247+507"), those_together("507,247")
        ([247, 507], [507, 247])
    """
    return [int(part) for part in word.replace("+", ",").split(",")]


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
