"""The fixed binary tree over the shards of a step, by which their states are merged."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from outdim.files import digest


@dataclass(frozen=True, eq=False)
class Node:
    """The shards ``first`` to ``stop - 1``, merged.

    Attributes:
        id: Of all that the state depends on.
        children: Two, or none for a shard.
    """

    id: str
    first: int
    stop: int
    children: tuple[Node, Node] | tuple[()] = ()


class Tree:
    """Nodes over n shards: the left child of each has as many as the largest power of two allows.

    So the tree depends on n alone, and a state on its shards alone: whoever merges them, whenever,
    the bytes are the same.
    """

    def __init__(self, leaves: Sequence[str]) -> None:
        self._parents: dict[tuple[int, int], Node] = {}
        self.leaves: list[Node] = [Node(id_, i, i + 1) for i, id_ in enumerate(leaves)]
        self.root = self._build(0, len(leaves))

    def _build(self, first: int, stop: int) -> Node:
        if stop - first == 1:
            return self.leaves[first]
        middle = first + (1 << (stop - first - 1).bit_length() - 1)
        children = self._build(first, middle), self._build(middle, stop)
        node = Node(digest([child.id for child in children]), first, stop, children)
        for child in children:
            self._parents[child.first, child.stop] = node
        return node

    def parent(self, node: Node) -> Node | None:
        """The node above, None above the root."""
        return self._parents.get((node.first, node.stop))

    def nodes(self) -> Iterator[Node]:
        """All nodes, parents before children."""
        waiting = [self.root]
        while waiting:
            node = waiting.pop()
            yield node
            waiting += reversed(node.children)
