"""Text for messages and pages: what comes from outside made printable, numbers, and the nearest name to a wrong one."""

from __future__ import annotations

import difflib
import math
import unicodedata
from collections.abc import Iterable

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


def to_bytes(text: str) -> bytes:
    """UTF-8 for a hash; names of files give their own bytes, and halves of characters, which JSON may hold, escapes."""
    try:
        return text.encode(errors="surrogateescape")
    except UnicodeEncodeError:
        return text.encode(errors="backslashreplace")


def number(value: float, digits: int) -> str:
    """With so many digits after the point; `undefined` for NaN."""
    return "undefined" if math.isnan(value) else f"{value:z.{digits}f}"  # z: no minus before zero


def counted(n: int, what: str) -> str:
    """`1 recording`, `2 recordings`."""
    return f"{n} {what}{'s' * (n != 1)}"


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """A question for the end of a message on a wrong name; empty where none is near."""
    near = difflib.get_close_matches(name, [*names], n=1, cutoff=0.5)
    return f"; did you mean '{near[0]}'?" if near else ""
