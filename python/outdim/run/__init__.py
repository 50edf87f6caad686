"""Runs that survive: a plan that never changes, shards as commit units, a merge that is pure.

The package itself imports nothing: the command line asks it for options alone.
"""
