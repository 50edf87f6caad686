"""What the tests of runs share."""

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from outdim.cli import main
from outdim.commands import commands, find, step

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


def give(command: str, source: str | Path | Sequence[str], options: Options) -> Path | None:
    """What ``outdim <command> <source>`` with these options does."""
    _, listed = find(commands(), command.split())
    assert listed is not None
    loaded = listed.load()
    sources = [str(source)] if isinstance(source, str | Path) else list(source)
    flat = {**vars(options), "source": sources}
    kinds = [kind for kinds in loaded.options().values() for kind in kinds]
    names = {kind: [field.name for field in dataclasses.fields(kind)] for kind in kinds}
    unknown = set(flat) - {name for found in names.values() for name in found} - {"source"}
    assert not unknown, unknown
    return loaded.run(
        {kind: kind(**{n: flat[n] for n in found if n in flat}) for kind, found in names.items()}
    )


def command(*arguments: object) -> None:
    """What ``outdim`` does with these words, in this process; it succeeds."""
    assert main([str(argument) for argument in arguments]) == 0


@contextmanager
def without_report() -> Iterator[None]:
    """The page takes seconds, and is no matter of most tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(step, "report", lambda run: None)
        yield


def results(run: Path) -> dict[str, bytes]:
    """Every file whose bytes must not depend on who did the work."""
    patterns = ("*.parquet", "detection.json", "plan/*", "inputs/*", "state/*/*")
    found = sorted(path for pattern in patterns for path in run.glob(pattern))
    return {str(path.relative_to(run)): path.read_bytes() for path in found}


def replaced(options: Options, **changes) -> Options:
    return Options(**{**vars(options), **changes})


def without(options: Options, *names: str) -> Options:
    return Options(**{name: value for name, value in vars(options).items() if name not in names})
