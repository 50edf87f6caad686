"""What one shard of each stage computes. A `Worker` holds what is expensive to load."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cached_property
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import torch

from outdim.run.plan import Plan, Shard
from outdim.run.shards import ShardState

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from outdim.analysis.forward import Forward
    from outdim.analysis.statistics import PointStatistics
    from outdim.corpus import Corpus
    from outdim.counting import TokenCounter
    from outdim.models import Architecture, Point
    from outdim.stats import Covariates
    from outdim.tokens import TokenFrequencies

#: Called with the number of tokens whenever some are done.
Progress = Callable[[int], None]


class Interrupted(BaseException):
    """SIGINT or SIGTERM came; everything committed is intact and the run can go on."""

    def __init__(self, signum: int) -> None:
        super().__init__(f"interrupted by {signal.Signals(signum).name}")
        self.exit_code = 128 + signum


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
        """Take SIGINT and SIGTERM while the block runs; a second one of a kind kills as usual."""

        def handle(signum: int, frame: FrameType | None) -> None:
            self.signum = signum
            signal.signal(signum, signal.SIG_DFL)

        kinds = (signal.SIGINT, signal.SIGTERM)
        before = {kind: signal.signal(kind, handle) for kind in kinds}
        try:
            yield self
        finally:
            for kind, handler in before.items():
                signal.signal(kind, handler)


class Worker:
    """Computes shards of one plan in this process.

    Args:
        run: The run directory.
        plan: Its plan.
        device: Where the model runs.
        stop: Checked between batches.
        memory: Bytes of the table of chunks that counting may take.
        counters: Threads that count; None takes all cores.
    """

    def __init__(
        self,
        run: Path,
        plan: Plan,
        device: str = "cpu",
        stop: StopSignal | None = None,
        memory: int = 1 << 30,
        counters: int | None = None,
    ) -> None:
        self.run = run
        self.plan = plan
        self.device = device
        self.stop = stop or StopSignal()
        self.memory = memory
        self.counters = counters
        self._options = plan.options
        torch.set_num_threads(plan.options.get("threads", 1))

    def compute(
        self, stage: str, shard: Shard, progress: Progress = lambda tokens: None
    ) -> ShardState:
        """The state of ``shard``: a function of the plan and the shard, if memory does not run out.

        Raises:
            Interrupted: The process was asked to stop; nothing of this shard counts.
            DataError: Broken data and ``on_error`` is ``fail``.
        """
        self.stop.check()
        return {"count": self._count, "correlate": self._correlate}[stage](shard, progress)

    @cached_property
    def corpus(self) -> Corpus:
        """The corpus of the plan."""
        from outdim.run.setup import open_planned_corpus

        return open_planned_corpus(self._options)

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        """The tokenizer of the plan."""
        from outdim.tokens import load_tokenizer

        return load_tokenizer(self._options["tokenizer"])

    @cached_property
    def model(self) -> PreTrainedModel:
        """The model of the plan, on the device."""
        from outdim.models import load_model

        return load_model(self._options["model"], dtype=self._options["dtype"], device=self.device)

    @cached_property
    def forward(self) -> Forward:
        """Runs batches; what it learns of the memory serves every shard."""
        from outdim.analysis.forward import Forward

        return Forward(self.model, self._autocast)

    @cached_property
    def architecture(self) -> Architecture:
        """Where the model can be observed."""
        from outdim.models import architecture

        return architecture(self.model)

    @cached_property
    def frequencies(self) -> TokenFrequencies:
        """The merged counts of the stage before, or those that were given."""
        from outdim.tokens import TokenFrequencies

        return TokenFrequencies.from_parquet(self.run / "counts.parquet")

    @cached_property
    def covariates(self) -> Covariates:
        """The standard covariates of the run's counts."""
        from outdim.analysis.correlate import frequency_covariates

        return frequency_covariates(self.frequencies)

    @cached_property
    def points(self) -> tuple[Point, ...]:
        """The points the plan names."""
        return self.architecture.select(self._options["points"])

    def statistics(self) -> PointStatistics:
        """Empty statistics of the points that the plan names."""
        from outdim.analysis.statistics import PointStatistics

        return PointStatistics(
            self.points,
            self.covariates,
            accum=self._options["accum"],
            token_dims=self._options["per_token"],
            device=self.device,
        )

    @cached_property
    def counter(self) -> TokenCounter:
        """Counts by the plan's method; it may keep what it has tokenised from shard to shard."""
        from outdim.counting import CountingMethod, TokenCounter

        options = self._options
        method = CountingMethod(**options["method"])
        return TokenCounter(
            self.tokenizer,
            method,
            documents=options["documents"],
            memory_bytes=self.memory,
            workers=self.counters,
        )

    def _count(self, shard: Shard, progress: Progress) -> ShardState:
        from outdim.corpus import Unit

        counted = self.counter.count(self.corpus, [Unit(**shard.unit)], self.stop.check)
        progress(counted.accounting.tokens)
        tensors = {"counts": torch.from_numpy(counted.counts)}
        if counted.documents is not None:
            tensors["documents"] = torch.from_numpy(counted.documents)
        return ShardState(tensors, counted.accounting.as_dict())

    def _correlate(self, shard: Shard, progress: Progress) -> ShardState:
        from outdim.corpus import Accounting, Unit
        from outdim.models import observe
        from outdim.tokens import batches, encode_pieces

        options = self._options
        statistics = self.statistics()
        unit = Unit(**shard.unit)
        read = Accounting()
        documents = self.corpus.read(unit, read)
        pieces = encode_pieces(documents, self.tokenizer, options["max_length"])
        padded = 0
        with (
            torch.inference_mode(),
            observe(self.model, self.points, statistics, fused=options["fused"]),
        ):
            for batch in batches(
                pieces, options["token_budget"], pad_id=self.tokenizer.pad_token_id or 0
            ):
                self.stop.check()
                self.forward(batch, statistics)
                padded += batch.padded
                progress(batch.tokens)
        account = {"padded": padded, "skipped": dict(sorted(read.skipped.items()))}
        return ShardState(statistics.state_dict(), account)

    def _autocast(self) -> AbstractContextManager[Any]:
        kind = self._options["autocast"]
        if not kind:
            return nullcontext()
        return torch.autocast(torch.device(self.device).type, dtype=getattr(torch, kind))
