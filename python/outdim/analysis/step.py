"""The contract: every analysis is a step, and the engine knows steps by nothing else.

A step is one class in one file. The same object runs in memory (the Python functions feed it) and
in a run (the engine adds plan, shards, merge, tables and report around it).
"""

from __future__ import annotations

import dataclasses
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, Self

from outdim.analysis.input_options import (
    MODEL_ON_TEXT,
    InputOptions,
    ObserveOptions,
    TextOptions,
    TokenizerOptions,
    option_names,
)
from outdim.analysis.inputs import Inputs
from outdim.errors import ArgumentError, EmptyCorpusError
from outdim.text import visible

if TYPE_CHECKING:
    import pyarrow as pa
    import torch

    from outdim.models import Ablation, Attention, Point
    from outdim.stats import PointMoments
    from outdim.tokens import Batch

#: Plain data: a unit of work, resolved options, an account.
Json = dict[str, Any]

#: Called with the number of tokens (or other items) whenever some are done.
Progress = Callable[[int], None]


class State(NamedTuple):
    """What a shard contributes: tensors that the step merges, and an account of what was read."""

    tensors: Mapping[str, torch.Tensor]
    account: Mapping[str, Any]


class Result(ABC):
    """What a step found. Frozen; made from the merged state alone.

    ``print(found)`` says in a few lines what was found, and what to beware of.

    Attributes:
        of_inputs: What a reader must know of what was read, where that is not in a manifest.
    """

    of_inputs: ClassVar[Sequence[str]] = ()

    def __str__(self) -> str:
        said = [f"- {sentence}" for sentence in self.headline()]
        if beware := dict.fromkeys([*self.of_inputs, *self.cautions()]):
            said += ["", "Beware:", *(f"- {sentence}" for sentence in beware)]
        return visible("\n".join(said), keep="\n")

    def beside(self, inputs: Inputs) -> Self:
        """This, with what a reader must know of what was read in memory."""
        vars(self)["of_inputs"] = tuple(inputs.cautions)
        return self

    @abstractmethod
    def tables(self) -> Mapping[str, pa.Table | Mapping[str, Any]]:
        """Files by stem: a table becomes ``.parquet``, a mapping ``.json``.

        Rows under ``stats`` have the tidy schema (`outdim.analysis.table.SCHEMA`) and share
        ``stats.parquet`` with those of the other steps.
        """

    @abstractmethod
    def headline(self) -> Sequence[str]:
        """What was found, the most telling first: its first sentence leads report and terminal."""

    def cautions(self) -> Sequence[str]:
        """What a reader must know before trusting the numbers, in sentences.

        One that takes the headline back is a `outdim.analysis.results.cautions.Doubt`: it stands
        beside the headline wherever that is shown.
        """
        return ()

    def account(self) -> Mapping[str, Any]:
        """Sections of the manifest."""
        return {}

    def __repr__(self) -> str:
        """Names of what it has, with those values that are short."""
        has = [
            f"{name}={value!r}" if _is_short(value) else name
            for name, value in vars(self).items()
            if name in getattr(self, "__dataclass_fields__", ())
        ]
        return f"<{type(self).__name__}: {', '.join(has)}; print() says what was found>"

    def __init_subclass__(cls, **given: Any) -> None:
        super().__init_subclass__(**given)
        if "__repr__" not in vars(cls):  # else a dataclass has one that prints every value
            cls.__repr__ = Result.__repr__  # type: ignore[method-assign]


_FEW, _SHORT = 8, 40  # in a line about a result


def _is_short(value: Any) -> bool:
    """Whether it is a number, a word or a few of these."""
    few = value if isinstance(value, tuple | list) and len(value) <= _FEW else [value]
    plain = all(isinstance(one, int | float | str) for one in few)
    return plain and len(repr(value)) <= _SHORT


class Step(ABC):
    """An analysis: options in, a mergeable state, a result out.

    Attributes:
        name: Of the step, the command and the states.
        Options: Frozen dataclass of its own options; command line, YAML, plan and help come from
            its fields and docstring.
        reads: The dataclasses of options of what it reads (`outdim.analysis.input_options`).
        needs: Steps whose merged result it reads. One whose options are all among its own gets them
            from it, and has no flags of its own there.
        wants: Steps that run beside it where they can.
        presentation: Options that change what is made of the states, but not the states.
        stays: Options whose defaults hang on what else was asked: once planned, they stay.
        ablates: Whether it measures what a model is without dimensions: an effect, which is told
            before what was only observed.
    """

    name: ClassVar[str]
    Options: ClassVar[type]
    reads: ClassVar[tuple[type[InputOptions], ...]] = ()
    needs: ClassVar[tuple[str, ...]] = ()
    wants: ClassVar[tuple[str, ...]] = ()
    presentation: ClassVar[tuple[str, ...]] = ()
    stays: ClassVar[tuple[str, ...]] = ()
    ablates: ClassVar[bool] = False

    def __init__(self, recorded: Mapping[str, Any], inputs: Inputs) -> None:
        self.recorded, self.inputs = recorded, inputs
        self.account: Json = {}

    @classmethod  # noqa: B027 - most have nothing to say
    def check(cls, options: Any, inputs: Inputs) -> None:
        """Say what can be known to be amiss before model and text are opened.

        Raises:
            ArgumentError: A value is out of range.
        """

    @classmethod
    def resolve(cls, options: Any, inputs: Inputs) -> Json:
        """Its own options with defaults filled in and ranges checked: what the plan records.

        Raises:
            ArgumentError: A value is out of range.
            DataError: The inputs cannot be used; nothing was written yet.
        """
        return dataclasses.asdict(options)

    @classmethod
    def attach(cls, options: Any, inputs: Inputs) -> dict[str, bytes]:
        """Files that the study keeps a copy of, by name; the plan holds their hashes."""
        return {}

    @classmethod
    def work(cls, recorded: Mapping[str, Any], inputs: Inputs) -> list[Json]:
        """The shards, in the order in which they are merged: one, where there is no more to say."""
        return [{}]

    @classmethod
    def requires(cls, recorded: Mapping[str, Any]) -> tuple[str, ...]:
        """Those of the steps it `needs` whose result its states depend on, given the options."""
        return cls.needs

    @classmethod
    def lends(cls, needed: type[Step]) -> bool:
        """Whether its options say all that a step it needs has to be told."""
        own, wanted = (
            {part.name for part in dataclasses.fields(one.Options)} for one in (cls, needed)
        )
        return wanted <= own

    @classmethod
    def lent(cls, needed: type[Step], options: Any) -> Any:
        """The options of a step that it needs, of its own."""
        names = (part.name for part in dataclasses.fields(needed.Options))
        return needed.Options(**{name: getattr(options, name) for name in names})

    @classmethod
    def forwards(cls, recorded: Mapping[str, Any], unit: Mapping[str, Any]) -> int:
        """How many variants of the model read what a shard reads: how much work it is."""
        return 1

    @classmethod
    def stage(cls, unit: Mapping[str, Any]) -> int:
        """Shards of a stage are computed once all of the earlier ones are there (`resume`).

        Stages follow each other in `work`, from 0 on; a step of several is taken alone.
        """
        return 0

    def resume(self, earlier: State) -> None:
        """Know what the earlier stages found before `update`; it is no part of this state."""
        raise NotImplementedError(f"{type(self).__name__} has stages, but no resume()")

    @classmethod
    def together(cls, recorded: Mapping[str, Any]) -> str | None:
        """Steps that say the same take a shard together (`update_all`); None: alone."""
        return None

    @classmethod
    def update_all(cls, steps: Sequence[Any], unit: Mapping[str, Any], progress: Progress) -> None:
        """Take one shard with several steps that go together."""
        for step in steps:
            step.update(unit, progress)

    @abstractmethod
    def update(self, unit: Mapping[str, Any], progress: Progress) -> Self:
        """Take one shard."""

    @abstractmethod
    def state_dict(self) -> dict[str, torch.Tensor]:
        """The state as flat tensors."""

    @abstractmethod
    def merge(self, tensors: Mapping[str, torch.Tensor]) -> Self:
        """Add a `state_dict` of later shards: a function of the two states alone."""

    @abstractmethod
    def result(self) -> Result:
        """What was found."""

    def state(self) -> State:
        """State and account."""
        return State(self.state_dict(), self.account)

    def absorb(self, state: State) -> Self:
        """Merge a state and its account, as of later shards."""
        self.merge(state.tensors)
        self.account = add_accounts(self.account, state.account)
        return self


class TextStep(Step):
    """A step whose shards are units of text."""

    reads: ClassVar[tuple[type[InputOptions], ...]] = (TextOptions, TokenizerOptions)

    @classmethod
    def work(cls, recorded: Mapping[str, Any], inputs: Inputs) -> list[Json]:
        """The units of the corpus."""
        return [unit.as_dict() for unit in inputs.corpus.units]


class Part(Protocol):
    """A part of an observer's state, filled from whole forwards only (`outdim.stats`).

    What fills it is the observer's own affair, unless it is an `Accumulator`.
    """

    def commit(self) -> object:
        """The forward is complete: what it gave counts."""

    def discard(self) -> object:
        """The forward failed: nothing of it counts."""

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Flat tensors."""

    def merge(self, state: Mapping[str, torch.Tensor]) -> object:
        """Merge a `state_dict` of later rows."""


class Accumulator(Part, Protocol):
    """A part that `Observer` fills by itself, with what `Observer.derive` makes of the states."""

    def begin(self, ids: torch.Tensor, group: torch.Tensor, rows: torch.Tensor) -> object:
        """The next forward has N rows: ids [N] int64, group [N] uint8, position [1, N] float64."""

    def add(self, point: str, hidden: torch.Tensor) -> object:
        """Take ``hidden`` [B, S, D] of a point."""


class Observer(TextStep):
    """A step that observes the model on text; a pass runs any number of them in one forward.

    Most observers are nothing but `accumulators`, perhaps `derive`, and `result`.
    """

    reads = (*MODEL_ON_TEXT, ObserveOptions)

    #: Whether ``outdim analyze`` runs it without being asked: every model has what it looks at.
    by_default: ClassVar[bool] = True
    #: Whether it is shown the attention of each layer (`attend`).
    attends: ClassVar[bool] = False

    @property
    def twins(self) -> Sequence[tuple[Ablation | None, Observer]]:
        """Observers of the same text whose model is ablated, or another: that of their inputs.

        This state holds theirs.
        """
        return ()

    @property
    def fused(self) -> PointMoments | None:
        """The accumulator whose moments of h may be taken inside the model's own norms."""
        return None

    @abstractmethod
    def accumulators(self) -> Mapping[str, Part]:
        """Make the parts of its state, by name; called once.

        They are each an `Accumulator`, but for observers with a `begin` and `observe` of their own.
        """

    @cached_property
    def parts(self) -> Mapping[str, Any]:
        """Its accumulators by name."""
        return self.accumulators()

    def derive(self, hidden: torch.Tensor) -> torch.Tensor:
        """What accumulators take of the hidden states [B, S, D] of a point: [B, S, any width]."""
        return hidden

    @classmethod
    def resolve(cls, options: Any, inputs: Inputs) -> Json:
        """As `Step.resolve`; ``points`` None becomes the embeddings and every block."""
        recorded = super().resolve(options, inputs)
        chosen = inputs.architecture.select(recorded.get("points"))
        if not chosen:
            raise ArgumentError("points: expected at least one, got none.")
        return {
            **recorded,
            "points": [point.name for point in chosen],
            "layers": [point.layer for point in chosen],
        }

    @property
    def points(self) -> tuple[str, ...]:
        """Names of the points that are observed."""
        return tuple(self.recorded["points"])

    @property
    def layers(self) -> dict[str, int]:
        """Layer of each point: 0 for the embeddings, i + 1 for block i."""
        return dict(zip(self.points, self.recorded["layers"], strict=True))

    def no_token(self) -> EmptyCorpusError:
        """The error where no token was read in all of the text."""
        source = " ".join(self.inputs.options["source"])
        return EmptyCorpusError(f"source: {source}: the corpus has no token.")

    def begin(self, batch: Batch) -> None:
        """The next forward reads ``batch``, whose tensors are on the model's device."""
        rows = batch.position.reshape(1, -1).double()
        for accumulator in self.parts.values():
            accumulator.begin(batch.input_ids.reshape(-1), batch.group.reshape(-1), rows)

    def observe(self, point: Point, hidden: torch.Tensor, *, taken: bool) -> None:
        """Take ``hidden`` [B, S, D]; ``taken``: the fused accumulator has it already."""
        derived = self.derive(hidden)
        for accumulator in self.parts.values():
            if not (taken and accumulator is self.fused):
                accumulator.add(point.name, derived)

    def attend(self, attention: Attention) -> None:
        """Take the attention of a layer: after the point that it reads, before its own."""
        raise NotImplementedError(f"{type(self).__name__} attends, but has no attend()")

    def commit(self) -> None:
        """The forward is complete."""
        for accumulator in self.parts.values():
            accumulator.commit()

    def discard(self) -> None:
        """The forward failed."""
        for accumulator in self.parts.values():
            accumulator.discard()

    @classmethod
    def together(cls, recorded: Mapping[str, Any]) -> str | None:
        """Observers of one model run in the same way share a forward."""
        names = [name for kind in cls.reads for name in option_names(kind)]
        return json.dumps([recorded.get(name) for name in names])

    @classmethod
    def update_all(
        cls, steps: Sequence[Observer], unit: Mapping[str, Any], progress: Progress
    ) -> None:
        """Take one unit of text in one pass."""
        steps[0].inputs.forward.run(steps, unit, progress)

    def update(self, unit: Mapping[str, Any], progress: Progress) -> Self:
        """Take one unit of text, in a pass of this step alone."""
        self.update_all([self], unit, progress)
        return self

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The tensors of every accumulator under its name, and those of twins under theirs."""
        from outdim.stats.named import under

        holders = {**self.parts, **self._named_twins}
        return under({name: holder.state_dict() for name, holder in holders.items()})

    def merge(self, tensors: Mapping[str, torch.Tensor]) -> Self:
        """Merge every accumulator, and every twin."""
        from outdim.stats.named import below

        for name, holder in {**self.parts, **self._named_twins}.items():
            holder.merge(below(f"{name}/", tensors))
        return self

    @property
    def _named_twins(self) -> dict[str, Observer]:
        return {f"twin {place}": twin for place, (_, twin) in enumerate(self.twins)}


def add_accounts(first: Mapping[str, Any], second: Mapping[str, Any]) -> Json:
    """Numbers add up, mappings entry by entry, and of lists the first places are kept.

    Example:
        >>> add_accounts({"rows": 1, "left": {"blank": 2}}, {"rows": 2, "left": {"short": 1}})
        {'rows': 3, 'left': {'blank': 2, 'short': 1}}
    """
    from outdim.corpus.texts import KEPT_PLACES

    total = dict(first)
    for key, value in second.items():
        if key not in total:
            total[key] = value
        elif isinstance(value, Mapping):
            total[key] = add_accounts(total[key], value)
        elif isinstance(value, list):
            total[key] = [*total[key], *value][:KEPT_PLACES]
        else:
            total[key] = total[key] + value
    return total
