"""The pages of a parquet file by their headers alone, which pyarrow does not show.

Arrow unpacks a page whole, and what the footer says of a column does not tell how large one is: so
their headers are read first, a few bytes each (structs of Thrift's compact protocol).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

_BY_DICTIONARY = (2, 8)  # encodings of values as their numbers in the dictionary
_BY_PREFIX = 7  # a value is told by how much of the one before it begins with
# Fields of a page's header, and of the header of its kind inside it.
_UNPACKED, _PACKED, _DATA, _DICTIONARY, _DATA_2 = 2, 3, 5, 7, 8
_NUMBER, _ENCODING = 1, {_DATA: 2, _DICTIONARY: 2, _DATA_2: 4}


class Page(NamedTuple):
    """What its header says.

    Attributes:
        unpacked_bytes: Its size once unpacked.
        values: How many it holds.
        encoding: Number of the way in which they are written.
        is_dictionary: Whether other pages refer to its values.
    """

    unpacked_bytes: int
    values: int
    encoding: int
    is_dictionary: bool

    @property
    def arrow_bytes(self) -> int:
        """What Arrow takes for it; the values of a dictionary are copied once more."""
        return self.unpacked_bytes * (2 if self.is_dictionary else 1)

    @property
    def by_dictionary(self) -> bool:
        """Whether it holds no values but their numbers in the dictionary, or is the dictionary."""
        return self.is_dictionary or self.encoding in _BY_DICTIONARY

    @property
    def by_prefix(self) -> bool:
        """Whether values may take much more than the page, each repeating the one before."""
        return self.encoding == _BY_PREFIX


def pages(file: BinaryIO, chunk: Any) -> Iterator[Page]:
    """The pages of a column chunk, by its metadata; they end where a header is damaged."""
    at = chunk.data_page_offset
    if chunk.has_dictionary_page and 0 < chunk.dictionary_page_offset < at:
        at = chunk.dictionary_page_offset
    left = chunk.num_values
    while left > 0:
        file.seek(at)
        try:
            header = _struct(file)
            inside = next(key for key in _ENCODING if key in header)
            about = header[inside]
            unpacked, packed = header[_UNPACKED], header[_PACKED]
            page = Page(unpacked, about[_NUMBER], about[_ENCODING[inside]], inside == _DICTIONARY)
        except (EOFError, KeyError, StopIteration, TypeError, RecursionError):
            return  # Arrow says what is wrong once it gets there
        if unpacked < 0 or packed < 0 or page.values < 0:
            return
        yield page
        left -= 0 if page.is_dictionary else page.values
        at = file.tell() + packed


def _struct(file: BinaryIO) -> dict[int, Any]:
    """The fields of a struct by number; the content of strings is left out."""
    fields: dict[int, Any] = {}
    number = 0
    while head := _byte(file):
        step, kind = head >> 4, head & 15
        number = number + step if step else _signed(file)
        fields[number] = _value(file, kind)
    return fields


def _value(file: BinaryIO, kind: int) -> Any:
    if kind in (1, 2):  # true, false
        return kind == 1
    if kind == 3:
        return _byte(file)
    if kind in (4, 5, 6):  # integers
        return _signed(file)
    if kind == 7:  # a double
        return file.seek(8, 1)
    if kind == 8:  # bytes
        return file.seek(_unsigned(file), 1)
    if kind in (9, 10):  # lists and sets: no header has any, but readers would skip them
        head = _byte(file)
        for _ in range(head >> 4 if head >> 4 < 15 else _unsigned(file)):
            _element(file, head & 15)
        return None
    if kind == 11:  # maps, likewise
        if size := _unsigned(file):
            kinds = _byte(file)
            for _ in range(size):
                _element(file, kinds >> 4)
                _element(file, kinds & 15)
        return None
    if kind == 12:
        return _struct(file)
    raise KeyError(kind)


def _element(file: BinaryIO, kind: int) -> None:
    _value(file, 3 if kind in (1, 2) else kind)  # a truth value has a byte of its own here


def _signed(file: BinaryIO) -> int:
    number = _unsigned(file)
    return (number >> 1) ^ -(number & 1)


def _unsigned(file: BinaryIO) -> int:
    number = shift = 0
    while True:
        byte = _byte(file)
        number |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return number
        if shift > 63:
            raise EOFError


def _byte(file: BinaryIO) -> int:
    byte = file.read(1)
    if not byte:
        raise EOFError
    return byte[0]
