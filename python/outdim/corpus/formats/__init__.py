"""Formats of text, one file each."""
