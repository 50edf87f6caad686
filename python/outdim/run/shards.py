"""States of shards on disk: committed whole, checked when read, never trusted."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from outdim.errors import PartialRunError
from outdim.run.files import canonical_json, write_bytes
from outdim.run.manifest import versions
from outdim.run.plan import Plan, Shard

_LENGTH_BYTES = 8  # of a safetensors file: the size of its JSON header


@dataclass(frozen=True)
class ShardState:
    """What one shard contributes.

    Attributes:
        tensors: Flat names to tensors, float64 or int64.
        info: Plain data: token accounting.
        versions: Of the packages that computed it.
    """

    tensors: Mapping[str, torch.Tensor]
    info: Mapping[str, Any]
    versions: Mapping[str, str] = field(default_factory=versions)


class ShardStore:
    """The committed states of one run.

    A state is one safetensors file with its checksum inside, written as temporary file, fsync,
    rename. A file that is missing, truncated, altered, or of another plan counts as missing.
    """

    def __init__(self, run: Path, plan: Plan) -> None:
        self.directory = run / "state"
        self.directory.mkdir(exist_ok=True)
        self.shards = tuple(plan.shards())
        self._last_stage = plan.stages[-1]
        self._sound: set[Path] = (
            set()
        )  # read and found sound by this object: polling need not read again

    def path(self, stage: str, shard: Shard) -> Path:
        """Where the state of ``shard`` lies."""
        return self.directory / f"{stage}-{shard.sha256[:24]}.safetensors"

    def commit(self, stage: str, shard: Shard, state: ShardState) -> None:
        """Make a state durable. Committing the same shard again writes the same bytes."""
        about = {"info": dict(state.info), "versions": dict(state.versions)}
        info = canonical_json({"shard": shard.sha256, "stage": stage, **about})
        tensors = {name: tensor.contiguous() for name, tensor in sorted(state.tensors.items())}
        # One metadata entry only: the order of several is not fixed between processes.
        metadata = {"outdim": canonical_json({"info": info, "sha256": _checksum(tensors, info)})}
        write_bytes(self.path(stage, shard), save_tensors(tensors, metadata))

    def read(self, stage: str, shard: Shard) -> ShardState | None:
        """The committed state, or None where there is no sound one."""
        try:
            content = self.path(stage, shard).read_bytes()
        except FileNotFoundError:
            return None
        try:
            tensors = load_tensors(content)
            entry = json.loads(_metadata(content)["outdim"])
            sound = _checksum(tensors, entry["info"]) == entry["sha256"]
            info = json.loads(entry["info"])
        except (SafetensorError, ValueError, KeyError, TypeError):
            return None
        if not sound or info["shard"] != shard.sha256 or info["stage"] != stage:
            return None
        return ShardState(tensors, info["info"], info["versions"])

    def missing(self, stage: str, among: Sequence[Shard] | None = None) -> list[Shard]:
        """Those of the shards (None: of all) without a sound state, in plan order.

        Lists the directory first: a network file system may remember for a minute that a file it
        was asked for is not there, and then two processes that finish together would each think
        that the other has work left.
        """
        there = set(os.listdir(self.directory))
        missing = []
        for shard in self.shards if among is None else among:
            path = self.path(stage, shard)
            if path.name not in there:
                missing.append(shard)
            elif path not in self._sound:
                if self.read(stage, shard) is None:
                    missing.append(shard)
                else:
                    self._sound.add(path)
        return missing

    def states(self, stage: str) -> Iterator[ShardState]:
        """Every state of ``stage``, in plan order; says so if several versions computed them.

        Raises:
            PartialRunError: One is missing; nothing that was yielded before it is a whole.
        """
        found: dict[str, set[str]] = defaultdict(set)
        for shard in self.shards:
            state = self.read(stage, shard)
            if state is None:
                raise PartialRunError(
                    f"{len(self.missing(stage))} of {len(self.shards)} shards of the stage "
                    f"'{stage}' are missing, the first is number {shard.index}. Give the command "
                    "of the run again to compute them."
                )
            for package, version in state.versions.items():
                found[package].add(version)
            yield state
        mixed = [f"{name} {' and '.join(sorted(v))}" for name, v in found.items() if len(v) > 1]
        if mixed and stage == self._last_stage:  # earlier ones are read several times
            print(
                f"outdim: the shards of the stage '{stage}' were computed by several versions "
                f"({', '.join(mixed)}): their last bits may differ.",
                file=sys.stderr,
            )


def _metadata(content: bytes) -> dict[str, str]:
    size = int.from_bytes(content[:_LENGTH_BYTES], "little")
    header = json.loads(content[_LENGTH_BYTES : _LENGTH_BYTES + size])
    metadata: dict[str, str] = header["__metadata__"]
    return metadata


def _checksum(tensors: Mapping[str, torch.Tensor], info: str) -> str:
    checksum = hashlib.sha256(info.encode())
    for name, tensor in sorted(tensors.items()):
        checksum.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        checksum.update(tensor.contiguous().numpy().tobytes())
    return checksum.hexdigest()
