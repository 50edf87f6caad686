"""Where text may be cut so that its chunks, tokenized alone, give exactly the tokens of the whole.

A tokenizer is looked at as a pipeline: added tokens, normalizer, pre-tokenizer, model. Each kind
that is known here has its argument in docs/counting.md; whatever is not known makes
:func:`chunk_rule` refuse.
"""

from __future__ import annotations

import itertools
import json
import string
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from outdim.corpus.regexes import CUTS_OF_REGEX

_OTHER, _SPACE, _LETTER, _DIGIT, _PUNCT, _QUOTE, _BLANK, _GUARD, _DROP, _WIDE, _HAN = range(11)
_MARK = "\u2581"  # stands for the space in SentencePiece vocabularies
_ASCII_SOLID = [chr(code) for code in range(0x21, 0x7F)]
_MAX_LITERALS = 16

DIGIT_CLASS = _DIGIT

Spec = dict[str, Any]


class RefusedError(Exception):
    """The tokenizer, or a part of it, is of a kind whose boundaries are not known."""


@dataclass(frozen=True)
class Rule:
    """A rule for the chunk counter (csrc/core/chunk_count.h), and how its chunks are to be encoded.

    ``why`` says in words what the rule rests on. ``prepends``: the normalizer puts a mark before
    every text, so that a chunk is encoded without its space; documents that begin with a space, or
    hold one of ``literals``, are then encoded whole.
    """

    why: str
    classes: tuple[int, ...]
    cuts: frozenset[tuple[int, int]] = frozenset()
    solid: frozenset[int] = frozenset()
    dropped: bool = False
    wide: bool = False
    prepends: bool = False
    literals: tuple[str, ...] = ()

    def compiled(self) -> Any:
        """The rule as the compiled module takes it."""
        from outdim import _core

        cut = [0] * 16
        for before, after in self.cuts:
            cut[before] |= 1 << after
        solid = sum(1 << one for one in self.solid)
        drop = 1 << _DROP if self.dropped else 0
        return _core.ChunkRule(
            list(self.classes), cut, solid, drop, 1 << _GUARD, self.wide, not self.dropped
        )


@dataclass
class _Normal:
    """What the normalizers leave of the text around a cut."""

    kinds: list[str] = field(default_factory=list)
    marks: bool = False  # spaces become U+2581
    prepends: bool = False
    wide: bool = True  # characters above U+007F neither vanish nor become blank
    ideographs: bool = False  # each is set apart by spaces
    whole: bool = True  # blanks stay blank and apart from what follows, whatever that is


def chunk_rule(tokenizer: Any) -> Rule:
    """The finest rule that is known to be exact for a tokenizer.

    Raises:
        RefusedError: there is none; the text says why.
    """
    inner = tokenizer.backend_tokenizer
    spec = json.loads(inner.to_str())
    normal = _normalizers(spec["normalizer"])
    model = spec["model"]
    if model.get("dropout"):
        raise RefusedError("its BPE drops merges at random")
    for maker in (_dropping_rule, _regex_rule, _metaspace_rule, _unsplit_rule):
        rule = maker(spec["pre_tokenizer"], normal, model)
        if rule is not None:
            rule = _with_added_tokens(rule, spec["added_tokens"], inner)
            _check_solid(rule, inner)
            return rule
    raise RefusedError(f"pre-tokenizer {_names(spec['pre_tokenizer'])} with {model['type']}")


def _steps(spec: Spec | None, key: str) -> Iterator[Spec]:
    if spec is None:
        return
    if spec["type"] == "Sequence":
        for step in spec[key]:
            yield from _steps(step, key)
    else:
        yield spec


def _names(spec: Spec | None) -> str:
    return " + ".join(step["type"] for step in _steps(spec, "pretokenizers")) or "none"


def _normalizers(spec: Spec | None) -> _Normal:
    normal = _Normal()
    for step in _steps(spec, "normalizers"):
        kind = step["type"]
        normal.kinds.append(kind)
        if kind in ("NFC", "NFD", "Lowercase"):
            continue
        if kind in ("NFKC", "NFKD", "StripAccents", "BertNormalizer"):
            normal.wide = False
            normal.ideographs = step.get("handle_chinese_chars", False)
        elif kind in ("Precompiled", "Nmt") or (kind == "Strip" and not step["strip_left"]):
            normal.wide = normal.whole = False
        elif kind == "Prepend" and step["prepend"] == _MARK and len(normal.kinds) == 1:
            normal.prepends, normal.whole = True, False
        elif kind == "Replace":
            _replace(step, normal)
        else:
            raise RefusedError(f"normalizer {kind}")
    return normal


def _replace(step: Spec, normal: _Normal) -> None:
    pattern, content = step["pattern"], step["content"]
    if pattern == {"String": " "} and content == _MARK:
        normal.marks, normal.whole = True, False
    elif pattern.get("Regex") in (" {2,}", r"\s{2,}|[\n\r\t]", r"\s+") and content == " ":
        normal.wide = normal.whole = False  # runs of blanks: a single space stays what it is
    elif "String" in pattern and _is_plain(pattern["String"]) and _is_plain(content):
        normal.whole = False
    else:
        raise RefusedError(f"normalizer Replace of {pattern} by {content!r}")


def _is_plain(text: str) -> bool:
    return bool(text) and all(letter in _ASCII_SOLID for letter in text)


def _classes(
    letters: str = "", digits: str = "", punctuation: str = "", quotes: str = "", blanks: str = ""
) -> list[int]:
    classes = [_OTHER] * 128 + [_WIDE] * 128
    for letter in _ASCII_SOLID:
        classes[ord(letter)] = _PUNCT
    groups = ((letters, _LETTER), (digits, _DIGIT), (punctuation, _PUNCT), (quotes, _QUOTE))
    for group, one in (*groups, (blanks, _BLANK), (" ", _SPACE)):
        for letter in group:
            classes[ord(letter)] = one
    return classes


_SOLID = frozenset({_LETTER, _DIGIT, _PUNCT, _QUOTE, _GUARD})
_LETTERS_APART = {(_LETTER, _DIGIT), (_DIGIT, _LETTER)}


def _dropping_rule(spec: Spec | None, normal: _Normal, model: Spec) -> Rule | None:
    """Pre-tokenizers that drop blanks: BertPreTokenizer, Whitespace, WhitespaceSplit."""
    kinds = [step["type"] for step in _steps(spec, "pretokenizers")]
    if not kinds or kinds[0] not in ("BertPreTokenizer", "Whitespace", "WhitespaceSplit"):
        return None
    if not normal.whole:
        return None
    for step in list(_steps(spec, "pretokenizers"))[1:]:
        if not _is_local(step) and not (
            step["type"] == "Metaspace" and step["prepend_scheme"] in ("always", "never")
        ):
            return None
    word = string.ascii_letters + string.digits
    if kinds[0] == "Whitespace":
        word += "_"
    classes = _classes(word)
    cuts: set[tuple[int, int]] = set()
    if len(kinds) == 1 and kinds[0] == "BertPreTokenizer":
        cuts = {(_LETTER, _PUNCT), (_PUNCT, _LETTER), (_PUNCT, _PUNCT)}
        if normal.kinds == ["BertNormalizer"] and normal.ideographs:
            classes[0xE5 : 0xE9 + 1] = [_HAN] * 5  # U+5000 to U+9FFF: set apart by the normalizer
    elif len(kinds) == 1 and kinds[0] == "Whitespace":
        cuts = {(_LETTER, _PUNCT), (_PUNCT, _LETTER)}
    if _HAN in classes:
        cuts |= {(one, _HAN) for one in (_OTHER, _LETTER, _PUNCT, _WIDE)}
    for blank in b" \t\n\r":
        classes[blank] = _DROP
    why = f"{kinds[0]} splits at blanks and drops them"
    if cuts:
        why += " and splits around ASCII punctuation"
    return Rule(why, tuple(classes), frozenset(cuts), dropped=True)


def _is_local(step: Spec) -> bool:
    """Tell steps that look at neighbouring characters only: they cut chunks and texts alike."""
    if step["type"] == "Digits":
        return True
    if step["type"] == "Punctuation":
        return step["behavior"] in ("Isolated", "Contiguous")
    return False


def _regex_rule(spec: Spec | None, normal: _Normal, model: Spec) -> Rule | None:
    """Byte-level BPE: a known regex, then the byte alphabet."""
    if normal.marks or normal.prepends:
        return None
    steps = [step for step in _steps(spec, "pretokenizers") if not _is_local(step)]
    local = len(steps) < len(list(_steps(spec, "pretokenizers")))
    if not steps or steps[-1]["type"] != "ByteLevel" or len(steps) > 2:
        return None
    prefix = False
    if len(steps) == 1 and steps[0]["use_regex"]:
        name, prefix = "GPT-2's regex", steps[0]["add_prefix_space"]
        cuts = CUTS_OF_REGEX["GPT-2"][1]
    elif len(steps) == 2 and steps[0]["type"] == "Split":
        found = _known_split(steps[0])
        if found is None:
            return None
        name, cuts = found
    else:
        return None
    if prefix or local:
        cuts = ""
    classes = _classes(string.ascii_letters, string.digits, quotes="'", blanks="\t\n\r")
    named = {"L": _LETTER, "N": _DIGIT, "P": _PUNCT, "S": _SPACE, "B": _BLANK}
    pairs = frozenset((named[pair[0]], named[pair[1]]) for pair in cuts.split())
    why = f"{name} takes a space only before what follows it"
    if pairs:
        why += ", and never joins the kinds of characters that are cut apart"
    return Rule(why, tuple(classes), pairs, _SOLID, wide=normal.wide)


def _known_split(step: Spec) -> tuple[str, str] | None:
    kept = step["behavior"] == "Isolated" and not step["invert"]
    inverted = step["behavior"] == "Removed" and step["invert"]
    if not kept and not inverted:
        return None
    for name, (pattern, cuts) in CUTS_OF_REGEX.items():
        if step["pattern"].get("Regex") == pattern:
            return f"the regex of {name}", cuts
    return None


def _metaspace_rule(spec: Spec | None, normal: _Normal, model: Spec) -> Rule | None:
    """SentencePiece with words split at U+2581, which every space becomes."""
    if normal.marks or normal.prepends:
        return None
    steps = [step for step in _steps(spec, "pretokenizers") if not _is_local(step)]
    kinds = [step["type"] for step in steps]
    if kinds not in (["Metaspace"], ["WhitespaceSplit", "Metaspace"]):
        return None
    if kinds == ["Metaspace"] and not steps[0].get("split", True):
        return None
    if steps[-1]["replacement"] != _MARK:
        return None
    why = "Metaspace begins a new piece at every space"
    return Rule(why, tuple(_classes()), solid=_SOLID, wide=normal.wide)


def _unsplit_rule(spec: Spec | None, normal: _Normal, model: Spec) -> Rule | None:
    """BPE over unsplit text in which no token reaches from a character to a space after it."""
    steps = list(_steps(spec, "pretokenizers"))
    unsplit = not steps and normal.marks
    if len(steps) == 1 and steps[0]["type"] == "Metaspace" and not normal.marks:
        unsplit = not steps[0].get("split", True) and steps[0]["replacement"] == _MARK
    if len(steps) == 1 and steps[0]["type"] == "Split" and normal.marks:
        unsplit = steps[0]["pattern"] == {"String": " "}  # none is left when it runs
    if not unsplit or model["type"] != "BPE":
        return None
    if normal.prepends and not normal.marks:
        return None
    affixes = (model["continuing_subword_prefix"], model["end_of_word_suffix"])
    if any(affixes) or model.get("ignore_merges") or _MARK not in model["vocab"]:
        raise RefusedError("BPE over unsplit text with affixes, ignored merges or no U+2581")
    if any(_MARK in token.lstrip(_MARK) for token in model["vocab"]):
        raise RefusedError("BPE over unsplit text with tokens that reach over a space")
    why = "no token of this BPE vocabulary reaches from a character to the space after it"
    return Rule(why, tuple(_classes()), solid=_SOLID, wide=normal.wide, prepends=normal.prepends)


def _with_added_tokens(rule: Rule, added: list[Spec], inner: Any) -> Rule:
    """Make the rule respect tokens that are looked for in the text before anything else."""
    contents = []
    for token in added:
        texts = {token["content"]}
        if token["normalized"] and inner.normalizer is not None:
            texts.add(inner.normalizer.normalize_str(token["content"]))
        for text in texts:
            if not text:
                raise RefusedError(f"added token {token['content']!r} becomes nothing")
            if _reaches_over(text, rule.dropped):
                raise RefusedError(f"added token {token['content']!r} reaches over a blank")
        if token["rstrip"] and not rule.dropped:
            raise RefusedError(f"added token {token['content']!r} takes the blanks after it")
        if token["single_word"] and token["content"][0].isspace():
            raise RefusedError(f"added token {token['content']!r} is a single word after a blank")
        contents.append(token["content"])
    if rule.prepends:
        if len(contents) > _MAX_LITERALS:
            raise RefusedError("more added tokens than can be looked for")
        return Rule(**{**vars(rule), "literals": tuple(contents)})
    fine = not any(token["normalized"] or token["single_word"] for token in added)
    guards = {text.encode()[0] for text in contents if len(text) > 1}
    if not fine or any(chr(guard).isspace() for guard in guards):
        cuts = frozenset[tuple[int, int]]()
        return Rule(**{**vars(rule), "cuts": cuts, "why": rule.why.split(" and ")[0].split(",")[0]})
    if not rule.cuts:
        return rule
    classes = [
        _GUARD if byte in guards and one != _DROP else one for byte, one in enumerate(rule.classes)
    ]
    # A guard is cut before like the class it had: its tokens begin there, nothing of them is cut.
    pairs = set(rule.cuts)
    for guard in guards:
        pairs |= {(before, _GUARD) for before, after in rule.cuts if after == rule.classes[guard]}
    return Rule(**{**vars(rule), "classes": tuple(classes), "cuts": frozenset(pairs)})


def _reaches_over(text: str, dropped: bool) -> bool:
    """Whether a cut could fall inside: at a blank, or only where a blank follows a character."""
    blank = [letter.isspace() or letter == _MARK for letter in text]
    if dropped:
        return any(blank)
    return any(after and not before for before, after in itertools.pairwise(blank))


def _check_solid(rule: Rule, inner: Any) -> None:
    """Refuse when an ASCII character does not stay solid, or apart from the spaces around it."""
    normalizer = inner.normalizer
    if normalizer is None or rule.dropped:
        return
    start = _MARK if rule.prepends else ""
    for letter in _ASCII_SOLID:
        alone = normalizer.normalize_str(letter).removeprefix(start)
        around = normalizer.normalize_str(f"{letter} {letter}").removeprefix(start)
        if not alone or any(one.isspace() or one == _MARK for one in alone):
            raise RefusedError(f"its normalizer turns {letter!r} into {alone!r}")
        if around not in (f"{alone} {alone}", f"{alone}{_MARK}{alone}"):
            raise RefusedError(f"its normalizer turns '{letter} {letter}' into {around!r}")
