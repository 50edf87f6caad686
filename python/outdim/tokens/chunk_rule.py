"""Rules for the chunk counter: classes of bytes, and what may be cut between them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from outdim.ops.chunk_count import CLASSES, ChunkRule

OTHER, SPACE, LETTER, DIGIT, PUNCT, QUOTE, BLANK, GUARD, DROP, WIDE, HAN = range(11)
SOLID = frozenset({LETTER, DIGIT, PUNCT, QUOTE, GUARD})
ASCII_SOLID = [chr(code) for code in range(0x21, 0x7F)]
MARK = "\u2581"  # stands for the space in SentencePiece vocabularies


@dataclass(frozen=True)
class Words:
    """Chunks that may be tokenized one after the other, as their ids tell where each begins.

    Attributes:
        classes: Of the bytes of a word, after its space where spaces are kept.
        prefix: Of tokens; it tells those that begin a word.
        begins: Whether a word begins with a token that has the prefix, or with one that has not.
        bare: Words stand between spaces and go past the normalizer, which puts them in lower case
            at most, and past the pre-tokenizer, which leaves them whole.
        lower: Whether the normalizer puts them in lower case.
    """

    classes: frozenset[int]
    prefix: str
    begins: bool
    bare: bool = False
    lower: bool = False


@dataclass(frozen=True)
class Rule:
    """A rule for the chunk counter (`ops.chunk_count`), and how its chunks are to be encoded.

    Attributes:
        why: What it rests on, in words.
        classes: Of the 256 bytes.
        cuts: Pairs of classes between which text is cut.
        solid: Classes that may stand on either side of a single space that is cut before.
        dropped: Whether the tokenizer drops blanks.
        wide: Whether characters above U+007F are solid too.
        prepends: The normalizer puts a mark before every text, so that a chunk is encoded without
            its space; documents that begin with a space are encoded whole.
        literals: So are, with `prepends`, documents that hold one of these.
        words: How its chunks may be encoded together.
    """

    why: str
    classes: tuple[int, ...]
    cuts: frozenset[tuple[int, int]] = frozenset()
    solid: frozenset[int] = frozenset()
    dropped: bool = False
    wide: bool = False
    prepends: bool = False
    literals: tuple[str, ...] = ()
    words: Words | None = None

    def of_bytes(self) -> ChunkRule:
        """The rule as the counter takes it: sets of classes as bits."""
        cut = [0] * CLASSES
        for before, after in self.cuts:
            cut[before] |= 1 << after
        return ChunkRule(
            byte_class=self.classes,
            cut=tuple(cut),
            solid=_bits(self.solid),
            drop=_bits({DROP} if self.dropped else ()),
            guard=_bits({GUARD}),
            word=_bits(self.words.classes if self.words else ()),
            wide=self.wide,
            spaces=not self.dropped,
        )


def _bits(classes: Iterable[int]) -> int:
    return sum(1 << one for one in classes)


def byte_classes(
    letters: str = "", digits: str = "", punctuation: str = "", quotes: str = "", blanks: str = ""
) -> list[int]:
    """The class of each byte; solid ASCII characters not named are punctuation."""
    classes = [OTHER] * 128 + [WIDE] * 128
    for letter in ASCII_SOLID:
        classes[ord(letter)] = PUNCT
    groups = ((letters, LETTER), (digits, DIGIT), (punctuation, PUNCT), (quotes, QUOTE))
    for group, one in (*groups, (blanks, BLANK), (" ", SPACE)):
        for letter in group:
            classes[ord(letter)] = one
    return classes
