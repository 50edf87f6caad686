"""Kernels as functions: tensors in, tensors out, NumPy arrays in, NumPy arrays out.

Each validates its arguments, runs on CUDA, on the CPU or in plain torch (`backend`), and is also
registered with torch.library as torch.ops.outdim.*, so that torch.compile traces through it.
"""

from outdim.ops._reference.merge import empty_state
from outdim.ops.attention_received import AttentionReceived, attention_received
from outdim.ops.comoments import Comoments, comoments, merge_comoments
from outdim.ops.layer_norm import Edit, layer_norm, layer_norm_moments
from outdim.ops.magnitude_counts import (
    magnitude_counts_add,
    magnitude_counts_empty,
    magnitude_counts_move,
)
from outdim.ops.merge import merge_states
from outdim.ops.moments import MomentsState, StatisticsArgs, moments
from outdim.ops.rank_histogram import rank_histogram_add, rank_histogram_touch
from outdim.ops.segment_sums import Segments, segment_sums, segments
from outdim.ops.sizes import Sizes, sizes
from outdim.ops.token_shape import TokenShape, token_shape
from outdim.ops.unit_sums import unit_sums

__all__ = [
    "AttentionReceived",
    "Comoments",
    "Edit",
    "MomentsState",
    "Segments",
    "Sizes",
    "StatisticsArgs",
    "TokenShape",
    "attention_received",
    "comoments",
    "empty_state",
    "layer_norm",
    "layer_norm_moments",
    "magnitude_counts_add",
    "magnitude_counts_empty",
    "magnitude_counts_move",
    "merge_comoments",
    "merge_states",
    "moments",
    "rank_histogram_add",
    "rank_histogram_touch",
    "segment_sums",
    "segments",
    "sizes",
    "token_shape",
    "unit_sums",
]
