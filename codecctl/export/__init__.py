"""Codecs for other programs: one file a format, one table of them."""
