"""How a process is asked to stop, and how it is made to."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from outdim.errors import Interrupted

_KINDS = (signal.SIGINT, signal.SIGTERM)


class StopSignal:
    """Whether the process was asked to stop; checked between batches."""

    def __init__(self) -> None:
        self.signum = 0

    def check(self) -> None:
        """Raise `Interrupted` when a signal has come."""
        if self.signum:
            raise Interrupted(self.signum)

    @contextmanager
    def installed(self) -> Iterator[StopSignal]:
        """Take SIGINT and SIGTERM while the block runs; a second one ends the process at once.

        Handlers in Python run between two steps of the interpreter, so a thread that waits for the
        signal itself ends the process in the middle of a long call of native code, too. Native code
        that keeps the interpreter's lock, and the thread waiting, runs handlers now and then.
        """
        handled = 0

        def handle(signum: int, frame: FrameType | None) -> None:
            nonlocal handled
            handled += 1
            self.signum = signum
            if handled > 1:
                os._exit(128 + signum)

        reader, writer = socket.socketpair()
        writer.setblocking(False)
        threading.Thread(target=self._watch, args=(reader,), daemon=True).start()
        before = {kind: signal.signal(kind, handle) for kind in _KINDS}
        wakeup = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        try:
            yield self
        finally:
            signal.set_wakeup_fd(wakeup)
            for kind, handler in before.items():
                signal.signal(kind, handler)
            writer.close()  # which ends the thread

    def _watch(self, reader: socket.socket) -> None:
        seen = 0
        with reader:
            while received := reader.recv(1):
                if received[0] in _KINDS:
                    seen += 1
                    self.signum = received[0]
                if seen > 1:
                    os._exit(128 + received[0])
