"""Hugging Face dataset ids, streamed: nothing is downloaded as a whole. Units are shards."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache, partial
from typing import Any

from outdim.corpus.files import STAMP_KEYS
from outdim.corpus.reading import Problems, ReadOptions
from outdim.corpus.rows import document_of, documents_of, no_column, row_place
from outdim.corpus.texts import Texts
from outdim.corpus.unit import Span, Unit
from outdim.errors import DataError

_BATCH_ROWS = 1000
_PREFIX = "hf://datasets/"


def resolve(source: str) -> str:
    """The address of the dataset as it is on the hub now."""
    return f"{_PREFIX}{source}@{resolve_revision(source)}"


def describe(path: str) -> dict[str, Any]:
    """Nothing is known but the path, which holds the revision."""
    return dict.fromkeys((*STAMP_KEYS, "sha256")) | {"path": path}


def units(path: str, options: ReadOptions, problems: Problems) -> list[Span]:
    """One unit a shard; their sizes are not known."""
    stream = _stream_at(path, options)
    _check_column(stream, path, options.column)
    return [(i, i + 1, 0) for i in range(stream.num_shards)]


def read(unit: Unit, options: ReadOptions, problems: Problems) -> Iterator[Texts]:
    """The rows of some shards."""
    stream = _stream_at(unit.path, options)
    document = partial(document_of, column=options.column)
    for index in range(unit.start, unit.stop):
        first = 0
        for batch in stream.shard(num_shards=stream.num_shards, index=index).iter(_BATCH_ROWS):
            rows = [
                dict(zip(batch, values, strict=True))
                for values in zip(*batch.values(), strict=True)
            ]
            place = partial(row_place, f"{unit.path}: shard {index}", first)
            yield documents_of(rows, document, place, problems)
            first += len(rows)


def _stream_at(path: str, options: ReadOptions) -> Any:
    source, _, revision = path.removeprefix(_PREFIX).rpartition("@")
    return open_stream(source, options.name, options.split, revision)


def resolve_revision(source: str) -> str:
    """The dataset's commit on the hub now, so that all units are read from one version."""
    from huggingface_hub import HfApi

    try:
        return str(HfApi().dataset_info(source).sha)
    except (
        Exception
    ) as error:  # the hub client raises many kinds: not found, gated, offline, no network
        raise DataError(
            f"source: {source!r} is no local file, and no Hugging Face dataset of this name can be "
            f"reached ({type(error).__name__}: {error}). Check the name and the network, or give a "
            "path"
        ) from error


@lru_cache(maxsize=4)
def open_stream(source: str, name: str | None, split: str, revision: str) -> Any:
    """The dataset as an IterableDataset."""
    import datasets

    try:
        return datasets.load_dataset(source, name, split=split, revision=revision, streaming=True)
    except Exception as error:  # whatever the builder of the dataset raises
        raise DataError(f"source: {source!r} (name {name!r}, split {split!r}): {error}") from error


def _check_column(stream: Any, path: str, column: str) -> None:
    """Raise DataError when the dataset has no such column."""
    names = stream.column_names
    if names is None:
        names = list(next(iter(stream), {column: None}))
    if not {column, column.split(".")[0]} & set(names):
        raise DataError(f"{path}: column: {no_column(column, names)}")
