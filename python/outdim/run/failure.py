"""Errors on their way from one process to another."""

from __future__ import annotations

import pickle
import traceback
from dataclasses import dataclass

from outdim.errors import OutdimError


@dataclass(frozen=True)
class Failure:
    """An error of another process, as bytes of which any process can make one again.

    Attributes:
        pickled: The error; of one that cannot be pickled, another that says the same.
    """

    pickled: bytes

    @classmethod
    def of(cls, error: Exception) -> Failure:
        """Take an error where it was raised."""
        said = "".join(traceback.format_exception(error))
        if not isinstance(error, OutdimError):  # these say all in their message
            error.add_note(f"Raised in another process:\n{said}")
        try:
            pickled = pickle.dumps(error)
            pickle.loads(pickled)
        except Exception:  # of the classes of others, whatever they do
            pickled = pickle.dumps(RuntimeError(f"Raised in another process:\n{said}"))
        return cls(pickled)

    def error(self) -> Exception:
        """The error, to be raised here."""
        found: Exception = pickle.loads(self.pickled)  # from a process of our own
        return found
