"""What the heads of a model attend to, in sums by block of documents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from outdim.ops import AttentionReceived
from outdim.stats.keyed_sums import KeyedSums
from outdim.stats.named import under

#: Positions of which the sink metric is kept: StreamingLLM keeps four.
SINKS = 4
#: eps and T of Sink_k^eps (Gu et al., ICLR 2025).
EPSILON, PREFIX = 0.3, 64


class HeadSums:
    """Sums of what keys receive, by block of documents, group of queries, layer and head.

    A sum over rows of attention is a sum of positive numbers, so nothing cancels; whatever is a
    share or a mean is a ratio of two sums. Sums by block make a jackknife over documents possible.

    Attributes:
        queries: [blocks, G] queries.
        mass: [blocks, G, L, H, P] attention on each of P places.
        entropy: [blocks, G, L, H] of the queries, summed.
        sequences: [blocks, 3]: those of two tokens or more; those of PREFIX tokens or more; the
            documents, of which each of the former is a piece.
        sinks: [blocks, L, H, SINKS] of the latter, those in which position k receives more than
            EPSILON from the first PREFIX queries, on average over those that can see it.
        usable: [blocks, L, H, 2] of the former, those in which some key is seen by at least half of
            the queries (no key of a long sequence is, in a layer with a sliding window), and those
            of them whose values have a ratio.
        vertical: [blocks, L, H] of the usable, those in which one such key receives more than
            EPSILON, on average over the queries that can see it.
        value_ratio: [blocks, L, H] of the usable, the norm of the value at the most attended such
            key over the mean norm.
        tokens: attention by (token id) and layer, all heads together, and how often it occurs.
        tops: by (layer, head, token id), in how many sequences that key is the vertical one, and in
            how many of them it stands at the first position.
    """

    def __init__(
        self, blocks: int, groups: int, layers: Sequence[int], heads: int, places: int
    ) -> None:
        self.layers, self.heads = tuple(layers), heads
        size = blocks, groups, len(layers), heads
        self.sums = {
            "queries": torch.zeros(blocks, groups, dtype=torch.float64),
            "mass": torch.zeros(*size, places, dtype=torch.float64),
            "entropy": torch.zeros(size, dtype=torch.float64),
            "sequences": torch.zeros(blocks, 3, dtype=torch.float64),
            "sinks": torch.zeros(blocks, *size[2:], SINKS, dtype=torch.float64),
            "usable": torch.zeros(blocks, *size[2:], 2, dtype=torch.float64),
            "vertical": torch.zeros(blocks, *size[2:], dtype=torch.float64),
            "value_ratio": torch.zeros(blocks, *size[2:], dtype=torch.float64),
        }
        self.tokens = KeyedSums(1 + len(layers))
        self.tops = KeyedSums(2)
        self._pending: list[tuple[str, tuple[int, ...], Tensor]] = []
        self._tokens = torch.zeros(0)
        self._tops: list[tuple[Tensor, Tensor]] = []

    def begin(
        self, ids: Tensor, group: Tensor, block: Tensor, place: Tensor, starts: Tensor
    ) -> None:
        """The next forward reads ids [B, S] int64.

        Args:
            ids: Token ids.
            group: [B, S] uint8 of the tokens; 0 is left out.
            block: [B] int64.
            place: [B, S, P] float64, 1 where a key is in a place.
            starts: [B] bool, the first pieces of documents.
        """
        self.discard()
        self._ids, self._group, self._block, self._place = ids, group, block, place
        groups = self.sums["queries"].shape[1]
        of_group = torch.stack([(group == g + 1).sum(-1) for g in range(groups)], -1)
        length = (group > 0).sum(-1)
        self._long = length >= PREFIX
        self._several = length >= 2
        self._keep("queries", (), of_group.double())
        kinds = [self._several, self._long, self._several & starts]
        self._keep("sequences", (), torch.stack(kinds, -1).double())
        self._of_token = torch.zeros(ids.numel(), 1 + len(self.layers), dtype=torch.float64)
        self._of_token[:, 0] = (group > 0).reshape(-1)

    @property
    def query_groups(self) -> Tensor:
        """[B, S] uint8: the groups of the queries, of the first PREFIX positions apart."""
        position = torch.arange(self._ids.shape[1], device=self._ids.device)
        late = self.sums["queries"].shape[1] * (position >= PREFIX).to(torch.uint8)
        return torch.where(self._group > 0, self._group + late, 0).to(torch.uint8)

    def add(self, layer: int, received: AttentionReceived, value: Tensor) -> None:
        """Take what `Attention.received` gave for `query_groups`, and the values [B, Hkv, S, d]."""
        index = self.layers.index(layer)
        groups = self.sums["queries"].shape[1]
        batch, _, heads, length = received.sums.shape
        halves = received.sums.view(batch, 2, groups, heads, length)
        sums = halves.sum(1)
        mass = (sums.flatten(1, 2) @ self._place).view(batch, groups, heads, -1)
        self._keep("mass", (index,), mass)
        entropy = torch.stack(
            [
                torch.where(self._group[:, None] == g + 1, received.entropy, 0).sum(-1)
                for g in range(groups)
            ],
            1,
        )
        self._keep("entropy", (index,), entropy)
        self._add_sinks(index, halves[:, 0, ..., :SINKS].sum(1), received.seen)
        self._add_vertical(index, received, value)
        self._of_token[:, 1 + index] = sums.sum((1, 2)).reshape(-1).cpu()

    def _add_sinks(self, index: int, sums: Tensor, seen: Tensor) -> None:
        groups = self.sums["queries"].shape[1]
        count = seen.view(len(seen), 2, groups, *seen.shape[2:])[:, 0, ..., :SINKS].sum(1)
        hits = (sums / count > EPSILON) & self._long[:, None, None]
        wide = torch.zeros(*hits.shape[:2], SINKS, dtype=torch.float64, device=hits.device)
        wide[..., : hits.shape[2]] = hits.double()
        self._keep("sinks", (index,), wide)

    def _add_vertical(self, index: int, received: AttentionReceived, value: Tensor) -> None:
        sums, seen = received.sums.sum(1), received.seen.sum(1)
        queries = (self._group > 0).sum(-1)[:, None, None]
        usable = (seen > 0) & (2 * seen >= queries) & (self._group > 0)[:, None]
        mean = torch.where(usable, sums / seen, -1)
        most, at = mean.max(-1)  # [B, H]
        any_usable = usable.any(-1) & self._several[:, None]  # [B, 1 or H]
        hit = (most > EPSILON) & any_usable
        self._keep("vertical", (index,), hit.double())
        # In the order in which models have them in memory: three times as fast.
        rows = value.detach().transpose(1, 2)
        wide = torch.promote_types(rows.dtype, torch.float32)
        norms = torch.linalg.vector_norm(rows, dim=-1, dtype=wide).mT.double()
        norms = norms.repeat_interleave(at.shape[1] // norms.shape[1], 1)
        kept = (self._group > 0)[:, None].expand_as(norms)
        average = torch.where(kept, norms, 0).sum(-1) / queries[..., 0].clamp(min=1)
        ratio = norms.gather(-1, at[..., None])[..., 0] / average
        known = any_usable & ratio.isfinite()
        self._keep("value_ratio", (index,), torch.where(known, ratio, 0))
        kept_of = torch.stack([any_usable.expand_as(known), known], -1)
        self._keep("usable", (index,), kept_of.double())
        token = self._ids.gather(1, at)
        head = torch.arange(at.shape[1], device=at.device)
        keys = torch.stack([torch.full_like(token, index), head.expand_as(token), token], -1)
        counts = torch.stack([torch.ones_like(at), at == 0], -1)
        self._tops.append((keys[hit].cpu(), counts[hit].double().cpu()))

    def _keep(self, name: str, index: tuple[int, ...], values: Tensor) -> None:
        """Sums of the sequences [B, ...] by block, to be added at `commit`."""
        target = self.sums[name]
        total = torch.zeros(len(target), *values.shape[1:], dtype=torch.float64)
        total.index_add_(0, self._block.cpu(), values.cpu())
        self._pending.append((name, index, total))

    def commit(self) -> None:
        """The forward is complete."""
        for name, index, total in self._pending:
            target = self.sums[name]
            if index:
                axis = 1 if name in ("sinks", "usable", "vertical", "value_ratio") else 2
                target = target.select(axis, index[0])
                heads = total.shape[axis]
                target = target.narrow(axis, 0, heads)
            target += total
        kept = self._group.reshape(-1).cpu() > 0
        ids = self._ids.reshape(-1).cpu()[kept]
        self.tokens.add(ids[:, None], self._of_token[kept])
        if self._tops:
            keys, counts = (torch.cat(parts) for parts in zip(*self._tops, strict=True))
            self.tops.add(keys, counts)
        self.discard()

    def discard(self) -> None:
        """The forward failed."""
        self._pending, self._tops = [], []

    def state_dict(self) -> dict[str, Tensor]:
        """Flat tensors."""
        keyed = {"tokens": self.tokens.state_dict(), "tops": self.tops.state_dict()}
        return self.sums | under(keyed)

    def merge(self, state: Mapping[str, Tensor]) -> None:
        """Add the sums of other documents."""
        for name in self.sums:
            self.sums[name] = self.sums[name] + state[name]
        for name, part in (("tokens", self.tokens), ("tops", self.tops)):
            part.add(state[f"{name}/keys"], state[f"{name}/sums"])
