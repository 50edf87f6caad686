"""How a corpus is read, and what becomes of the rows of it that cannot be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from outdim.corpus.texts import Accounting
from outdim.errors import ArgumentError, DataError


@dataclass(frozen=True)
class ReadOptions:
    """How a corpus is read; :func:`outdim.open_corpus` says what each of them means."""

    column: str = "text"
    name: str | None = None
    split: str = "train"
    min_chars: int = 0
    on_error: str = "fail"
    unit_bytes: int = 32 << 20

    def __post_init__(self) -> None:
        if self.on_error not in ("fail", "skip"):
            raise ArgumentError(f"on_error: expected 'fail' or 'skip', got {self.on_error!r}")
        if self.unit_bytes < 1:
            raise ArgumentError(f"unit_bytes: expected at least 1, got {self.unit_bytes}")


class Problems:
    """Rows and files that cannot be read: each an error, or left out and entered in an account."""

    def __init__(self, account: Accounting, on_error: str):
        self.account = account
        self.fatal = on_error == "fail"

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
            raise DataError(f"{place()}: {reason}: {details}. {advice} with on_error='skip'")
        room = self.account.has_room
        self.account.skip(reason, f"{place()}: {reason}: {details}" if room else None, rows)
