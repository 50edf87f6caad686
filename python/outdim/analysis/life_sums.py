"""What is kept of hidden states to tell the life of dimensions, filled batch by batch."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from outdim.ops.sizes import sizes
from outdim.stats.block_sums import BlockSums
from outdim.stats.extreme_tokens import ExtremeTokens
from outdim.stats.jackknife import BLOCKS, LeftOut, block_of, ratio
from outdim.tokens import Batch

#: What a block makes of a dimension at one token: what it took, what its branches added, and the
#: rest: what norms did to it, and branches that are not known.
PARTS = ("before", "attention", "mlp", "rest")
_KEPT_TOKENS = 8


class LifeSums:
    """Sums by block of documents, and the tokens where chosen dimensions are largest.

    Of every state (embeddings, blocks, final norm) the largest |h| of every dimension in each
    sequence. Of chosen dimensions, by kind of token, sums of |h|, h^2 and of h^2 where h > 0; what
    each block adds to h at the token of each sequence where |h| is largest behind it (`written`),
    and where it was largest before it (`erased`), in the direction of that h; and at each tensor
    that a norm takes, the share of the dimension in the sum of squares that the norm divides by.
    All of it is float64.

    Args:
        layers: Layer of each point, in the order of the forward.
        dims: The chosen dimensions, k.
        kinds: Names of the kinds of tokens, C.
        rms: By point, whether the norm that takes it is an RMSNorm; None where none does.
    """

    def __init__(
        self,
        layers: Mapping[str, int],
        dims: Sequence[int],
        kinds: Sequence[str],
        rms: Mapping[str, bool | None],
    ) -> None:
        self.layers, self.dims, self.kinds = dict(layers), tuple(dims), tuple(kinds)
        self.states = [name for name in layers if _is_state(name)]
        self.norms = {name: known for name in layers if (known := rms.get(name)) is not None}
        self.sums = BlockSums(BLOCKS)
        self.extremes = ExtremeTokens(self.states, len(self.dims), _KEPT_TOKENS)
        self.drop()

    def begin(self, batch: Batch, kind: Tensor) -> None:
        """The next forward reads ``batch``, whose tokens are of these kinds, [B, S] int64."""
        self.drop()
        self._batch, self._kind = batch, kind
        kept = batch.group > 0
        lengths = kept.sum(1)
        self._rows = kept.reshape(-1).nonzero()[:, 0]
        self._starts = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
        self._index = torch.tensor(self.dims, dtype=torch.int64, device=kind.device)

    def observe(self, name: str, hidden: Tensor) -> None:
        """Keep what is needed of ``hidden`` [B, S, D] at a point."""
        if self.dims:
            self._columns[name] = hidden.index_select(-1, self._index)
        norm = self.norms.get(name) if self.dims else None
        if name in self.states or norm is not None:
            found = sizes(
                hidden,
                self._rows,
                self._starts,
                largest=name in self.states,
                squares=None if norm is None else ("rms_norm" if norm else "layer_norm"),
            )
            if found.largest is not None:
                self._largest[name] = found.largest
            if found.squares is not None:
                self._squares[name] = found.squares

    def finish(self) -> None:
        """The forward is complete: make sums of what was kept."""
        block = block_of(self._batch.keys).cpu()
        self._kept = (self._batch.group > 0).cpu()
        self._present = self._kept.any(1)
        self._block = block[self._present]
        rows = self._rows.cpu()
        kind = self._kind.reshape(-1).cpu()[rows]
        cell = block[rows // self._kept.shape[1]] * len(self.kinds) + kind
        self._add(["sequences"], torch.ones(len(block), 1))
        self.sums.add_cells("tokens", cell, len(self.kinds), torch.ones(len(cell)))
        largest = torch.stack(list(self._largest.values()), 1).cpu()
        self._add([f"largest/{name}" for name in self._largest], largest)
        bad = (~largest.isfinite()).sum(2)
        self._add([f"nonfinite/{name}" for name in self._largest], bad)
        if self.dims:
            together = torch.stack(list(self._columns.values())).double().cpu()
            columns = dict(zip(self._columns, together, strict=True))
            self._add_values(columns, rows, cell)
            self._add_shares(columns, rows, cell)
            self._add_parts(columns)
            ids = torch.where(self._batch.attention_mask > 0, self._batch.input_ids, -1).cpu()
            documents, offsets = self._batch.documents.cpu(), self._batch.offsets.cpu()
            self.extremes.add(columns, self._kept, ids, documents, offsets)
        self.drop()

    def drop(self) -> None:
        """Forget the forward under way."""
        self._columns: dict[str, Tensor] = {}
        self._largest: dict[str, Tensor] = {}
        self._squares: dict[str, Tensor] = {}

    @property
    def blocks(self) -> list[str]:
        """The embeddings and the blocks: states that are handed on."""
        return [name for name in self.states if name != "final_norm"]

    def _add(self, names: Sequence[str], values: Tensor) -> None:
        """Sums of sequences, [B, names, ...], of those with a token that counts."""
        self.sums.add_each(names, self._block, 1, values[self._present])

    def _add_values(self, columns: Mapping[str, Tensor], rows: Tensor, cell: Tensor) -> None:
        """Sums of the states by kind of token; columns are [B, S, k] float64."""
        values = torch.stack([columns[name].flatten(0, 1)[rows] for name in self.states], 1)
        squares = values.square()
        positive = torch.where(values > 0, squares, 0)
        found = torch.stack([values.abs(), squares, positive], 2)
        self.sums.add_each([f"values/{name}" for name in self.states], cell, len(self.kinds), found)

    def _add_shares(self, columns: Mapping[str, Tensor], rows: Tensor, cell: Tensor) -> None:
        """Sums of the shares in what norms divide by, and of the largest of each sequence."""
        if not self._squares:
            return
        names = list(self._squares)
        mean, total = torch.stack(list(self._squares.values()), 1).cpu()[rows].unbind(-1)  # [N, P]
        values = torch.stack([columns[name].flatten(0, 1)[rows] for name in names], 1)
        share = (values - mean[..., None]).square() / total[..., None]
        share = share.masked_fill((total == 0)[..., None], 0)
        share = share.masked_fill(~total.isfinite()[..., None], torch.nan)
        self.sums.add_each([f"share/{name}" for name in names], cell, len(self.kinds), share)
        most = share.new_zeros(*self._kept.shape, *share.shape[1:])
        most.flatten(0, 1)[rows] = share
        self._add([f"largest_share/{name}" for name in names], most.amax(1))

    def _add_parts(self, columns: Mapping[str, Tensor]) -> None:
        """What blocks add at the tokens where a dimension is largest behind and before them."""
        states = torch.stack([columns[name] for name in self.blocks], 1)  # [B, P, S, k]
        at = states.abs().masked_fill_(~self._kept[:, None, :, None], -1).argmax(2, keepdim=True)
        nothing = torch.zeros_like(states[:, 0])
        attention, mlp = (
            torch.stack([columns.get(f"{name}.{part}", nothing) for name in self.blocks[1:]], 1)
            for part in PARTS[1:3]
        )
        for kind, state, where in (
            ("written", states[:, 1:], at[:, 1:]),
            ("erased", states[:, :-1], at[:, :-1]),
        ):
            here, there, *added = (
                part.gather(2, where)[:, :, 0]
                for part in (states[:, :-1], states[:, 1:], attention, mlp)
            )  # [B, P, k] each
            parts = torch.stack([here, *added, there - here - added[0] - added[1]], -1)
            sign = state.gather(2, where)[:, :, 0].sign()
            self._add([f"{kind}/{name}" for name in self.blocks[1:]], parts * sign[..., None])

    def spike(self, point: str) -> LeftOut:
        """Largest |h| of a sequence, on average, of every dimension [D]."""
        return ratio(self.sums[f"largest/{point}"], self.sums["sequences"][:, None])

    def times(self, point: str) -> LeftOut:
        """The same over that of the median dimension, [D]."""
        return _over_median(self.spike(point))

    def standing_out(self) -> list[int]:
        """Dimensions by how far their largest values stand out at any state, the most first.

        Blocks of documents with a NaN at a state are left out there; dimensions of which nothing
        is known then are left out too.
        """
        sequences = self.sums["sequences"][:, None]
        by_state = []
        for name in self.blocks:
            largest = self.sums[f"largest/{name}"]
            known = ~np.isnan(largest).any(1, keepdims=True)
            spike = ratio(np.where(known, largest, 0), np.where(known, sequences, 0))
            by_state.append(np.nan_to_num(_over_median(spike).value, nan=-1))
        times = np.max(by_state, 0)
        return [int(dim) for dim in np.argsort(-times, kind="stable") if times[dim] >= 0]


def _is_state(name: str) -> bool:
    """Whether a point is a hidden state that is handed on, or what the final norm gives."""
    return re.fullmatch(r"embeddings|final_norm|block\.\d+", name) is not None


def _over_median(found: LeftOut) -> LeftOut:
    def divide(values: NDArray[np.float64]) -> NDArray[np.float64]:
        known = ~np.isnan(values).all(-1, keepdims=True)
        median = np.nanmedian(np.where(known, values, 0), -1, keepdims=True)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(values / np.where(known, median, np.nan))

    return LeftOut(divide(found.value), divide(found.without), found.used)
