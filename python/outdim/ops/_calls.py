"""What a compiled kernel is asked to do: validated tensors with the outputs already allocated.

`_cpu.py` and `_cuda.py` turn these into addresses, sizes and a stream; both have the functions
`layer_norm(call, stats, of_input)`, `moments(hidden, call)`, `rank_histogram_touch(hidden, call)`
and so on. All tensors of a call are on one device. Every matrix of
rows is a view with contiguous columns (its row stride may be anything, also zero), or of any shape
(..., D) where it is contiguous; every other tensor is contiguous.
"""

from typing import Any, NamedTuple

from torch import Tensor


class StatisticsOfRows(NamedTuple):
    """What holds for N rows, whatever is taken of them; see csrc/core/moments.h."""

    ids: Tensor | None  # [N] int64, with table
    table: Tensor | None  # [K1, V] float64, K1 >= 1
    rows: Tensor | None  # [K2, N] float64, K2 >= 1
    group: Tensor | None  # [N] uint8
    groups: int
    tau: float
    exact: bool
    shape: bool
    native: Any = None  # all of it as the binding takes it, where that was prepared

    @property
    def covariates(self) -> int:
        """How many there are."""
        return sum(0 if value is None else len(value) for value in (self.table, self.rows))


class MomentsCall(NamedTuple):
    """Covariates, selection, options and states of a moments kernel."""

    given: StatisticsOfRows
    before_head: Tensor | None  # like head and body: the state to merge behind
    before_body: Tensor | None
    head: Tensor  # [groups, 1 + 2 K] float64, to be written
    body: Tensor  # [groups, R, D] float64, to be written


class NormOfRows(NamedTuple):
    """Parameters and edit of a norm; see csrc/core/layer_norm.h."""

    gamma: Tensor | None  # [D], dtype of beta
    beta: Tensor | None
    eps: float
    rms: bool
    dim_mask: Tensor | None  # [D] bool
    scale: Tensor | None  # [M, D] float32
    shift: Tensor | None
    clip: Tensor | None
    variant: Tensor | None  # [N] int32
    each: bool  # every row of x with every variant: y is [M * N, D]
    native: Any = None  # all of it as the binding takes it, where that was prepared


class LayerNormCall(NamedTuple):
    """Norm, inputs and outputs of a layer_norm kernel."""

    norm: NormOfRows
    x: Tensor  # [N, D] rows, float32, float16 or bfloat16
    residual: Tensor | None  # [N, D] rows, dtype of x
    sum: Tensor | None  # [N, D] contiguous, to be written
    y: Tensor  # [N, D] rows, to be written


class RankTouchCall(NamedTuple):
    """Inputs and output of the step that finds the pages; see csrc/core/rank_histogram.h."""

    dims: Tensor  # [S] int64
    mask: Tensor | None  # [N] bool
    touched: Tensor  # [S, 256] uint8 of zeros, to be set where a page is needed


class RankAddCall(NamedTuple):
    """Inputs and tables of the step that adds rows; see csrc/core/rank_histogram.h."""

    dims: Tensor  # [S] int64
    mask: Tensor | None  # [N] bool
    ids: Tensor  # [N] int64
    double_rank: Tensor  # [V] int64
    page_index: Tensor  # [S, 256] int32
    counts: Tensor  # [pages, 256] int64, added to
    rank_sums: Tensor  # [pages, 256] int64, added to


class SegmentSumsCall(NamedTuple):
    """Segments and table of a segment_sums kernel; see csrc/core/segment_sums.h."""

    order: Tensor  # [M] int64, rows of hidden
    starts: Tensor  # [S + 1] int64
    read: Tensor  # [S] int64
    write: Tensor  # [S] int64
    sums: Tensor  # [R, 3, D] float64, rows `write` to be written


class UnitSumsCall(NamedTuple):
    """Segments and sums of a unit_sums kernel; see csrc/core/unit_sums.h."""

    order: Tensor  # [M] int64, rows of hidden
    starts: Tensor  # [S + 1] int64
    left_out: Tensor  # [L] int64, dimensions
    sums: Tensor  # [S, 4, D] float64, to be written


class SizesCall(NamedTuple):
    """Segments and outputs of a sizes kernel; see csrc/core/sizes.h."""

    order: Tensor  # [M] int64, rows of hidden
    starts: Tensor  # [S + 1] int64
    rms: bool
    largest: Tensor | None  # [S, D] float32, float64 of float64, to be written
    squares: Tensor | None  # [N, 2] float64 of zeros, rows of `order` to be written


class ComomentsCall(NamedTuple):
    """Values, selection and outputs of a comoments kernel; see csrc/core/comoments.h."""

    rows: Tensor  # [K, N] float64
    group: Tensor | None  # [N] uint8
    groups: int
    head: Tensor  # [groups, 1 + 2 K] float64, to be written
    body: Tensor  # [groups, 2 + K, D] float64, to be written


class MagnitudeCountsCall(NamedTuple):
    """Selection and histograms of a magnitude_counts kernel; see its header in csrc/core."""

    group: Tensor | None  # [N] uint8
    fresh: Tensor  # [G, D, 528] int32, added to


class TokenShapeCall(NamedTuple):
    """Selection and outputs of a token_shape kernel; see csrc/core/token_shape.h."""

    group: Tensor | None  # [N] uint8
    smallest: Tensor  # [N] int64, to be written
    largest: Tensor
    kurtosis: Tensor  # [N] float64, to be written


class AttentionReceivedCall(NamedTuple):
    """Queries, keys and outputs of an attention_received kernel; see its header in csrc/core.

    What broadcasts has stride 0 there; the last dimension of query, key, mask and bias is
    contiguous.
    """

    query: Tensor  # [B, Hq, Sq, d]
    key: Tensor  # [B, Hkv, Sk, d], dtype of query
    scale: float
    softcap: float  # 0: none
    causal: bool
    window: int  # 0: none
    mask: Tensor | None  # [B, Hq, Sq, Sk] bool
    bias: Tensor | None  # [B, Hq, Sq, Sk] float32, float64 with a query of float64
    sinks: Tensor | None  # [Hq], dtype of bias
    group: Tensor | None  # [B, Sq] uint8
    sums: Tensor  # [B, G, Hq, Sk] float64 of zeros, to be written
    seen: Tensor  # [B, G, 1 or Hq, Sk] int64 of zeros, to be written; 1: one mask for all heads
    entropy: Tensor | None  # [B, Hq, Sq] float64 of NaN, to be written where it is defined
