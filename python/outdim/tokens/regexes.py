r"""The regexes of byte-level BPE tokenizers whose boundaries are proved in docs/counting.md.

Of each: the pattern, and the pairs of neighbouring ASCII characters between which no match reaches:
L letters, N digits, P punctuation but the apostrophe, S the space, B tab and line ends. A cut
before S or B leaves the whole run of blanks with what follows.
"""

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_LETTERS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_BLANKS = r"|\s*[\r\n]+|\s+(?!\S)|\s+"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*" + _BLANKS
_MARKED = r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*" + _BLANKS
_UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_SLASHED = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*" + _BLANKS


def _cased(ending: str) -> str:
    """Words by case, as GPT-4o has them."""
    before = r"[^\r\n\p{L}\p{N}]?"
    return f"{before}{_UPPER}*{_LOWER}+{ending}|{before}{_UPPER}+{_LOWER}*{ending}"


_GPT2_CUTS = "LP PL LN NL NP PN LS LB NS NB PS PB"
# Letters may follow one other character in the same match, so punctuation is not cut from them; and
# punctuation takes line ends along, so only spaces are cut from it.
_CL100K_CUTS = "LP LN NL NP PN LS LB NS NB PS"

CUTS_OF_REGEX = {
    "GPT-2": (
        r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
        _GPT2_CUTS,
    ),
    "GPT-4": (
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}"
        r"| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",
        _CL100K_CUTS,
    ),
    "Llama 3": (_CONTRACTIONS + "|" + _LETTERS + r"|\p{N}{1,3}" + _REST, _CL100K_CUTS),
    "Qwen 2": (_CONTRACTIONS + "|" + _LETTERS + r"|\p{N}" + _REST, _CL100K_CUTS),
    "Qwen 3.5": (_CONTRACTIONS + _MARKED, _CL100K_CUTS),
    "GPT-4o": (_cased(_CONTRACTIONS + "?") + r"|\p{N}{1,3}" + _SLASHED, _CL100K_CUTS),
    "Tekken": (_cased("") + r"|\p{N}" + _SLASHED, _CL100K_CUTS),
    "CLIP": (
        r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d"
        r"|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+",
        "",
    ),
}
