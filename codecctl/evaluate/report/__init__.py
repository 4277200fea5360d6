"""The report: one HTML page that needs no network, to read, to sort, to listen.

`page.html.j2` lists the sections, `sections/NAME.html.j2` has the text of one.
"""
