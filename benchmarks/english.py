"""English-like text of any size whose vocabulary grows as that of real text does.

Words are drawn by rank from a law with two regimes, as measured for large corpora (Ferrer i Cancho
and Sole 2001): p(r) ~ (r + 2.7)^-1.05 up to rank 8,000, then r^-1.8, so that the number of distinct
words grows like N^0.55 without end. The first ranks are the words of the documentation inside
Python, most frequent first; every later rank has a word of its own, spelled with English syllables.
Words are capitalized at sentence starts and, by rank, as names; 3 % are numbers; punctuation,
quotes, brackets, hyphens and 's are sprinkled on in about the proportions of Wikipedia. A line is a
paragraph of about 80 words.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import numpy as np
from outdim.corpus.formats.python_docs import python_documents

_HEAD_RANKS, _HEAD_SHIFT, _HEAD_POWER, _TAIL_POWER = 8000, 2.7, 1.05, 1.8
_BLOCK_WORDS = 1_000_000
_BEFORE = ["", "(", '"', "-"]
_BEFORE_SHARE = [0.984, 0.006, 0.006, 0.004]
_AFTER = ["", ",", ".", ";", ":", "'s", ")", '"', "?", "!", ',"', '."']
_AFTER_SHARE = [0.873, 0.052, 0.045, 0.003, 0.003, 0.009, 0.006, 0.004, 0.001, 0.001, 0.002, 0.001]
_SENTENCE_ENDS = [2, 8, 9, 11]  # of _AFTER
_BLANKS = [" ", "\n", ""]
_SYLLABLES = re.findall(
    "[a-z]+",
    """
    an ar ba be bel ber bo bra bri ca car cer cha chi cla co con cor cra da de del di do dra du el
    en er es fa fi flo for ga ge gra gri ha hen her ho il in jo ka ke kin la lan le len li lin lo lu
    ma man mar me men mi mo mon na ne ni no nor o or pa par pe per pi pla po pra pro ra re ri ro ros
    ru sa san se sen sha she si so sta ste stra su ta tan te ten ter ti to tor tra tri tu u va ve
    ver vi vo wa wen wi wo za
    """,
)
_ENDINGS = re.findall(
    "[a-z]+",
    """
    s ed ing er ly al ic ion ment ness ous ville ton berg ski son ia um a e y n t
    """,
)


class Words:
    """The word of every rank, and draws from the law."""

    def __init__(self, seed: int = 1):
        self._random = np.random.default_rng(seed)
        found = Counter(re.findall(r"[a-z]+", " ".join(python_documents()).lower()))
        self._real = [word for word, _ in found.most_common()]
        self._known: dict[int, str] = {}
        head = (np.arange(_HEAD_RANKS) + 1 + _HEAD_SHIFT) ** -_HEAD_POWER
        tail = head[-1] * _HEAD_RANKS / (_TAIL_POWER - 1)  # its integral from the last head rank on
        self._head_share = head.sum() / (head.sum() + tail)
        self._head_sum = np.cumsum(head) / head.sum()

    def draw(self, n: int) -> np.ndarray:
        """Ranks from 0, int64 [n]."""
        uniform = self._random.random(n)
        in_head = self._random.random(n) < self._head_share
        tail = _HEAD_RANKS * (1 - uniform) ** (-1 / (_TAIL_POWER - 1))
        return np.where(
            in_head, np.searchsorted(self._head_sum, uniform), np.minimum(tail, 2e9)
        ).astype(np.int64)

    def word(self, rank: int) -> str:
        """The word of a rank."""
        if rank < len(self._real):
            return self._real[rank]
        if rank not in self._known:
            self._known[rank] = self._spell(rank)
        return self._known[rank]

    def _spell(self, rank: int) -> str:
        code = rank - len(self._real)
        name = (code * 2654435761 >> 7) % 5 < 2
        parts = []
        code, ending = divmod(code, len(_ENDINGS))
        while code or len(parts) < 2:
            code, syllable = divmod(code, len(_SYLLABLES))
            parts.append(_SYLLABLES[(syllable * 53 + 17 * len(parts)) % len(_SYLLABLES)])
        word = "".join(reversed(parts)) + _ENDINGS[ending]
        return word.capitalize() if name else word


def write_english(path: Path, size_mb: float, seed: int = 1) -> None:
    """Write about ``size_mb`` megabytes (10^6 bytes) of text, a paragraph a line."""
    words = Words(seed)
    random = np.random.default_rng(seed + 1)
    written = 0
    with open(path, "wb") as file:
        while written < size_mb * 1e6:
            written += file.write(_block(words, random))


def _block(words: Words, random: np.random.Generator) -> bytes:
    """Some paragraphs: for every word what stands before it, itself, what follows, and a blank."""
    n = _BLOCK_WORDS
    ranks, places = np.unique(words.draw(n), return_inverse=True)
    spelled = [words.word(int(rank)) for rank in ranks]
    numbers = [_number(int(x)) for x in random.integers(0, 1 << 30, 4096)]
    pool = [*_BEFORE, *_AFTER, *_BLANKS, *spelled, *map(str.capitalize, spelled), *numbers]
    first_word = len(_BEFORE) + len(_AFTER) + len(_BLANKS)
    pieces = np.empty((n, 4), np.int64)
    before = random.choice(len(_BEFORE), n, p=_BEFORE_SHARE)
    after = random.choice(len(_AFTER), n, p=_AFTER_SHARE)
    starts = np.flatnonzero(np.isin(after[:-1], _SENTENCE_ENDS)) + 1
    ends_line = np.zeros(n, bool)
    ends_line[starts[::4] - 1] = ends_line[-1] = True
    pieces[:, 0] = before
    pieces[:, 1] = first_word + places
    pieces[starts, 1] += len(spelled)
    numeric = np.flatnonzero(random.random(n) < 0.03)
    pieces[numeric, 1] = first_word + 2 * len(spelled) + random.integers(0, 4096, len(numeric))
    pieces[:, 2] = len(_BEFORE) + after
    hyphen_next = np.append(before[1:] == _BEFORE.index("-"), False)
    blank = np.where(ends_line, 1, np.where(hyphen_next, 2, 0))
    pieces[:, 3] = len(_BEFORE) + len(_AFTER) + blank
    return _joined(pool, pieces.ravel())


def _joined(pool: list[str], pieces: np.ndarray) -> bytes:
    """The pieces of the pool, by number, one after the other."""
    sizes = np.array([len(text) for text in pool])
    offsets = np.cumsum(sizes) - sizes
    flat = np.frombuffer("".join(pool).encode("ascii"), np.uint8)
    lengths = sizes[pieces]
    ends = np.cumsum(lengths)
    at = np.repeat(offsets[pieces] - (ends - lengths), lengths) + np.arange(ends[-1])
    return flat[at].tobytes()


def _number(x: int) -> str:
    kind, value = x & 3, x >> 2
    if kind < 2:
        return str(1850 + value % 175)
    return str(value % 1000) if kind == 2 else f"{value % 400 + 1},{value // 400 % 1000:03d}"
