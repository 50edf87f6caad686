"""Runs that survive: a plan that never changes, shards as commit units, a merge that is pure."""

from outdim.run.execute import execute
from outdim.run.plan import Entry, Study
from outdim.run.request import Request
from outdim.run.share import SpreadOptions

__all__ = ["Entry", "Request", "SpreadOptions", "Study", "execute"]
