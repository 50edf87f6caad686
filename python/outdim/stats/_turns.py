"""Accumulators that several threads may use: their calls take turns."""

import functools
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from outdim.ops._dispatch import keep_to_one_thread_after_fork

Method = TypeVar("Method", bound=Callable[..., Any])


class Turns:
    """Gives an object a lock of its own, which copies and pickles leave out."""

    def __init__(self) -> None:
        self._lock = threading.RLock()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._lock = threading.RLock()


def in_turn(method: Method) -> Method:
    """Let calls of methods of one object take turns, and work in a child of fork()."""

    @functools.wraps(method)
    def turn(self: Any, *args: Any, **kwargs: Any) -> Any:
        keep_to_one_thread_after_fork()
        with self._lock:
            return method(self, *args, **kwargs)

    return turn  # type: ignore[return-value]
