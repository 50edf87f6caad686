"""Where text may be cut so that its chunks, tokenized alone, give exactly the tokens of the whole.

A tokenizer is looked at as a pipeline: added tokens, normalizer, pre-tokenizer, model. Each kind
that is known here has its argument in docs/counting.md; whatever is not known makes
`chunk_rule` refuse.
"""

from __future__ import annotations

import itertools
import json
import string
from dataclasses import replace
from typing import Any

from outdim.tokens.chunk_rule import (
    ASCII_SOLID,
    BLANK,
    DIGIT,
    DROP,
    GUARD,
    HAN,
    LETTER,
    MARK,
    OTHER,
    PUNCT,
    SOLID,
    SPACE,
    WIDE,
    Rule,
    Words,
    byte_classes,
)
from outdim.tokens.normalizers import Normal, RefusedError, Spec, parts_of, read_normalizers
from outdim.tokens.regexes import CUTS_OF_REGEX
from outdim.tokens.tokenizer import inside

_MAX_LITERALS = 16
_SPACE_BYTE = "\u0120"  # stands for the space in byte-level vocabularies


def chunk_rule(tokenizer: Any) -> Rule:
    """The finest rule that is known to be exact for a tokenizer.

    Args:
        tokenizer: A fast tokenizer.

    Raises:
        RefusedError: There is none; the text says why.
    """
    inner = inside(tokenizer)
    spec = json.loads(inner.to_str())
    normal = read_normalizers(spec["normalizer"])
    model = spec["model"]
    if model.get("dropout"):
        raise RefusedError("its BPE drops merges at random")
    for maker in (_dropping_rule, _regex_rule, _metaspace_rule, _unsplit_rule):
        rule = maker(spec["pre_tokenizer"], normal, model)
        if rule is not None:
            rule = replace(rule, words=_words(rule, spec, normal))
            rule = _with_added_tokens(rule, spec["added_tokens"], inner)
            _check_solid(rule, inner)
            return rule
    raise RefusedError(f"pre-tokenizer {_names(spec['pre_tokenizer'])} with {model['type']}")


def _names(spec: Spec | None) -> str:
    return " + ".join(step["type"] for step in parts_of(spec, "pretokenizers")) or "none"


def _dropping_rule(spec: Spec | None, normal: Normal, model: Spec) -> Rule | None:
    """Pre-tokenizers that drop blanks: BertPreTokenizer, Whitespace, WhitespaceSplit."""
    kinds = [step["type"] for step in parts_of(spec, "pretokenizers")]
    if not kinds or kinds[0] not in ("BertPreTokenizer", "Whitespace", "WhitespaceSplit"):
        return None
    if not normal.whole:
        return None
    for step in list(parts_of(spec, "pretokenizers"))[1:]:
        if not _is_local(step) and not (
            step["type"] == "Metaspace" and step["prepend_scheme"] in ("always", "never")
        ):
            return None
    word = string.ascii_letters + string.digits
    if kinds[0] == "Whitespace":
        word += "_"
    classes = byte_classes(word)
    cuts: set[tuple[int, int]] = set()
    if len(kinds) == 1 and kinds[0] == "BertPreTokenizer":
        cuts = {(LETTER, PUNCT), (PUNCT, LETTER), (PUNCT, PUNCT)}
        if normal.kinds == ["BertNormalizer"] and normal.ideographs:
            classes[0xE5 : 0xE9 + 1] = [HAN] * 5  # U+5000 to U+9FFF: set apart by the normalizer
    elif len(kinds) == 1 and kinds[0] == "Whitespace":
        cuts = {(LETTER, PUNCT), (PUNCT, LETTER)}
    if HAN in classes:
        cuts |= {(one, HAN) for one in (OTHER, LETTER, PUNCT, WIDE)}
    for blank in b" \t\n\r":
        classes[blank] = DROP
    why = f"{kinds[0]} splits at blanks and drops them"
    if cuts:
        why += " and splits around ASCII punctuation"
    return Rule(why, tuple(classes), frozenset(cuts), dropped=True)


def _is_local(step: Spec) -> bool:
    """Tell parts that look at neighbouring characters only: they cut chunks and texts alike."""
    if step["type"] == "Digits":
        return True
    if step["type"] == "Punctuation":
        return step["behavior"] in ("Isolated", "Contiguous")
    return False


def _regex_rule(spec: Spec | None, normal: Normal, model: Spec) -> Rule | None:
    """Byte-level BPE: a known regex, then the byte alphabet."""
    if normal.marks or normal.prepends:
        return None
    parts = [step for step in parts_of(spec, "pretokenizers") if not _is_local(step)]
    local = len(parts) < len(list(parts_of(spec, "pretokenizers")))
    if not parts or parts[-1]["type"] != "ByteLevel" or len(parts) > 2:
        return None
    prefix = False
    if len(parts) == 1 and parts[0]["use_regex"]:
        name, prefix = "GPT-2's regex", parts[0]["add_prefix_space"]
        cuts = CUTS_OF_REGEX["GPT-2"][1]
    elif len(parts) == 2 and parts[0]["type"] == "Split":
        found = _known_split(parts[0])
        if found is None:
            return None
        name, cuts = found
    else:
        return None
    if prefix or local:
        cuts = ""
    classes = byte_classes(string.ascii_letters, string.digits, quotes="'", blanks="\t\n\r")
    named = {"L": LETTER, "N": DIGIT, "P": PUNCT, "S": SPACE, "B": BLANK}
    pairs = frozenset((named[pair[0]], named[pair[1]]) for pair in cuts.split())
    why = f"{name} takes a space only before what follows it"
    if pairs:
        why += ", and never joins the kinds of characters that are cut apart"
    return Rule(why, tuple(classes), pairs, SOLID, wide=normal.wide)


def _known_split(step: Spec) -> tuple[str, str] | None:
    kept = step["behavior"] == "Isolated" and not step["invert"]
    inverted = step["behavior"] == "Removed" and step["invert"]
    if not kept and not inverted:
        return None
    for name, (pattern, cuts) in CUTS_OF_REGEX.items():
        if step["pattern"].get("Regex") == pattern:
            return f"the regex of {name}", cuts
    return None


def _metaspace_rule(spec: Spec | None, normal: Normal, model: Spec) -> Rule | None:
    """SentencePiece with words split at U+2581, which every space becomes."""
    if normal.marks or normal.prepends:
        return None
    parts = [step for step in parts_of(spec, "pretokenizers") if not _is_local(step)]
    kinds = [step["type"] for step in parts]
    if kinds not in (["Metaspace"], ["WhitespaceSplit", "Metaspace"]):
        return None
    if kinds == ["Metaspace"] and not parts[0].get("split", True):
        return None
    if parts[-1]["replacement"] != MARK:
        return None
    why = "Metaspace begins a new piece at every space"
    return Rule(why, tuple(byte_classes()), solid=SOLID, wide=normal.wide)


def _unsplit_rule(spec: Spec | None, normal: Normal, model: Spec) -> Rule | None:
    """BPE over unsplit text in which no token reaches from a character to a space after it."""
    parts = list(parts_of(spec, "pretokenizers"))
    unsplit = not parts and normal.marks
    if len(parts) == 1 and parts[0]["type"] == "Metaspace" and not normal.marks:
        unsplit = not parts[0].get("split", True) and parts[0]["replacement"] == MARK
    if len(parts) == 1 and parts[0]["type"] == "Split" and normal.marks:
        unsplit = parts[0]["pattern"] == {"String": " "}  # none is left when it runs
    if not unsplit or model["type"] != "BPE":
        return None
    if normal.prepends and not normal.marks:
        return None
    affixes = (model["continuing_subword_prefix"], model["end_of_word_suffix"])
    if any(affixes) or model.get("ignore_merges") or MARK not in model["vocab"]:
        raise RefusedError("BPE over unsplit text with affixes, ignored merges or no U+2581")
    if any(MARK in token.lstrip(MARK) for token in model["vocab"]):
        raise RefusedError("BPE over unsplit text with tokens that reach over a space")
    why = "no token of this BPE vocabulary reaches from a character to the space after it"
    return Rule(why, tuple(byte_classes()), solid=SOLID, wide=normal.wide, prepends=normal.prepends)


def _words(rule: Rule, spec: Spec, normal: Normal) -> Words | None:
    """Which chunks are plain words, and how their ids tell where each begins."""
    model, parts = spec["model"], list(parts_of(spec["pre_tokenizer"], "pretokenizers"))
    if rule.dropped:
        prefix = model.get("continuing_subword_prefix")
        if not rule.cuts or model["type"] != "WordPiece" or not prefix:
            return None
        return Words(frozenset({LETTER}), prefix, begins=False, bare=True, lower=normal.lower)
    if any(_is_local(part) for part in parts):
        return None
    classes = SOLID - {GUARD}
    if any(part["type"] == "ByteLevel" for part in parts):
        if model.get("end_of_word_suffix") or _SPACE_BYTE not in model["vocab"]:
            return None
        return Words(classes, _SPACE_BYTE, begins=True)
    vocabulary = model["vocab"]
    tokens = vocabulary if model["type"] == "BPE" else {entry[0] for entry in vocabulary}
    return Words(classes, MARK, begins=True) if MARK in tokens else None


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
        rule = replace(rule, literals=tuple(contents))
    loose = any(token["normalized"] or token["single_word"] for token in added)
    if loose or any(text[0].isspace() for text in contents):
        why = rule.why.split(" and ")[0].split(",")[0]
        return replace(rule, cuts=frozenset(), words=None, why=why)
    guards = {text.encode()[0] for text in contents}
    classes = list(rule.classes)
    # A guard is cut before like the class it had: its tokens begin there, nothing of them is cut.
    pairs = set(rule.cuts)
    for guard in guards:
        pairs |= {(before, GUARD) for before, after in rule.cuts if after == classes[guard]}
        classes[guard] = GUARD
    return replace(rule, classes=tuple(classes), cuts=frozenset(pairs))


def _reaches_over(text: str, dropped: bool) -> bool:
    """Whether a cut could fall inside: at a blank, or only where a blank follows a character."""
    blank = [letter.isspace() or letter == MARK for letter in text]
    if dropped:
        return any(blank)
    return any(after and not before for before, after in itertools.pairwise(blank))


def _check_solid(rule: Rule, inner: Any) -> None:
    """Refuse when an ASCII character does not stay solid, or apart from the spaces around it."""
    normalizer = inner.normalizer
    if normalizer is None or rule.dropped:
        return
    start = MARK if rule.prepends else ""
    for letter in ASCII_SOLID:
        alone = normalizer.normalize_str(letter).removeprefix(start)
        around = normalizer.normalize_str(f"{letter} {letter}").removeprefix(start)
        if not alone or any(one.isspace() or one == MARK for one in alone):
            raise RefusedError(f"its normalizer turns {letter!r} into {alone!r}")
        if around not in (f"{alone} {alone}", f"{alone}{MARK}{alone}"):
            raise RefusedError(f"its normalizer turns '{letter} {letter}' into {around!r}")
