"""Accumulators: update with batches, merge, compute; their states are plain tensors."""

from outdim.stats.covariates import Covariates
from outdim.stats.moments import Moments
from outdim.stats.rank_histogram import RankHistogram, RankResult
from outdim.stats.result import MomentsResult

__all__ = ["Covariates", "Moments", "MomentsResult", "RankHistogram", "RankResult"]
