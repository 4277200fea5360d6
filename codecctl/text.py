"""Text from outside, such as names of files and speakers, made fit for messages and pages."""

from __future__ import annotations

import unicodedata

_DIRECTION = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\u061c"  # marks that reorder text
_ESCAPED = ("Cc", "Cs", "Zl", "Zp")  # control characters, bytes that are not UTF-8, separators of lines


def printable(text: str) -> str:
    r"""The text on one line: what would move a cursor, reorder text or cannot be encoded becomes an escape (`\x1b`)."""
    return "".join(
        letter.encode("unicode_escape").decode("ascii")
        if letter in _DIRECTION or unicodedata.category(letter) in _ESCAPED
        else letter
        for letter in text
    )
