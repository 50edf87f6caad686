"""Runs that survive: an immutable plan, shards as commit units, a merge that is pure."""

from outdim.run.engine import Share
from outdim.run.plan import Plan, Shard
from outdim.run.shards import ShardState, ShardStore

__all__ = ["Plan", "Shard", "ShardState", "ShardStore", "Share"]
