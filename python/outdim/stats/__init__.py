"""Accumulators: update with batches, merge, compute; their states are plain tensors."""

from outdim.stats.covariates import Covariates
from outdim.stats.magnitudes import Magnitudes
from outdim.stats.moments import Moments
from outdim.stats.point_comoments import PointComoments
from outdim.stats.point_counts import Extremes
from outdim.stats.point_moments import PointMoments
from outdim.stats.point_ranks import PointRanks
from outdim.stats.rank_histogram import RankHistogram
from outdim.stats.rank_result import RankResult
from outdim.stats.result import MomentsResult
from outdim.stats.token_shapes import TokenShapes
from outdim.stats.token_sums import TokenSums
from outdim.stats.type_buckets import TypeBuckets, fitting_buckets
from outdim.stats.type_table import TypeTable
from outdim.stats.type_units import TypeUnits

__all__ = [
    "Covariates",
    "Extremes",
    "Magnitudes",
    "Moments",
    "MomentsResult",
    "PointComoments",
    "PointMoments",
    "PointRanks",
    "RankHistogram",
    "RankResult",
    "TokenShapes",
    "TokenSums",
    "TypeBuckets",
    "TypeTable",
    "TypeUnits",
    "fitting_buckets",
]
