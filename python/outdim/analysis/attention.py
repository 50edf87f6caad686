"""Hidden states and the attention that their tokens receive: the vertical pattern, in one pass.

Puccetti et al. 2022, section 5: outlier dimensions drive the vertical attention to special tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import pyarrow as pa
import torch
from torch import Tensor

from outdim.analysis.attention_maps import attention_maps
from outdim.analysis.dimensions import default_dims, named_dims, random_dims
from outdim.analysis.inputs import Inputs
from outdim.analysis.places import Places
from outdim.analysis.results.attention import AttentionFound
from outdim.analysis.results.attention_side import AttentionSide
from outdim.analysis.results.compared import others
from outdim.analysis.sentences import check_sentences
from outdim.analysis.step import Json, Observer, Part
from outdim.analysis.variants.variant import Variant
from outdim.errors import ArgumentError
from outdim.models import Ablation, Attention, attention_heads, controls
from outdim.models.ablation import At
from outdim.models.ablation_sites import sites
from outdim.stats import PointComoments
from outdim.stats.head_sums import HeadSums
from outdim.stats.jackknife import BLOCKS, block_of
from outdim.tables import parquet_bytes, read_parquet
from outdim.tokens import GROUPS

if TYPE_CHECKING:
    from outdim.models import Point
    from outdim.tokens import Batch

#: Which state is paired with the attention of a layer: that which it reads, or that which it
#: writes, as Puccetti et al. have it.
PAIRINGS = ("read", "written")
_MAPS = "attention_maps.parquet"
_CONTROLS = 2  # each costs a forward
_OTHERS = 64  # dimensions that say what is usual: all would be a third of what the step takes


@dataclass(frozen=True, kw_only=True)
class AttentionOptions:
    """Relate hidden states to the attention that their tokens receive (Puccetti et al. 2022).

    Args:
        dims: Dimensions whose |h| is related to attention, with intervals; none takes the first 16
            outliers by parameters, or the three dimensions nearest to being one, and ten random
            ones. What is usual among the others comes with it: the
            median of 64 of them, drawn once.
        ablate: Dimensions that are disabled for a second forward of the same text: what the
            patterns are without them, and how much they change; none for one forward only.
        controls: Beside these, how many sets of as many other dimensions are disabled, a forward
            each; none takes 2.
        at: What is disabled: state (the dimension itself), parameters (its gamma and beta in the
            norms, post-LN models), denominator (its part in the norms' mean and variance) or
            readers (its gamma and beta in the norms that read it, pre-LN models).
        sentences: A few short sentences whose whole attention is drawn, full beside ablated: four
            at most, cut at 32 tokens.
    """

    dims: list[int] | None = None
    ablate: list[int] | None = None
    controls: int | None = None
    at: At = "state"
    sentences: list[str] | None = None


class AttentionStep(Observer):
    """What keys receive, head by head, against |h| of their tokens, and where heads look."""

    name = "attention"
    Options = AttentionOptions
    wants = ("detect",)
    stays = ("dims",)
    by_default: ClassVar[bool] = False  # not every model lets its attention be seen
    attends: ClassVar[bool] = True

    @classmethod
    def resolve(cls, options: AttentionOptions, inputs: Inputs) -> Json:
        """Dimensions are chosen, and heads counted, once."""
        recorded = super().resolve(options, inputs)
        arch = inputs.architecture
        dims = default_dims(inputs) if options.dims is None else options.dims
        heads = attention_heads(inputs.model, arch)
        chosen = named_dims("dims", dims, arch.hidden_size)
        named_dims("ablate", options.ablate or (), arch.hidden_size)
        if not dims or options.ablate == []:
            raise ArgumentError("dims, ablate: expected at least one dimension, got none.")
        check_sentences(options.sentences, inputs.tokenizer)
        if options.ablate is None and options.at != AttentionOptions.at:
            raise ArgumentError(
                f"at: says where dimensions are disabled, got {options.at!r} and none to disable; "
                "name them by `ablate`."
            )
        return {
            **recorded,
            "dims": chosen,
            "controls": _controls(options, inputs),
            "others": sorted(random_dims(arch.hidden_size, _OTHERS, but=chosen)),
            "heads": [[layer, count] for layer, count in heads.items()],
        }

    @classmethod
    def attach(cls, options: AttentionOptions, inputs: Inputs) -> dict[str, bytes]:
        """The maps of the sentences: made once, of no shard."""
        if not options.sentences:
            return {}
        ablation = Ablation(tuple(options.ablate), at=options.at) if options.ablate else None
        maps = attention_maps(
            inputs.model, inputs.tokenizer, options.sentences, ablation, found=inputs.architecture
        )
        return {_MAPS: parquet_bytes(maps)}

    @classmethod
    def forwards(cls, recorded: Mapping[str, Any], unit: Mapping[str, Any]) -> int:
        """The model, the ablated one, and its controls."""
        return 2 + len(recorded["controls"]) if recorded["ablate"] else 1

    @cached_property
    def heads(self) -> dict[int, int]:
        """How many heads each layer has."""
        return dict(self.recorded["heads"])

    @cached_property
    def places(self) -> Places:
        """Sets of tokens whose share of the attention is kept."""
        return Places.kept(self.inputs)

    @cached_property
    def sums(self) -> HeadSums:
        """What the heads attend to."""
        most = max(self.heads.values())
        return HeadSums(BLOCKS, len(GROUPS), tuple(self.heads), most, len(self.places.names))

    @cached_property
    def pairs(self) -> dict[int, PointComoments]:
        """Co-moments of |h| with what heads give, by layer, block and group.

        Of the chosen dimensions, and behind them of the others; none of a control.
        """
        if not self.recorded["dims"]:
            return {}
        labels = [f"{group} {block}" for block in range(BLOCKS) for group in GROUPS]
        return {
            layer: PointComoments(PAIRINGS, labels, heads) for layer, heads in self.heads.items()
        }

    def accumulators(self) -> Mapping[str, Part]:
        """Sums of heads, and co-moments of each layer."""
        pairs: dict[str, Part] = {f"pairs {layer}": part for layer, part in self.pairs.items()}
        return {"sums": self.sums, **pairs}

    @cached_property
    def twins(self) -> Sequence[tuple[Ablation, AttentionStep]]:
        """The same, of the ablated model, and where its heads look with other dimensions off."""
        if not self.recorded["ablate"]:
            return ()
        ablated = {**self.recorded, "ablate": None, "controls": []}
        control = {**ablated, "dims": [], "others": []}
        sets = [(self.recorded["ablate"], ablated)]
        sets += [(dims, control) for dims in self.recorded["controls"]]
        return [
            (Ablation(tuple(dims), at=self.recorded["at"]), AttentionStep(recorded, self.inputs))
            for dims, recorded in sets
        ]

    def begin(self, batch: Batch) -> None:
        """The next forward reads ``batch``."""
        block = block_of(batch.keys)
        self._ids = batch.input_ids
        # Group g of block b is label 1 + g + 3 b, 0 stays 0: a table, since the type is so narrow.
        label = batch.group.long() + len(GROUPS) * block[:, None]
        self._label = torch.where(batch.group > 0, label, 0).to(torch.uint8)
        self._rows: dict[int, Tensor] = {}
        self._read: Tensor | None = None
        place = self.places.of_batch(batch.input_ids, batch.position)
        self.sums.begin(batch.input_ids, batch.group, block, place, batch.offsets == 0)

    @cached_property
    def _dims(self) -> Tensor:
        dims = self.recorded["dims"] + self.recorded["others"]
        return torch.tensor(dims, device=self.inputs.device)

    def observe(self, point: Point, hidden: Tensor, *, taken: bool) -> None:
        """Pair the state that a layer has written with its attention; keep it for the next."""
        layer = self.layers[point.name]
        if layer in self._rows:
            self._pair("written", layer, hidden)
        self._read = hidden

    def attend(self, attention: Attention) -> None:
        """Pair the state that a layer reads with its attention."""
        sums = self.sums
        received = attention.received(sums.query_groups, 2 * len(GROUPS), entropy=True)
        sums.add(attention.layer, received, attention.value)
        if not self.pairs:
            return
        mean = received.mean()  # [B, H, S]; NaN only for keys that are in no group
        rows = mean.transpose(0, 1).reshape(mean.shape[1], -1)
        self._rows[attention.layer] = rows
        ids, label = self._ids.reshape(-1), self._label.reshape(-1)
        self.pairs[attention.layer].begin(ids, label, rows)
        assert self._read is not None
        self._pair("read", attention.layer, self._read)

    def _pair(self, pairing: str, layer: int, hidden: Tensor) -> None:
        rows = hidden.reshape(-1, hidden.shape[-1])
        self.pairs[layer].add(pairing, rows.index_select(1, self._dims))

    def commit(self) -> None:
        """The forward is complete."""
        super().commit()
        self._read = None

    def result(self) -> AttentionFound:
        """What was found."""
        ablations = [ablation for ablation, _ in self.twins]
        sides = [twin._side() for _, twin in self.twins]
        return AttentionFound(
            dims=tuple(self.recorded["dims"]),
            places=self.places,
            intact=self._side(),
            ablation=ablations[0].label if sides else "",
            ablated=sides[0] if sides else None,
            controls=tuple(sides[1:]),
            others=others([Variant("control", one) for one in ablations[1:]]) if sides[1:] else "",
            maps=self._maps(),
        )

    def _maps(self) -> pa.Table | None:
        path = self.inputs.attached(_MAPS)
        return None if path is None else read_parquet(path)

    def _side(self) -> AttentionSide:
        return AttentionSide(self.heads, self.sums, self.pairs, len(self.recorded["dims"]))


def _controls(options: AttentionOptions, inputs: Inputs) -> list[list[int]]:
    """Sets of as many other dimensions as are disabled.

    Raises:
        ArgumentError: There is nothing to stand beside; more than there are dimensions left.
    """
    if options.ablate is None:
        if options.controls is not None:
            raise ArgumentError(
                f"controls: stand beside dimensions that are disabled, got {options.controls} and "
                "none to disable; name them by `ablate`."
            )
        return []
    count = _CONTROLS if options.controls is None else options.controls
    if count < 0:
        raise ArgumentError(f"controls: expected 0 or more, got {count}.")
    ablation, arch = Ablation(tuple(options.ablate), at=options.at), inputs.architecture
    sites(arch, ablation)
    found = controls(inputs.model, ablation, n=count, found=arch) if count else []
    return [list(one.one_set) for one in found]
