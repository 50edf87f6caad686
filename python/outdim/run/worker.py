"""The steps of a run in one process: what is expensive to load is loaded once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from outdim.analysis.inputs import Inputs, Resources
from outdim.analysis.registry import step_class
from outdim.analysis.step import Progress, State, Step
from outdim.errors import DataError
from outdim.files import sha256_of
from outdim.run.directory import ATTACHED
from outdim.run.plan import Entry, Study
from outdim.run.sources import Sources
from outdim.run.store import StateStore


class Worker:
    """Computes, merges and reads the shards of a study.

    Args:
        run: The run directory.
        resources: What this process may use.
        opened: Inputs of the same study that are open already.
    """

    def __init__(self, run: Path, resources: Resources, opened: Inputs | None = None) -> None:
        self.run, self.resources = run, resources
        self.study = Study(run)
        self._opened = opened
        self._inputs: dict[tuple[str, ...], Inputs] = {}
        self._sources = Sources(run)
        self._stores: dict[str, StateStore] = {}
        self._results: dict[str, Any] = {}

    def store(self, step: str) -> StateStore:
        """The states of a step."""
        if step not in self._stores:
            self._stores[step] = StateStore(self.run, self.study[step])
        return self._stores[step]

    def advice(self) -> str:
        """What would make this run faster, as measured here; empty where nothing would.

        A fraction of a second; in a process that has the model, once it is there.
        """
        from outdim.bench.precision import WORTH_IT, bfloat16_speedup

        opened = [self._opened] if self._opened else []
        for inputs in (*opened, *self._inputs.values()):
            model = vars(inputs).get("model")
            if model is not None and model.dtype == torch.float32:
                speedup = bfloat16_speedup(inputs.device)
                return f"--dtype bfloat16: up to {speedup:.1f}x" if speedup >= WORTH_IT else ""
        return ""

    def compute(self, steps: Sequence[str], shard: int, progress: Progress) -> None:
        """Compute and commit one shard of every one of the steps that lacks it, in one go.

        Raises:
            Interrupted: The process was asked to stop; nothing of this shard counts.
            DataError: Broken data and ``on_error`` is ``fail``.
        """
        self.resources.check_stop()
        lacking = [name for name in steps if not self.store(name).has(shard)]
        if not lacking:
            return  # another process may have been here meanwhile
        entries = [self.study[name] for name in lacking]
        inputs = self._inputs_of(tuple(steps))
        torch.set_num_threads(inputs.options.get("threads", 1))
        objects = [step_class(entry.step)(entry.options, inputs) for entry in entries]
        unit, files = entries[0].work[shard], entries[0].inputs.get("files", ())
        for entry, step in zip(entries, objects, strict=True):
            if first := first_of_stage(entry, shard):
                step.resume(self.store(entry.step).until(first, self.merger(entry)))
        forwards = forwards_of(entries, unit)
        with self._sources.unchanged(unit, {file["path"]: file["sha256"] for file in files}):
            type(objects[0]).update_all(objects, unit, lambda tokens: progress(forwards * tokens))
        for entry, step in zip(entries, objects, strict=True):
            self.store(entry.step).commit(shard, step.state(), self.merger(entry))

    def merger(self, entry: Entry) -> Merger:
        """Merges states of a step, without its model."""
        return Merger(entry, self._merging_inputs(entry))

    def result(self, step: str) -> Any:
        """The merged result of a step.

        Raises:
            PartialRunError: A shard is missing.
        """
        if step not in self._results:
            merger = self.merger(self.study[step])
            self._results[step] = merger.step(self.store(step).root(merger)).result()
        return self._results[step]

    def _inputs_of(self, steps: tuple[str, ...]) -> Inputs:
        """Inputs of steps that are computed together; what is open already is not opened again."""
        if steps not in self._inputs:
            options: dict[str, Any] = {}
            for name in steps:
                options |= self.study[name].options
            self._inputs[steps] = self._new_inputs(steps, options)
        self._opened = self._inputs[steps]
        return self._inputs[steps]

    def _new_inputs(self, steps: Sequence[str], options: Any) -> Inputs:
        inputs = Inputs(
            options,
            resources=self.resources,
            result=self.result,
            attached=partial(self.attached, steps),
        )
        return inputs if self._opened is None else inputs.sharing(self._opened)

    def _merging_inputs(self, entry: Entry) -> Inputs:
        attached = partial(self.attached, [entry.step])
        inputs = Inputs(entry.options, result=self.result, attached=attached)
        return inputs if self._opened is None else inputs.sharing(self._opened, model=False)

    def attached(self, steps: Sequence[str], name: str) -> Path | None:
        """A file that one of the steps was given; None where none was.

        Raises:
            DataError: It was altered, or is gone.
        """
        for step in steps:
            if planned := self.study[step].inputs["attached"].get(name):
                path = self.run / ATTACHED / name
                if not path.is_file() or sha256_of(path) != planned:
                    raise DataError(
                        f"{path} is not what the step '{step}' was given. Give the command of the "
                        "run again, with the same files, to put it back."
                    )
                return path
        return None


def forwards_of(entries: Sequence[Entry], unit: Mapping[str, Any]) -> int:
    """How many variants of a model read a shard for steps that share the forward of the model."""
    return 1 + sum(step_class(one.step).forwards(one.options, unit) - 1 for one in entries)


def first_of_stage(entry: Entry, shard: int) -> int:
    """The first shard of the stage that a shard belongs to."""
    stage_of, work = step_class(entry.step).stage, entry.work
    first = shard
    while first and stage_of(work[first - 1]) == stage_of(work[shard]):
        first -= 1
    return first


class Merger:
    """Merges states of one step in the order of its shards: a function of the states alone."""

    def __init__(self, entry: Entry, inputs: Inputs) -> None:
        self._entry, self._inputs = entry, inputs

    def __call__(self, first: State, second: State) -> State:
        """The two merged."""
        return self.step(first, second).state()

    def step(self, *states: State) -> Step:
        """The step with the states absorbed."""
        step = step_class(self._entry.step)(self._entry.options, self._inputs)
        for state in states:
            step.absorb(state)
        return step
