"""What is kept of hidden states to tell the life of dimensions, filled batch by batch."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from outdim.stats.block_sums import BlockSums
from outdim.stats.extreme_tokens import ExtremeTokens
from outdim.stats.jackknife import BLOCKS, LeftOut, ratio
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
    Norms are float32 (float64 of float64 states), everything after them float64.

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
        self._kept = batch.group > 0
        self._whole = bool(self._kept.all())
        self._index = torch.tensor(self.dims, dtype=torch.int64, device=kind.device)

    def observe(self, name: str, hidden: Tensor) -> None:
        """Keep what is needed of ``hidden`` [B, S, D] at a point."""
        if self.dims:
            self._columns[name] = hidden[..., self._index]
        if name in self.states:
            self._largest[name] = _largest(hidden, None if self._whole else self._kept)
        if self.dims and name in self.norms:
            self._squares[name] = _squares(hidden, rms=self.norms[name])

    def finish(self) -> None:
        """The forward is complete: make sums of what was kept."""
        self._block = (self._batch.documents % BLOCKS).cpu()
        kept = self._kept.cpu()
        self._present = kept.any(1)
        self._row, self._position = kept.nonzero(as_tuple=True)
        kind = self._kind.cpu()[self._row, self._position]
        self._cell = self._block[self._row] * len(self.kinds) + kind
        self._add("sequences", torch.ones(len(kept)))
        self.sums.add_cells("tokens", self._cell, len(self.kinds), torch.ones(len(self._cell)))
        for name, largest in self._largest.items():
            self._add(f"largest/{name}", largest.cpu())
            self._add(f"nonfinite/{name}", (~largest.isfinite()).sum(1).cpu())
        if self.dims:
            columns = {name: part.double().cpu() for name, part in self._columns.items()}
            for name, part in columns.items():
                self._add_values(name, part)
            for before, after in zip(self.blocks, self.blocks[1:], strict=False):
                self._add_parts(columns, before, after)
            ids = torch.where(self._batch.attention_mask > 0, self._batch.input_ids, -1).cpu()
            documents, offsets = self._batch.documents.cpu(), self._batch.offsets.cpu()
            self.extremes.add(columns, kept, ids, documents, offsets)
        self.drop()

    def drop(self) -> None:
        """Forget the forward under way."""
        self._columns: dict[str, Tensor] = {}
        self._largest: dict[str, Tensor] = {}
        self._squares: dict[str, tuple[Tensor, Tensor]] = {}

    @property
    def blocks(self) -> list[str]:
        """The embeddings and the blocks: states that are handed on."""
        return [name for name in self.states if name != "final_norm"]

    def _add(self, name: str, values: Tensor) -> None:
        """Sums of sequences, [B, ...], of those with a token that counts."""
        self.sums.add(name, self._block[self._present], values[self._present])

    def _add_values(self, name: str, column: Tensor) -> None:
        """Sums of a point by kind of token; ``column`` [B, S, k] float64."""
        if name in self.states:
            rows = column[self._row, self._position]
            squares = rows.square()
            positive = torch.where(rows > 0, squares, 0)
            values = torch.stack([rows.abs(), squares, positive], 1)
            self.sums.add_cells(f"values/{name}", self._cell, len(self.kinds), values)
        if name in self._squares:
            mean, total = (part.double().cpu() for part in self._squares[name])
            deviation, total = (column - mean[..., None]).square(), total[..., None]
            share = (deviation / total).masked_fill(total == 0, 0)
            share = share.masked_fill(~total.isfinite(), torch.nan)
            of_rows = share[self._row, self._position]
            self.sums.add_cells(f"share/{name}", self._cell, len(self.kinds), of_rows)
            most = torch.where(self._kept.cpu()[..., None], share, 0).amax(1)
            self._add(f"largest_share/{name}", most)

    def _add_parts(self, columns: Mapping[str, Tensor], before: str, after: str) -> None:
        """What a block adds at the tokens where a dimension is largest behind and before it."""
        took, gave = columns[before], columns[after]
        branches = [columns.get(f"{after}.{name}") for name in ("attention", "mlp")]
        for name, state in (("written", gave), ("erased", took)):
            at = state.abs().masked_fill_(~self._kept.cpu()[..., None], -1).argmax(1, keepdim=True)
            here, there, *added = (
                torch.zeros_like(at[:, 0], dtype=torch.float64)
                if part is None
                else part.gather(1, at)[:, 0]
                for part in (took, gave, *branches)
            )  # [B, k] each
            parts = torch.stack([here, *added, there - here - added[0] - added[1]], -1)
            sign = state.gather(1, at)[:, 0].sign()
            self._add(f"{name}/{after}", parts * sign[..., None])

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


def _largest(hidden: Tensor, kept: Tensor | None) -> Tensor:
    """Largest |h| of each sequence, [B, D], of the tokens that are kept [B, S]; 0 without any."""
    if kept is not None:
        hidden = hidden.masked_fill(~kept[..., None], 0)
    return torch.maximum(hidden.amax(1), -hidden.amin(1))


def _squares(hidden: Tensor, *, rms: bool) -> tuple[Tensor, Tensor]:
    """Mean that a norm subtracts and sum of squares that it divides by, [B, S] each."""
    rows = hidden if hidden.dtype == torch.float64 else hidden.float()
    if rms:
        squares = torch.linalg.vector_norm(rows, dim=-1).square()
        return torch.zeros_like(squares), squares
    mean = rows.mean(-1)
    # Ten times as fast as torch.var_mean.
    return mean, torch.linalg.vector_norm(rows - mean[..., None], dim=-1).square()


def _over_median(found: LeftOut) -> LeftOut:
    def divide(values: NDArray[np.float64]) -> NDArray[np.float64]:
        known = ~np.isnan(values).all(-1, keepdims=True)
        median = np.nanmedian(np.where(known, values, 0), -1, keepdims=True)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(values / np.where(known, median, np.nan))

    return LeftOut(divide(found.value), divide(found.without), found.used)
