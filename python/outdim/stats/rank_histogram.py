"""Exact streaming Spearman correlations, medians and quantiles of 16-bit hidden states."""

from typing import Any

import torch
from torch import Tensor

from outdim import ops
from outdim.errors import ArgumentError, DataError, DtypeError
from outdim.ops._check import as_tensor, check_tensor, describe
from outdim.ops._dispatch import Backend, keep_to_one_thread_after_fork
from outdim.ops.rank_histogram import PAGE_BINS
from outdim.stats._turns import Turns, in_turn
from outdim.stats.rank_result import RankResult
from outdim.stats.ranks import double_mid_ranks

HALF_CODES = {torch.float16: 1, torch.bfloat16: 2}
# On a GPU up to so many dimensions get all of their pages at once, 1 MiB each: which ones a batch
# needs is known there alone, and to ask would be to wait for its forward. More dimensions hold what
# they need, about a tenth of that, and wait once a batch until no page is missing.
_DENSE_DIMS = 1024


class RankHistogram(Turns):
    """Histogram of chosen dimensions over the 65,536 values of a 16-bit type.

    For each value it holds how many tokens had it and the sum of the mid-ranks of their
    frequencies, in integers: Spearman's rho of h, and of |h|, with token frequency comes out
    exact (as scipy.stats.spearmanr on the same values, to about 1e-15), as do medians and
    quantiles, in memory that does not grow with the stream (at most 1 MiB a dimension; in
    practice a fraction on the CPU, where pages of values that never occur are not held, and on a
    GPU for more than 1,024 dimensions, at the price of one wait a batch) and in any order.

    The ranks of the frequencies are those within the stream, so its token counts are needed
    beforehand: a first pass over the ids.

    Args:
        dims: S dimensions, int64.
        counts: [V] int64, how often each token id occurs among the counted rows of the stream.
        frequencies: [V] int64, the token frequencies that are ranked: those of another corpus, say.
            None: the counts.
        backend: "auto", "cpu", "cuda" or "reference".

    Raises:
        ArgumentError: Negative counts, no, repeated or negative dimensions.
        DtypeError: Another dtype.

    Sums are int64: exact for streams of up to 2e9 tokens, and for longer ones of n tokens as long
    as no value is shared by more than 4.6e18 / n of them.

    Example:
        >>> ids = torch.tensor([0, 1, 0, 2, 0, 1])
        >>> hidden = torch.tensor([[3.0, 1.0, 3.0, -0.5, 3.0, 2.0]], dtype=torch.bfloat16).T
        >>> histogram = RankHistogram([0], torch.bincount(ids)).update(hidden, ids)
        >>> histogram.compute().spearman()  # the commoner the token, the larger h
        tensor([0.9837], dtype=torch.float64)
        >>> histogram.compute().median
        tensor([2.5000], dtype=torch.float64)
    """

    def __init__(
        self, dims: Any, counts: Any, *, frequencies: Any = None, backend: Backend = "auto"
    ) -> None:
        super().__init__()
        keep_to_one_thread_after_fork()
        dims = torch.tensor(dims) if isinstance(dims, list | tuple) else as_tensor("dims", dims)
        counts = as_tensor("counts", counts)
        check_tensor(
            "dims", dims, (torch.int64,), "(S,), S >= 1", lambda t: t.dim() == 1 and len(t) > 0
        )
        check_tensor("counts", counts, (torch.int64,), "(V,)", lambda t: t.dim() == 1)
        if len(dims.unique()) != len(dims):
            raise ArgumentError(f"dims: expected each once, got {dims.tolist()}")
        if int(dims.min()) < 0:
            raise ArgumentError(f"dims: expected none below zero, got {dims.tolist()}")
        if bool((counts < 0).any()):
            raise ArgumentError("counts: expected none below zero, got negative ones")
        self.dims: Tensor = dims.cpu()
        self._width = int(dims.max()) + 1
        frequencies = as_tensor("frequencies", frequencies)
        if frequencies is not None:
            check_tensor(
                "frequencies",
                frequencies,
                (torch.int64,),
                f"({len(counts)},)",
                lambda t: t.shape == counts.shape,
            )
        self.counts: Tensor = counts.cpu()
        self.frequencies: Tensor = self.counts if frequencies is None else frequencies.cpu()
        self.backend = backend
        self.dtype: torch.dtype | None = None
        self._double_rank = torch.from_numpy(
            double_mid_ranks(self.counts.numpy(), self.frequencies.numpy())
        )
        self._seen = torch.zeros_like(self.counts)
        self._index = torch.full((len(dims), PAGE_BINS), -1, dtype=torch.int32)
        self._pages = 0
        self._sums = torch.zeros(2, 0, PAGE_BINS, dtype=torch.int64)  # room for pages

    @in_turn
    @torch.inference_mode()  # what a pass took cannot be changed in place outside of it
    def update(self, hidden: Any, ids: Any, mask: Any = None) -> "RankHistogram":
        """Count the rows of a batch.

        Args:
            hidden: (..., D) float16 or bfloat16, of one dtype throughout, N rows.
            ids: N token ids, int64, of any shape.
            mask: N values, bool, of any shape: rows where it is False are left out.

        Returns:
            self

        Raises:
            ArgumentError: A wrong shape, an id outside [0, V). (Of such an id on a GPU, where to
                look would be to wait, `compute` says that its token is missing.)
            DtypeError: A wrong dtype, or another than before.
        """
        hidden, ids, mask = (
            as_tensor(name, value)
            for name, value in (("hidden", hidden), ("ids", ids), ("mask", mask))
        )
        if not isinstance(hidden, Tensor) or hidden.dtype not in HALF_CODES:
            raise DtypeError(
                f"hidden: expected float16 or bfloat16, got {describe(hidden)}; cast it, e.g. with "
                ".bfloat16(), to count rounded values"
            )
        if hidden.dim() == 0 or hidden.shape[-1] < self._width:
            raise ArgumentError(
                f"hidden: expected (..., D) with D >= {self._width} for the dims, got "
                f"{describe(hidden)}"
            )
        self._take_dtype(hidden.dtype)
        self._to(hidden.device)
        self._grow_for(hidden, mask)
        ops.rank_histogram_add(
            hidden, self.dims, ids, self._double_rank, self._index, *self._sums,
            mask=mask, backend=self.backend,
        )  # fmt: skip
        self._see(ids.reshape(-1), None if mask is None else mask.reshape(-1))
        return self

    @in_turn
    @torch.inference_mode()  # what a pass took cannot be changed in place outside of it
    def merge(self, other: "RankHistogram") -> "RankHistogram":
        """Add the counts of other rows of the same stream; any order gives the same result.

        Raises:
            ArgumentError: Other dims, counts or dtype.
        """
        for name in ("dims", "counts", "frequencies"):
            if not torch.equal(getattr(self, name).cpu(), getattr(other, name).cpu()):
                raise ArgumentError(f"other: expected the same {name}, got others")
        dtype, theirs, sums, seen = other._snapshot()
        if dtype is None:
            return self
        if self.dtype not in (None, dtype):
            raise ArgumentError(f"other: expected {self.dtype}, got {dtype}")
        self._take_dtype(dtype)
        device = self._index.device
        used = theirs.to(device) >= 0
        self._grow(used)
        self._sums[:, self._index[used].long()] += sums.to(device)
        self._seen += seen.to(device)
        return self

    @in_turn
    def _snapshot(self) -> tuple[torch.dtype | None, Tensor, Tensor, Tensor]:
        """Copy what another one merges."""
        return self.dtype, *self._held(), self._seen.clone()

    @in_turn
    def compute(self) -> "RankResult":
        """Return the exact statistics of the stream.

        Raises:
            DataError: The tokens seen are not those that `counts` describes, so that the ranks of
                their frequencies are wrong.
        """
        seen, counts = self._seen.cpu(), self.counts
        if not torch.equal(seen, counts):
            token = int((seen != counts).nonzero()[0])
            raise DataError(
                f"counts: expected those of the stream, {int(seen.sum())} tokens, got "
                f"{int(counts.sum())}; token {token} was seen {int(seen[token])} times, counts say "
                f"{int(counts[token])}. Count the ids of exactly the rows that are not masked"
            )
        index, sums = self._held()
        return RankResult(  # copies: what is added later is no part of it
            self.dims.tolist(),
            seen.numpy().copy(),
            self._double_rank.cpu().numpy().copy(),
            index.numpy(),
            sums.numpy(),
            self.dtype or torch.bfloat16,
        )

    @in_turn
    def state_dict(self) -> dict[str, Tensor]:
        """Return the state as a flat dict of int64 tensors on the CPU.

        Pages are in the order of dimension and value, so that equal states have equal bytes.
        """
        index, (count, rank_sum) = self._held()
        return {
            "dims": self.dims.cpu().clone(),
            "counts": self.counts.clone(),
            "frequencies": self.frequencies.clone(),
            "seen": self._seen.cpu().clone(),
            "page_index": index,
            "count": count,
            "rank_sum": rank_sum,
            "dtype": torch.tensor(0 if self.dtype is None else HALF_CODES[self.dtype]),
        }

    @in_turn
    def load_state_dict(self, state: dict[str, Tensor]) -> "RankHistogram":
        """Replace the state by one of `state_dict`.

        Raises:
            DataError: A missing or unknown key, a state of other dims or counts, or a damaged one;
                the accumulator then stays as it is.
        """
        expected = self.state_dict()
        if state.keys() != expected.keys():
            raise DataError(f"state: expected the keys {sorted(expected)}, got {sorted(state)}")
        for key in ("dims", "counts", "frequencies"):
            if not torch.equal(state[key].cpu(), expected[key]):
                raise DataError(f"state: it has other {key}; build RankHistogram alike")
        check_state(state, len(self.dims), len(self.counts))
        codes = {code: dtype for dtype, code in HALF_CODES.items()}
        self.dtype = codes.get(int(state["dtype"]))
        device = self._index.device
        self._seen = state["seen"].to(device, copy=True)
        self._index = state["page_index"].to(device, torch.int32, copy=True)
        self._sums = torch.stack([state["count"], state["rank_sum"]]).to(device)
        self._pages = self._sums.shape[1]
        return self

    def _take_dtype(self, dtype: torch.dtype) -> None:
        if self.dtype not in (None, dtype):
            raise DtypeError(f"hidden: expected {self.dtype} as before, got {dtype}")
        self.dtype = dtype

    def _to(self, device: torch.device) -> None:
        """Follow the hidden states to their device."""
        if self._index.device != device:
            self.dims, self._double_rank = self.dims.to(device), self._double_rank.to(device)
            self._seen, self._index = self._seen.to(device), self._index.to(device)
            self._sums = self._sums.to(device)

    def _see(self, ids: Tensor, mask: Tensor | None) -> None:
        """Count the tokens of a batch.

        An id outside the vocabulary, which the kernel of a GPU leaves out, is not counted either,
        so that `compute` misses it.
        """
        vocabulary = len(self._seen)
        known = (ids >= 0) & (ids < vocabulary)
        counted = known if mask is None else known & mask
        if vocabulary:
            self._seen.index_add_(0, ids.clamp(0, vocabulary - 1), counted.long())

    def _held(self) -> tuple[Tensor, Tensor]:
        """Copy the pages that hold something to the CPU: index [S, 256], sums [2, pages, 256].

        They are in the order of dimension and value, both int64.
        """
        pages = self._index.long()
        filled = torch.nn.functional.pad(self._sums[0].any(1), (0, 1))  # at -1: none
        held = filled[pages]
        sums = self._sums[:, pages[held]].cpu()
        index = torch.full(pages.shape, -1)
        index[held.cpu()] = torch.arange(sums.shape[1])
        return index, sums

    def _grow_for(self, hidden: Tensor, mask: Tensor | None) -> None:
        """Give the dimensions the pages that the rows of a batch need."""
        if self._pages == self._index.numel():
            return
        if self._dense:
            self._grow(torch.ones_like(self._index, dtype=torch.bool))
        else:
            touched = ops.rank_histogram_touch(hidden, self.dims, mask=mask, backend=self.backend)
            self._grow(touched.bool())

    @property
    def _dense(self) -> bool:
        return self._index.is_cuda and len(self.dims) <= _DENSE_DIMS

    def _grow(self, needed: Tensor) -> None:
        """Give a page of zeros to each needed (dimension, high byte) that has none."""
        new = needed & (self._index < 0)
        count = int(new.sum())  # on a GPU, the one wait
        if not count:
            return
        later = new.flatten().cumsum(0).view_as(new) + (self._pages - 1)
        self._index = torch.where(new, later.int(), self._index)
        self._pages += count
        room = self._sums.shape[1]
        if self._pages > room:  # a quarter more than before, so that rows are copied a few times
            larger = self._sums.new_zeros(2, max(self._pages, room + room // 4), PAGE_BINS)
            larger[:, :room] = self._sums
            self._sums = larger


def check_state(state: dict[str, Tensor], dims: int, vocab: int) -> None:
    """Check the tensors of a state that are not compared with one's own."""
    pages = state["count"].shape[0] if state["count"].dim() else 0
    shapes = {
        "seen": (vocab,),
        "page_index": (dims, PAGE_BINS),
        "count": (pages, PAGE_BINS),
        "rank_sum": (pages, PAGE_BINS),
        "dtype": (),
    }
    for name, shape in shapes.items():
        if state[name].shape != shape or state[name].dtype != torch.int64:
            raise DataError(
                f"state: damaged: {name}: expected {shape} int64, got {describe(state[name])}"
            )
    index = state["page_index"]
    if index.numel() and not (int(index.min()) >= -1 and int(index.max()) < pages):
        raise DataError(f"state: damaged: page_index: expected -1 to {pages - 1}, got others")
