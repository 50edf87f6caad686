"""States of a step on disk: committed whole, merged by the tree, checked when read."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import reduce
from pathlib import Path

import torch
import xxhash
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from outdim.analysis.step import State
from outdim.errors import PartialRunError
from outdim.files import canonical_json, write_bytes
from outdim.manifest import versions
from outdim.run.plan import Entry
from outdim.run.tree import Node, Tree

STATES = "state"
_LENGTH_BYTES = 8  # of a safetensors file: the size of its JSON header
_ID = 24  # characters of a node's identity in the name of its file

#: Merges a state with that of later shards.
Merge = Callable[[State, State], State]

_Seen = tuple[State, Mapping[str, Sequence[str]]]  # and versions of the packages that made it


class StateStore:
    """The committed states of one step of a run.

    A state is one safetensors file with its checksum inside, written as temporary file, fsync,
    rename. A file that is missing, truncated, altered, or of another plan counts as missing. Where
    both children of a node of the tree are there, whoever sees it writes the node and drops the
    children: the disk holds one state for every power of two, not one for every shard, and the
    bytes of the root are the same whoever merged what, and when.
    """

    def __init__(self, run: Path, entry: Entry) -> None:
        self.entry = entry
        self.directory = run / STATES / entry.step
        self.tree = Tree(entry.leaves)
        self._sound: set[str] = set()  # read and found sound by this object

    def __len__(self) -> int:
        return len(self.tree.leaves)

    def path(self, node: Node) -> Path:
        """Where the state of a node lies."""
        return self.directory / f"{node.id[:_ID]}.safetensors"

    def commit(self, shard: int, state: State, merge: Merge) -> None:
        """Make the state of a shard durable, and merge what can be merged with it.

        Committing the same shard again writes the same bytes.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        node = self.tree.leaves[shard]
        seen = {name: [version] for name, version in versions().items()}
        # As it would be read again, for bytes must not depend on whether it was.
        state = State(state.tensors, json.loads(canonical_json(state.account)))
        self._place(node, (state, seen), merge)

    def root(self, merge: Merge) -> State:
        """The state of all shards, merged where processes that ended together have left that.

        Raises:
            PartialRunError: A shard is missing.
        """
        root = self.tree.root
        found = self._read(root)
        if found is None:
            if missing := self.missing():
                raise PartialRunError(
                    f"{len(missing)} of {len(self)} shards of '{self.entry.step}' are missing, the "
                    f"first is number {missing[0]}. Give the command of the run again to compute "
                    "them."
                )
            self._complete(root, merge)
            found = self._read(root)
        if found is None:
            raise self._changed()
        there = self._names()  # two that merge the same at once may leave what is in the root
        self._drop(n for n in self.tree.nodes() if n is not root and self.path(n).name in there)
        return found[0]

    def until(self, shard: int, merge: Merge) -> State:
        """The state of all shards before one, merged in order; perhaps with some of later ones.

        Raises:
            PartialRunError: One of them is missing.
        """
        for _ in range(len(self)):  # others merge fewer times than this
            found, absent = self._before(shard)
            if absent is None:
                return reduce(merge, found)
            # Where another process merges nodes while they are read from the top down, it may have
            # written one and dropped its children between the look at it and the looks at them.
            if not self.has(absent):
                raise PartialRunError(
                    f"shard {absent} of '{self.entry.step}', which shard {shard} follows, is "
                    "missing. Give the command of the run again to compute it."
                )
        raise self._changed()

    def _before(self, shard: int) -> tuple[list[State], int | None]:
        """The states of all shards before one, in order, or the first shard that was not found."""
        found: list[State] = []
        waiting = [self.tree.root]
        while waiting:
            node = waiting.pop()
            if node.first >= shard:
                continue
            seen = self._read(node)
            if seen is not None:
                found.append(seen[0])
            elif node.children:
                waiting += reversed(node.children)
            else:
                return found, node.first
        return found, None

    def _changed(self) -> PartialRunError:
        return PartialRunError(
            f"the states of '{self.entry.step}' changed while they were merged. Give the "
            "command of the run again."
        )

    def mixed_versions(self) -> list[str]:
        """Packages of which several versions took part, 'name 1 and 2'; for a complete step."""
        found = self._read(self.tree.root)
        seen = found[1] if found else {}
        return [f"{name} {' and '.join(v)}" for name, v in sorted(seen.items()) if len(v) > 1]

    def has(self, shard: int) -> bool:
        """Whether a shard is committed, alone or in a node above it."""
        node: Node | None = self.tree.leaves[shard]
        while node is not None:
            if self._is_sound(node):
                return True
            node = self.tree.parent(node)
        return False

    def missing(self, among: Sequence[int] | None = None) -> list[int]:
        """Those of the shards (None: of all) that no sound state covers, in order.

        Lists the directory first: a network file system may remember for a minute that a file it
        was asked for is not there, and then two processes that finish together would each think
        that the other has work left.
        """
        covered = bytearray(len(self))
        waiting = [self.tree.root]
        there = self._names()
        while waiting:
            node = waiting.pop()
            if self.path(node).name in there and self._is_sound(node):
                covered[node.first : node.stop] = b"\x01" * (node.stop - node.first)
            else:
                waiting += node.children
        # Another process may have merged two states between the listing and the look at them.
        wanted = range(len(self)) if among is None else among
        return [shard for shard in wanted if not covered[shard] and not self.has(shard)]

    def files(self) -> Iterator[Path]:
        """Every file that a state of this step may have."""
        yield from (self.path(node) for node in self.tree.nodes())

    def _names(self) -> set[str]:
        with suppress(FileNotFoundError):
            return set(os.listdir(self.directory))
        return set()

    def _place(self, node: Node, held: _Seen, merge: Merge) -> None:
        """Write a state merged with all that is there: half as many writes as first itself.

        Then look again: another process may have written the sibling before it could see this.
        """
        absorbed: list[Node] = []
        written = False
        while True:
            parent = self.tree.parent(node)
            merged = parent and self._merged(parent, merge, {node.id: held})
            if parent and merged:
                absorbed += parent.children
                node, held, written = parent, merged, False
            elif written:
                break
            else:
                self._write(node, held)
                self._drop(absorbed)
                absorbed, written = [], True
        if parent and self._is_sound(parent):  # another process merged them just now
            self._drop(parent.children)

    def _merged(self, node: Node, merge: Merge, known: Mapping[str, _Seen] = {}) -> _Seen | None:
        """The state of ``node`` from those of its children; None where one is not there."""
        found = [known.get(child.id) or self._read(child) for child in node.children]
        if not found or found[0] is None or found[1] is None:
            return None
        (left, left_versions), (right, right_versions) = found[0], found[1]
        names = sorted({*left_versions, *right_versions})
        both = {
            name: sorted({*left_versions.get(name, ()), *right_versions.get(name, ())})
            for name in names
        }
        return merge(left, right), both

    def _complete(self, node: Node, merge: Merge) -> None:
        if self._is_sound(node):
            return
        for child in node.children:
            self._complete(child, merge)
        if merged := self._merged(node, merge):
            self._write(node, merged)
            self._drop(node.children)

    def _drop(self, nodes: Iterable[Node]) -> None:
        for node in nodes:
            with suppress(FileNotFoundError):
                self.path(node).unlink()
            self._sound.discard(node.id)

    def _is_sound(self, node: Node) -> bool:
        if not self.path(node).exists():
            self._sound.discard(node.id)
            return False
        return node.id in self._sound or self._read(node) is not None

    def _write(self, node: Node, held: _Seen) -> None:
        state, seen = held
        account = canonical_json(
            {"node": node.id, "step": self.entry.step, "account": state.account, "versions": seen}
        )
        tensors = {name: tensor.contiguous() for name, tensor in sorted(state.tensors.items())}
        # One metadata entry only: the order of several is not fixed between processes.
        entry = {"about": account, "xxh3": _checksum(tensors, account)}
        write_bytes(self.path(node), save_tensors(tensors, {"outdim": canonical_json(entry)}))
        self._sound.add(node.id)

    def _read(self, node: Node) -> _Seen | None:
        """The committed state and the versions that made it; None where there is no sound one."""
        self._sound.discard(node.id)
        try:
            content = self.path(node).read_bytes()
            tensors = load_tensors(content)
            entry = json.loads(_metadata(content)["outdim"])
            sound = _checksum(tensors, entry["about"]) == entry["xxh3"]
            about = json.loads(entry["about"])
        except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError):
            return None
        if not sound or about["node"] != node.id or about["step"] != self.entry.step:
            return None
        self._sound.add(node.id)
        return State(tensors, about["account"]), about["versions"]


def _metadata(content: bytes) -> dict[str, str]:
    size = int.from_bytes(content[:_LENGTH_BYTES], "little")
    header = json.loads(content[_LENGTH_BYTES : _LENGTH_BYTES + size])
    metadata: dict[str, str] = header["__metadata__"]
    return metadata


def _checksum(tensors: Mapping[str, torch.Tensor], about: str) -> str:
    # Against damage, not malice; four times as fast as sha256 without its own instructions.
    checksum = xxhash.xxh3_128(about.encode())
    for name, tensor in sorted(tensors.items()):
        checksum.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        checksum.update(tensor.contiguous().numpy().reshape(-1).view("uint8").data)
    return checksum.hexdigest()
