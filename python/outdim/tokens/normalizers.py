"""What normalizers leave of the text around a cut; docs/counting.md has the arguments."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from outdim.tokens.chunk_rule import ASCII_SOLID, MARK

Spec = dict[str, Any]


class RefusedError(Exception):
    """The tokenizer, or a part of it, is of a kind whose boundaries are not known."""


@dataclass
class Normal:
    """What the normalizers leave of the text around a cut."""

    kinds: list[str] = field(default_factory=list)
    marks: bool = False  # spaces become U+2581
    prepends: bool = False
    wide: bool = True  # characters above U+007F neither vanish nor become blank
    lower: bool = False  # ASCII letters become lower case, and nothing else of ASCII changes
    ideographs: bool = False  # each is set apart by spaces
    whole: bool = True  # blanks stay blank and apart from what follows, whatever that is


def parts_of(spec: Spec | None, key: str) -> Iterator[Spec]:
    """The parts of a possibly nested Sequence."""
    if spec is None:
        return
    if spec["type"] == "Sequence":
        for step in spec[key]:
            yield from parts_of(step, key)
    else:
        yield spec


def read_normalizers(spec: Spec | None) -> Normal:
    """Look at each normalizer in turn; RefusedError where one is of no known kind."""
    normal = Normal()
    for step in parts_of(spec, "normalizers"):
        kind = step["type"]
        normal.kinds.append(kind)
        if kind == "Lowercase" or step.get("lowercase"):
            normal.lower = True
        if kind in ("NFC", "NFD", "Lowercase"):
            continue
        if kind in ("NFKC", "NFKD", "StripAccents", "BertNormalizer"):
            normal.wide = False
            normal.ideographs = step.get("handle_chinese_chars", False)
        elif kind in ("Precompiled", "Nmt") or (kind == "Strip" and not step["strip_left"]):
            normal.wide = normal.whole = False
        elif kind == "Prepend" and step["prepend"] == MARK and len(normal.kinds) == 1:
            normal.prepends, normal.whole = True, False
        elif kind == "Replace":
            _replace(step, normal)
        else:
            raise RefusedError(f"normalizer {kind}")
    return normal


def _replace(step: Spec, normal: Normal) -> None:
    pattern, content = step["pattern"], step["content"]
    if pattern == {"String": " "} and content == MARK:
        normal.marks, normal.whole = True, False
    elif pattern.get("Regex") in (" {2,}", r"\s{2,}|[\n\r\t]", r"\s+") and content == " ":
        normal.wide = normal.whole = False  # runs of blanks: a single space stays what it is
    elif "String" in pattern and _is_plain(pattern["String"]) and _is_plain(content):
        normal.whole = False
    else:
        raise RefusedError(f"normalizer Replace of {pattern} by {content!r}")


def _is_plain(text: str) -> bool:
    return bool(text) and all(letter in ASCII_SOLID for letter in text)
