"""A recording within an audio file, as the bytes of the file describe it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import BinaryIO

from codecctl.audio.views import Piece, read_at


@dataclass(frozen=True)
class Segment:
    """One recording within a file; joined files hold several.

    `n_claimed` and `n_there` count bytes, frames or samples, whatever the format claims; `n_claimed` is None where it
    claims nothing. `pieces` are decoded in place of [start, end), unless the decoder finds `n_samples` by itself.
    """

    format: str
    start: int  # bytes
    end: int
    n_claimed: int | None = None
    n_there: int = 0
    is_cut: bool = False
    pieces: tuple[Piece, ...] | None = None
    n_samples: int | None = None  # per channel, where it was counted


def skip_id3(file: BinaryIO, position: int) -> int:
    """The offset behind the ID3v2 tags that start here."""
    while (head := read_at(file, position, 10))[:3] == b"ID3" and len(head) == 10:
        size = head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9]
        position += 10 + size + (10 if head[5] & 0x10 else 0)
    return position
