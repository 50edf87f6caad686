"""How much work a run is, how far it is, and what is left of it, on stderr."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tqdm import tqdm

from outdim.run.worker import forwards_of
from outdim.text import counted, duration

if TYPE_CHECKING:
    from outdim.run.plan import Entry
    from outdim.run.worker import Worker

_DRAWN_S = 0.2  # variants of small models come by the thousand a second
_LONG_S = 60.0  # of what is left, to be worth a line
_SURE_S = 5.0  # of work behind the start, to be worth an estimate
_LONG_START_S = 300.0  # beside which what a process needs to start is little
_BYTES_PER_TOKEN = 4  # of English, about


def outlook(entries: Sequence[Entry], shards: Sequence[int]) -> str:
    """How often variants of a model read the text, in a sentence; "" where it is read once.

    For steps that are computed together.
    """
    units = [entries[0].work[shard] for shard in shards]
    forwards = [forwards_of(entries, unit) for unit in units]
    if sum(forwards) == len(units):
        return ""
    size = sum(n * (unit.get("size_bytes") or 0) for n, unit in zip(forwards, units, strict=True))
    tokens = f", about {size // _BYTES_PER_TOKEN:,} tokens in all" if size else ""
    return (
        f"{'+'.join(entry.step for entry in entries)}: {counted(len(units), 'shard')}, "
        f"{sum(forwards):,} forwards of the model and its variants over what a shard reads{tokens}"
    )


def read_once(entries: Sequence[Entry], shards: Sequence[int]) -> bool:
    """Whether shards are pieces of text that one model reads, so that tokens/s say how fast it is.

    Small texts of items, or of prompts, are read in less time than a model is.
    """
    units = [entries[0].work[shard] for shard in shards]
    return all("size_bytes" in unit and forwards_of(entries, unit) == 1 for unit in units)


class Progress:
    """Tokens/s, time left and shard on stderr, drawn where that is a terminal.

    Where it is none, what is left is said once, as soon as that can be told.

    Args:
        worker: Whose study it is.
        steps: That are computed together.
        shards: That are computed.
        at_once: By so many processes.
    """

    def __init__(
        self, worker: Worker, steps: Sequence[str], shards: Sequence[int], *, at_once: int = 1
    ) -> None:
        work = worker.study[steps[0]].work
        self._sizes = [int(unit.get("size_bytes") or 1) for unit in work]
        first = os.environ.get("LOCAL_RANK", "0") == "0"
        own = sum(self._sizes[shard] for shard in shards)
        self._worker, self._name = worker, "+".join(steps)
        self._bar = tqdm(
            total=own,
            desc=self._name,
            unit="B",
            unit_scale=True,
            disable=None if first else True,  # one bar a terminal
            leave=False,
        )
        self.total_tokens = 0
        self._begin = time.monotonic()
        self._warm = self._begin, 0  # when every process had started, and the bytes until then
        self._done = 0  # shards
        self._shards = [len(work) - len(shards), len(work)]
        self._at_once, self._tells = at_once, first and self._bar.disable
        self._planned = own + sum(self._sizes[max(shards, default=0) + 1 :])  # with later stages
        self._advice: str | None = None
        self._committed = 0  # bytes
        self.current = 0  # the shard at work
        self._drawn = 0.0

    def tokens(self, count: int) -> None:
        """So many more tokens are done."""
        self.total_tokens += count
        if self._advice is None and not self._bar.disable:  # at the first batch: the model is there
            self._advice = self._worker.advice()
        self._say(*([self._advice] if self._advice else []))

    def note(self, share: float, said: str) -> None:
        """So much of the shard at work is done, about; the time left follows."""
        if self._bar.disable or time.monotonic() < self._drawn + _DRAWN_S:
            return
        done = self._committed + int(share * self._sizes[self.current])
        self._bar.update(done - self._bar.n)
        self._say(said)

    def _say(self, *last: str) -> None:
        rate = self.total_tokens / max(time.monotonic() - self._begin, 1e-9)
        shard = f"shard {self._shards[0]}/{self._shards[1]}"
        speed = [f"{rate:,.0f} tokens/s"] if self.total_tokens else []  # none within the first
        self._bar.set_postfix_str(", ".join([*speed, shard, *last]))
        self._drawn = time.monotonic()

    def shard(self, shard: int) -> None:
        """One more shard is committed."""
        self._shards[0] += 1
        self._committed += self._sizes[shard]
        self._bar.update(self._committed - self._bar.n)
        self._done += 1
        if self._tells:
            self._say_what_is_left()

    def _say_what_is_left(self) -> None:
        """Once, in proportion to shards behind the first of every process, in which it starts."""
        now = time.monotonic()
        began, before = self._warm
        long_enough = _LONG_START_S if self._done <= self._at_once else _SURE_S
        if self._done < self._at_once or now - began < long_enough:
            if self._done == self._at_once:
                self._warm = now, self._committed
            return
        self._tells = False
        seconds = (now - began) * (self._planned - self._committed) / (self._committed - before)
        if seconds >= _LONG_S:
            print(
                f"outdim: {self._name}: {counted(self._done, 'shard')} done, all others together "
                f"will take about {duration(seconds)}",
                file=sys.stderr,
            )

    def close(self) -> None:
        """Remove the bar."""
        self._bar.close()
