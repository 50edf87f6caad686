"""What the tests of runs share."""

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from outdim.cli import main
from outdim.commands import commands, find, recorrelate, step

Options = SimpleNamespace  # a flat set: each goes to the dataclass that has a field of its name


def small(model: str | Path, output: str | Path, **more) -> Options:
    """Of a run of a tiny model over the fixture ``corpus``: four shards, in this process."""
    return Options(
        model=str(model),
        output=Path(output),
        max_length=24,
        token_budget=256,
        shard_bytes=1024,
        workers=1,
        device="cpu",
        **more,
    )


_report = step.report


@contextmanager
def reporting(page: bool) -> Iterator[None]:
    """The page takes seconds, and is no matter of most tests: it is written for ``page`` alone."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (step, recorrelate):
            patch.setattr(module, "report", _report if page else lambda run: None)
        yield


def without_report():
    """See `reporting`; for commands that are given otherwise than by the functions below."""
    return reporting(page=False)


def give(
    command: str, source: str | Path | Sequence[str], options: Options, *, page: bool = False
) -> Path | None:
    """What ``outdim <command> <source>`` with these options does, without its page or with it."""
    _, listed = find(commands(), command.split())
    assert listed is not None
    loaded = listed.load()
    sources = [str(source)] if isinstance(source, str | Path) else list(source)
    flat = {**vars(options), "source": sources}
    kinds = [kind for kinds in loaded.options().values() for kind in kinds]
    names = {kind: [field.name for field in dataclasses.fields(kind)] for kind in kinds}
    unknown = set(flat) - {name for found in names.values() for name in found} - {"source"}
    assert not unknown, unknown
    with reporting(page):
        return loaded.run(
            {kind: kind(**{n: flat[n] for n in own if n in flat}) for kind, own in names.items()}
        )


def command(*arguments: object, page: bool = False) -> None:
    """What ``outdim`` does with these words, in this process; it succeeds."""
    with reporting(page):
        assert main([str(argument) for argument in arguments]) == 0


def results(run: Path) -> dict[str, bytes]:
    """Every file whose bytes must not depend on who did the work."""
    patterns = ("*.parquet", "detection.json", "plan/*", "inputs/*", "state/*/*")
    found = sorted(path for pattern in patterns for path in run.glob(pattern))
    return {str(path.relative_to(run)): path.read_bytes() for path in found}


def replaced(options: Options, **changes) -> Options:
    return Options(**{**vars(options), **changes})


def without(options: Options, *names: str) -> Options:
    return Options(**{name: value for name, value in vars(options).items() if name not in names})
