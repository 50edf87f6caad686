"""How a corpus is read, and what becomes of the rows and files of it that cannot be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from outdim.corpus.files import printable
from outdim.corpus.texts import Accounting
from outdim.errors import ArgumentError, DataError

_SKIP = "with on_error='skip'"


@dataclass(frozen=True)
class ReadOptions:
    """How a corpus is read; `outdim.open_corpus` says what each of them means."""

    column: str = "text"
    name: str | None = None
    split: str = "train"
    min_chars: int = 0
    max_document_bytes: int = 64 << 20
    on_error: str = "fail"
    unit_bytes: int = 32 << 20

    def __post_init__(self) -> None:
        if self.on_error not in ("fail", "skip"):
            raise ArgumentError(f"on_error: expected 'fail' or 'skip', got {self.on_error!r}")
        for name in ("max_document_bytes", "unit_bytes"):
            if getattr(self, name) < 1:
                raise ArgumentError(f"{name}: expected at least 1, got {getattr(self, name)}")


class Problems:
    """Rows and files that cannot be read: each an error, or left out and entered in an account."""

    def __init__(self, account: Accounting, options: ReadOptions):
        self.account = account
        self.fatal = options.on_error == "fail"
        self.longest = options.max_document_bytes

    def row(
        self,
        reason: str,
        place: Callable[[], str],
        details: str,
        *,
        rows: int = 1,
        advice: str = "Mend the file, or leave such rows out",
    ) -> None:
        """One row, or ``rows`` of them; ``place`` is only asked for where it will be read."""
        if self.fatal:
            raise DataError(printable(f"{place()}: {reason}: {details}. {advice} {_SKIP}"))
        said = f"{place()}: {reason}: {details}" if self.account.has_room else ""
        self.account.skip(reason, printable(said) or None, rows)

    def too_long(self, place: Callable[[], str], rows: int = 1) -> None:
        """Rows that are longer than is allowed."""
        self.row(
            "too long",
            place,
            f"more than {self.longest} bytes",
            rows=rows,
            advice="Raise max_document_bytes, or leave such rows out",
        )

    def file(
        self,
        reason: str,
        path: str,
        details: str,
        *,
        rows: int = 1,
        advice: str = "Mend it, or leave it out",
    ) -> None:
        """A whole file, and the number of its rows where that is known."""
        said = printable(f"{path}: {details}")
        if self.fatal:
            raise DataError(f"source: {said}. {advice} {_SKIP}")
        self.account.skip(reason, said, rows)
