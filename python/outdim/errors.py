"""The errors outdim raises on purpose, each with the exit code of the command line."""

from __future__ import annotations

import signal
from collections.abc import Iterable
from typing import TypeVar

T = TypeVar("T")


class OutdimError(Exception):
    """Base class of every error that outdim raises on purpose."""

    exit_code = 3


class ArgumentError(OutdimError, ValueError):
    """An argument has a wrong value or shape."""

    exit_code = 2


class DtypeError(OutdimError, TypeError):
    """An argument has a wrong dtype or lies on a wrong kind of device."""

    exit_code = 2


class DataError(OutdimError, ValueError):
    """The data, the tokenizer or the model cannot be used as asked."""

    exit_code = 3


class EmptyCorpusError(DataError):
    """There is no token in all of the data."""


class BackendError(OutdimError, RuntimeError):
    """The environment lacks something: the compiled module, CUDA, an optional package."""

    exit_code = 3


class PartialRunError(OutdimError, RuntimeError):
    """Some shards of a run are missing; what is there is intact."""

    exit_code = 4


class ResumeError(OutdimError, RuntimeError):
    """A run directory belongs to other inputs or options than those asked for."""

    exit_code = 5


class Interrupted(OutdimError):  # noqa: N818 - what happened is no error
    """SIGINT or SIGTERM came; everything committed is intact and the run can go on."""

    def __init__(self, signum: int) -> None:
        super().__init__(f"interrupted by {signal.Signals(signum).name}")
        self.signum = signum
        self.exit_code = 128 + signum

    def __reduce__(self) -> tuple[type[Interrupted], tuple[int]]:
        return type(self), (self.signum,)


def one_of(name: str, given: T, known: Iterable[T]) -> T:
    """What was given, if it is known.

    Raises:
        ArgumentError: It is not; the error says what is.
    """
    among = list(known)
    if given not in among:
        raise ArgumentError(f"{name}: expected one of {', '.join(map(str, among))}, got {given!r}.")
    return given
