"""Runs that survive: an immutable plan, shards as commit units, and a merge that is a pure function."""

from outdim.run.merge import merge_run
from outdim.run.plan import Plan, Shard
from outdim.run.shards import ShardStore

__all__ = ["Plan", "Shard", "ShardStore", "merge_run"]
