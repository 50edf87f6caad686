"""The ops in plain torch: any floating dtype, float64 included, on any device.

They say what the kernels must compute, serve where there is no compiled module, and are the path
that float64 tensors take. Statistics are float64 throughout.
"""

from outdim.ops._reference.attention_received import attention_received
from outdim.ops._reference.comoments import comoments
from outdim.ops._reference.layer_norm import layer_norm
from outdim.ops._reference.magnitude_counts import magnitude_counts_add
from outdim.ops._reference.moments import moments
from outdim.ops._reference.rank_histogram import rank_histogram_add, rank_histogram_touch
from outdim.ops._reference.segment_sums import segment_sums
from outdim.ops._reference.sizes import sizes
from outdim.ops._reference.token_shape import token_shape
from outdim.ops._reference.unit_sums import unit_sums

__all__ = [
    "attention_received",
    "comoments",
    "layer_norm",
    "magnitude_counts_add",
    "moments",
    "rank_histogram_add",
    "rank_histogram_touch",
    "segment_sums",
    "sizes",
    "token_shape",
    "unit_sums",
]
