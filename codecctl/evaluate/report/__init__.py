"""The report: one HTML page that needs no network, to read, to sort, to listen.

`sections/NAME.html.j2` is the text of a section, `context.py` computes what it shows.
"""
