"""Kinds of drawing, one file each: a table, an interactive plot and a static drawing of it."""
