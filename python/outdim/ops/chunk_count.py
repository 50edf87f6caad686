"""Counts of the distinct chunks of text, each given token ids once: the base of exact counting.

Unlike the other ops it keeps state, on the CPU, and has no other backend: without the compiled
module `outdim.counting` encodes every document instead. csrc/core/chunk_count.h says how it works.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from outdim.errors import ArgumentError, BackendError, DtypeError
from outdim.ops._binding import core, import_error

CLASSES = 16  # of bytes; sets of classes are bit masks
JOINTS = 4

Int64s = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class ChunkRule:
    """Where text is cut into chunks.

    Attributes:
        byte_class: Class of each of the 256 bytes, below 16.
        cut: ``cut[p]`` bit c: a cut between a byte of class p and one of class c; [16].
        solid: Classes that may stand on either side of a single space that is cut before.
        drop: Classes of bytes that belong to no chunk and always end one.
        guard: From such a byte to the next space cut or dropped byte, `cut` is not applied.
        word: Classes of the bytes of words.
        wide: Characters above U+007F are solid too, unless blank, invisible or U+2581.
        spaces: Cut before a single space between two solid characters.
    """

    byte_class: tuple[int, ...]
    cut: tuple[int, ...] = (0,) * CLASSES
    solid: int = 0
    drop: int = 0
    guard: int = 0
    word: int = 0
    wide: bool = False
    spaces: bool = False

    def __post_init__(self) -> None:
        for name, size, limit in (("byte_class", 256, CLASSES), ("cut", CLASSES, 1 << CLASSES)):
            values = getattr(self, name)
            if len(values) != size or not all(0 <= value < limit for value in values):
                raise ArgumentError(f"{name}: expected {size} numbers below {limit}, got {values}")


@dataclass
class ChunkTexts:
    """Documents to be counted: document i is ``data[starts[i]:ends[i]]``.

    Attributes:
        data: uint8, UTF-8.
        starts: int64 [n]; a copy is kept and moved on as documents are counted, so that counting
            can stop at a full memory and go on.
        ends: int64 [n].
    """

    data: NDArray[np.uint8]
    starts: Int64s
    ends: Int64s
    _inner: Any = field(init=False, repr=False)

    def __post_init__(self) -> None:
        _check("data", self.data, np.uint8)
        _check("starts", self.starts, np.int64)
        _check("ends", self.ends, np.int64)
        if len(self.starts) != len(self.ends):
            raise ArgumentError(
                f"ends: expected {len(self.starts)} like starts, got {len(self.ends)}"
            )
        if len(self.starts) and not (
            self.starts.min() >= 0
            and self.ends.max() <= self.data.size
            and (self.starts <= self.ends).all()
        ):
            raise ArgumentError(
                f"starts, ends: expected 0 <= start <= end <= {self.data.size}, the size of data"
            )
        self.data, self.ends = np.ascontiguousarray(self.data), np.ascontiguousarray(self.ends)
        self.starts = self.starts.copy()
        self._inner = _core().ChunkTexts(
            _address(self.data),
            self.data.size,
            _address(self.starts),
            _address(self.ends),
            len(self.starts),
        )


class FreshChunks(NamedTuple):
    """Chunks without ids: ``data[starts[i]:starts[i + 1]]`` is one and its separator.

    They come joint by joint, ``of_joint`` [4] of each: those that may stand side by side as their
    ids tell where each begins, those that a separator with a space keeps apart, those that one of
    a class keeps apart, and those that must be tokenised alone.
    """

    data: bytes
    starts: Int64s
    of_joint: Sequence[int]


class ChunkCounter:
    """Counts chunks until ``memory_bytes`` are used; keeps each distinct chunk and its ids once.

    Args:
        rule: Where text is cut.
        threads: At least 1; they do not change a result.
        memory_bytes: Bound of chunks, counts and ids.

    Raises:
        BackendError: The compiled module is not there.

    Example:
        >>> rule = ChunkRule(byte_class=tuple(int(b == 32) for b in range(256)), drop=0b10)
        >>> counter = ChunkCounter(rule, threads=1, memory_bytes=1 << 20)
        >>> text = np.frombuffer(b"a rose is a rose", np.uint8)
        >>> counter.add(ChunkTexts(text, np.array([0]), np.array([16])))
        True
        >>> fresh = counter.fresh(["", "", "", ""], joint_class=1)
        >>> distinct = [fresh.data[i:j] for i, j in zip(fresh.starts, fresh.starts[1:])]
        >>> sorted(distinct)
        [b'a', b'is', b'rose']
        >>> counter.learn(np.array([len(chunk) for chunk in distinct], np.int32), np.arange(4))
        >>> counts = np.zeros(5, np.int64)
        >>> counter.fold(counts), counts.tolist()  # an id here is the length of a word
        (5, [0, 2, 1, 0, 2])
    """

    def __init__(self, rule: ChunkRule, threads: int, memory_bytes: int) -> None:
        if threads < 1:
            raise ArgumentError(f"threads: expected at least 1, got {threads}")
        module = _core()
        compiled = module.ChunkRule(
            rule.byte_class,
            rule.cut,
            rule.solid,
            rule.drop,
            rule.guard,
            rule.word,
            rule.wide,
            rule.spaces,
        )
        self._inner = module.ChunkCounter(compiled, threads, memory_bytes)
        self._unlearnt = 0
        self._vocab_size = 0  # of the ids learnt

    def __len__(self) -> int:
        """Distinct chunks at hand."""
        return int(self._inner.chunks())

    @property
    def memory_bytes(self) -> int:
        """Bytes that chunks, counts and ids take."""
        return int(self._inner.memory_bytes())

    def add(self, texts: ChunkTexts) -> bool:
        """Count chunks; False when memory was full: fold, clear, and add the same texts again."""
        return bool(self._inner.add(texts._inner))

    def fresh(self, separators: Sequence[str], joint_class: int) -> FreshChunks:
        """The chunks that have no ids, each followed by the separator of its joint, [4].

        ``joint_class`` is the class of the separator of the third. Nothing may be added between
        this and `learn`.
        """
        if len(separators) != JOINTS:
            raise ArgumentError(f"separators: expected {JOINTS}, got {len(separators)}")
        data, starts, of_joint = self._inner.fresh(list(separators), joint_class)
        found = FreshChunks(data, np.frombuffer(starts, np.int64), of_joint)
        self._unlearnt = len(found.starts) - 1
        return found

    def learn(self, ids: NDArray[np.int32], offsets: Int64s) -> None:
        """Give ids to the chunks of `fresh`: chunk i has ``ids[offsets[i]:offsets[i + 1]]``."""
        _check("ids", ids, np.int32)
        _check("offsets", offsets, np.int64)
        if len(offsets) != self._unlearnt + 1:
            raise ArgumentError(
                f"offsets: expected {self._unlearnt + 1}, one more than chunks of `fresh`, got "
                f"{len(offsets)}"
            )
        if offsets[0] != 0 or offsets[-1] != len(ids) or (np.diff(offsets) < 0).any():
            raise ArgumentError(f"offsets: expected to go from 0 up to {len(ids)}, the ids")
        if len(ids):
            if ids.min() < 0:
                raise ArgumentError(f"ids: expected 0 or more, got {ids.min()}")
            self._vocab_size = max(self._vocab_size, int(ids.max()) + 1)
        ids, offsets = np.ascontiguousarray(ids), np.ascontiguousarray(offsets)
        self._inner.learn(_address(ids), _address(offsets), self._unlearnt)
        self._unlearnt = 0

    def fold(self, counts: Int64s) -> int:
        """``counts[id] += count`` for the ids of every chunk, then forget the counts.

        Returns how many chunks these were.
        """
        self._check_counts("counts", counts)
        return int(self._inner.fold(_address(counts), len(counts)))

    def count_documents(self, texts: ChunkTexts, documents: Int64s) -> None:
        """``documents[id] += 1`` for every document with the id; all its chunks have ids."""
        self._check_counts("documents", documents)
        self._inner.count_documents(texts._inner, _address(documents), len(documents))

    def clear(self) -> None:
        """Forget all chunks."""
        self._inner.clear()
        self._unlearnt = self._vocab_size = 0

    def _check_counts(self, name: str, counts: Int64s) -> None:
        _check(name, counts, np.int64)
        if not (counts.flags.c_contiguous and counts.flags.writeable):
            raise ArgumentError(f"{name}: expected a contiguous array that can be written to")
        if len(counts) < self._vocab_size:
            raise ArgumentError(
                f"{name}: expected at least {self._vocab_size}, one for every id that was learnt, "
                f"got {len(counts)}"
            )


def _core() -> Any:
    module = core()
    if module is None:
        raise BackendError(
            f"counting by chunks needs the compiled module outdim._core, which cannot be imported "
            f"({import_error()}); build it with `pip install .` from the sources, or count with "
            'method="encode"'
        )
    return module


def _check(name: str, value: Any, dtype: type[np.generic]) -> None:
    kind = np.dtype(dtype)
    if not isinstance(value, np.ndarray) or value.dtype != kind:
        got = value.dtype if isinstance(value, np.ndarray) else type(value).__name__
        raise DtypeError(f"{name}: expected an array of {kind}, got {got}")
    if value.ndim != 1:
        raise ArgumentError(f"{name}: expected one dimension, got shape {list(value.shape)}")


def _address(array: NDArray[Any]) -> int:
    return int(array.__array_interface__["data"][0])
