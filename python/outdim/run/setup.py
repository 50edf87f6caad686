"""From options to a plan: everything that changes the answer is resolved and hashed here, once."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from outdim.errors import ArgumentError, BackendError, DataError
from outdim.machine import usable_cores
from outdim.options import CorpusOptions, CorrelateOptions, CountOptions, SpreadOptions
from outdim.run.engine import Share
from outdim.run.files import sha256_of
from outdim.run.plan import RULE_OPTIONS, Plan, Stage

if TYPE_CHECKING:
    from outdim.corpus import Corpus

FILES = "files.json"
_SHARDS, _MAX_SHARD_BYTES = 256, 1 << 26
_MIN_SHARD_BYTES = {"count": 1 << 18, "correlate": 1 << 16}  # a model takes longer over a byte


class Planned(NamedTuple):
    """A plan, the files it reads (as `Corpus.files`), and what the manifest says of the model."""

    plan: Plan
    files: list[dict[str, Any]]
    model: dict[str, Any] | None = None


def plan_corpus(
    source: Sequence[str], options: CorpusOptions, command: Stage
) -> tuple[Corpus, dict[str, Any]]:
    """Open the corpus; return it with the plan options that open the same one again."""
    if not source:
        raise ArgumentError(
            "source: name the text: files, globs, a Hugging Face dataset id, or python-docs."
        )
    if options.min_chars < 0:
        raise ArgumentError(f"min-chars: expected 0 or more, got {options.min_chars}.")
    if options.shard_bytes is not None and options.shard_bytes < 1:
        raise ArgumentError(f"shard-bytes: expected at least 1, got {options.shard_bytes}.")
    planned = {
        "source": list(source),
        **{field.name: getattr(options, field.name) for field in dataclasses.fields(CorpusOptions)},
    }
    if options.shard_bytes is None:
        # Any cut into units has the same total; nothing is read for it.
        whole = open_planned_corpus({**planned, "shard_bytes": _MAX_SHARD_BYTES})
        total = sum(unit.size_bytes for unit in whole.units)
        least = _MIN_SHARD_BYTES[command]
        planned["shard_bytes"] = min(max(total // _SHARDS, least), _MAX_SHARD_BYTES)
    return open_planned_corpus(planned), planned


def open_planned_corpus(options: Mapping[str, Any]) -> Corpus:
    """The corpus of a plan's options."""
    from outdim.corpus import open_corpus

    source = options["source"]
    return open_corpus(
        source[0] if len(source) == 1 else source,
        column=options["column"],
        name=options["name"],
        split=options["split"],
        min_chars=options["min_chars"],
        on_error=options["on_error"],
        unit_bytes=options["shard_bytes"],
    )


def _files(corpus: Corpus, run: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The files of the corpus, and the part of that which is in the plan.

    Files whose size and times are those that the run noted are not hashed again.
    """
    try:
        files = corpus.files(json.loads((run / FILES).read_text()))
    except (OSError, ValueError, KeyError, TypeError):  # none, or a broken one: only a cache
        files = corpus.files()
    return files, [{k: file[k] for k in ("path", "size_bytes", "sha256")} for file in files]


def plan_count(source: Sequence[str], options: CountOptions) -> Planned:
    """The plan of ``outdim count``.

    Raises:
        ArgumentError: An option is missing or out of range.
        DataError: The corpus or the tokenizer cannot be used.
    """
    from outdim.counting import choose_method
    from outdim.tokens import load_tokenizer

    if options.tokenizer is None:
        raise ArgumentError("tokenizer: name it: a Hugging Face id or a local directory.")
    _threads(options)
    corpus, planned = plan_corpus(source, options, "count")
    tokenizer = load_tokenizer(options.tokenizer)
    files, hashed = _files(corpus, options.output)
    plan = Plan(
        command="count",
        stages=("count",),
        inputs={"files": hashed, "tokenizer": tokenizer_sha256(tokenizer)},
        options={
            **planned,
            "tokenizer": options.tokenizer,
            "method": dataclasses.asdict(choose_method(corpus, tokenizer, options.method)),
            "documents": options.documents,
        },
        units=tuple(unit.as_dict() for unit in corpus.units),
    )
    return Planned(plan, files)


def plan_correlate(source: Sequence[str], options: CorrelateOptions) -> Planned:
    """The plan of ``outdim correlate``.

    Raises:
        ArgumentError: An option is missing or out of range.
        DataError: The corpus, the tokenizer, the model or the counts cannot be used.
    """
    from outdim.analysis.correlate import check_frequencies
    from outdim.analysis.forward import sequence_length
    from outdim.counting import choose_method
    from outdim.models import architecture, describe, load_model
    from outdim.tokens import TokenFrequencies, check_tokenizer, load_tokenizer

    if options.model is None:
        raise ArgumentError("model: name it: a Hugging Face id or a local directory.")
    if options.token_budget < 1:
        raise ArgumentError(f"token-budget: expected at least 1, got {options.token_budget}.")
    corpus, planned = plan_corpus(source, options, "correlate")
    model = load_model(options.model, dtype=options.dtype)
    arch = architecture(model)
    per_token = sorted(set(options.per_token or ()))
    if per_token and not 0 <= per_token[0] <= per_token[-1] < arch.hidden_size:
        raise ArgumentError(
            f"per-token: expected dimensions 0 to {arch.hidden_size - 1}, got {per_token}."
        )
    tokenizer_name = options.tokenizer or options.model
    tokenizer = load_tokenizer(tokenizer_name)
    check_tokenizer(tokenizer, arch.vocab_size, model.config)
    model_info = describe(model, arch)
    files, hashed = _files(corpus, options.output)
    inputs = {
        "files": hashed,
        "tokenizer": tokenizer_sha256(tokenizer),
        "model": model_info["sha256"],
    }
    if options.counts is not None:
        path = counts_path(options.counts)
        check_frequencies(TokenFrequencies.from_parquet(path), tokenizer)
        inputs["counts"] = sha256_of(path)
    method = choose_method(corpus, tokenizer) if options.counts is None else None
    plan = Plan(
        command="correlate",
        stages=("count", "correlate") if options.counts is None else ("correlate",),
        inputs=inputs,
        options={
            **planned,
            "model": options.model,
            "tokenizer": tokenizer_name,
            "method": dataclasses.asdict(method) if method else None,
            "documents": False,
            "points": [point.name for point in arch.select(options.points)],
            "max_length": sequence_length(model, options.max_length),
            "token_budget": options.token_budget,
            "dtype": options.dtype,
            "autocast": options.autocast,
            # Sums per token need the hidden state itself, which the fused op does not hand out.
            "fused": options.fused and not per_token,
            "accum": options.accum,
            "per_token": per_token,
            "threads": _threads(options),
            **{name: getattr(options, name) for name in RULE_OPTIONS},
        },
        units=tuple(unit.as_dict() for unit in corpus.units),
    )
    return Planned(plan, files, model_info)


def plain(options: Any) -> dict[str, Any]:
    """Options as the manifest shows them: all but the directory it lies in."""
    return {
        name: str(value) if isinstance(value, Path) else value
        for name, value in dataclasses.asdict(options).items()
        if name != "output"
    }


def counts_path(given: Path) -> Path:
    """``counts.parquet`` of a run, or the file itself.

    Raises:
        DataError: There is none.
    """
    path = given / "counts.parquet" if given.is_dir() else given
    if not path.is_file():
        raise DataError(f"counts: there is no {path}; write one with `outdim count`.")
    return path


def tokenizer_sha256(tokenizer: Any) -> str:
    """Hash of all that decides the ids of a text."""
    return hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest()


def choose_share(options: SpreadOptions) -> Share:
    """This process's share: as the options say, or as torchrun or Slurm have set it."""
    if (options.shard_index is None) != (options.shard_count is None):
        raise ArgumentError("shard-index, shard-count: give both or none.")
    if options.shard_index is None or options.shard_count is None:
        return Share.from_environment()
    return Share(options.shard_index, options.shard_count)


def choose_devices(options: SpreadOptions, device: str, model_bytes: int = 0) -> list[str]:
    """The device of every process on this machine.

    ``auto`` takes the GPUs there are (under torchrun the local rank's), else the CPU with one
    process per core, as many as have room for three times the model. With Ray this process only
    merges, and the cluster's devices are not its own.
    """
    if options.workers is not None and options.workers < 1:
        raise ArgumentError(f"workers: expected at least 1, got {options.workers}.")
    kind = _check_device(device)
    if options.engine == "ray":
        if kind.index is not None:
            raise ArgumentError(f"device: expected auto, cpu or cuda with Ray, got {device!r}.")
        return ["cpu"]
    if kind.type == "cuda" and (kind.index or 0) >= torch.cuda.device_count():
        raise BackendError(
            f"device: {device}: torch sees {torch.cuda.device_count()} CUDA devices; "
            "`outdim doctor` says why."
        )
    gpus = torch.cuda.device_count() if device in ("auto", "cuda") else 0
    if device not in ("auto", "cpu") and not gpus:
        return [device] * (1 if "LOCAL_RANK" in os.environ else options.workers or 1)
    if "LOCAL_RANK" in os.environ:
        return [f"cuda:{int(os.environ['LOCAL_RANK']) % gpus}" if gpus else "cpu"]
    if gpus:
        return [f"cuda:{index % gpus}" for index in range(options.workers or gpus)]
    cores = max(1, usable_cores() // options.threads)
    room = max(1, _free_bytes() // max(1, 3 * model_bytes))
    return ["cpu"] * (options.workers or min(cores, room))


def counting_threads(options: SpreadOptions) -> int:
    """Threads that count: ``workers``, or all cores, divided among the local ranks of torchrun."""
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return options.workers or max(1, usable_cores() // ranks)


def _threads(options: SpreadOptions) -> int:
    if options.threads < 1:
        raise ArgumentError(f"threads: expected at least 1, got {options.threads}.")
    if options.memory < 1 << 20:
        raise ArgumentError(f"memory: expected at least 1 MiB (1048576), got {options.memory}.")
    return options.threads


def _check_device(device: str) -> torch.device:
    try:
        found = torch.device("cpu" if device == "auto" else device)
    except RuntimeError:
        found = None
    if found is None or found.type not in ("cpu", "cuda"):
        raise ArgumentError(f"device: expected auto, cpu, cuda or cuda:N, got {device!r}.")
    return found


def _free_bytes() -> int:
    """Memory that may be taken, that of file caches included; half of all where it is not known."""
    with suppress(OSError):  # of systems other than Linux
        found = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())
        if found:
            return int(found[1]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
