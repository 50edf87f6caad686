"""The analyses, one module a step: models, text and statistics in, results out.

The package itself imports nothing: the command line asks its registry for names alone.
"""
