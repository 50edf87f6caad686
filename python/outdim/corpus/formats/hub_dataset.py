"""Hugging Face dataset ids, streamed: nothing is downloaded as a whole."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from outdim.corpus.lines import Problem
from outdim.corpus.texts import Accounting, Texts
from outdim.errors import DataError

_BATCH_ROWS = 1000


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


def check_stream_column(stream: Any, source: str, column: str) -> None:
    """Raise DataError when the dataset has no such column."""
    names = stream.column_names
    if names is None:
        names = list(next(iter(stream), {column: None}))
    if column not in names:
        raise DataError(
            f"{source}: column: no {column!r} here; there are: {', '.join(map(repr, names))}"
        )


def read_shards(
    stream: Any, start: int, stop: int, column: str, account: Accounting, problem: Problem
) -> Iterator[Texts]:
    """The documents of shards [start, stop) of a streamed dataset."""
    for index in range(start, stop):
        row = 0
        for batch in stream.shard(num_shards=stream.num_shards, index=index).iter(_BATCH_ROWS):
            texts: list[bytes] = []
            for value in batch[column]:
                if value is None:
                    account.skip("null")
                elif not isinstance(value, str):
                    problem(
                        "not a string",
                        row,
                        f"{column!r} is a {type(value).__name__}, expected a string",
                    )
                else:
                    try:
                        texts.append(value.encode())
                    except UnicodeEncodeError:
                        problem("lone surrogate", row, f"{column!r} holds half of a surrogate pair")
                row += 1
            yield Texts.of_bytes(texts)
