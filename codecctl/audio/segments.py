"""Recordings within an audio file: byte ranges of it, and bytes that replace some of its header."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

Piece = bytes | tuple[int, int]
"""Bytes as they are, or the range [start, end) of the file."""


class FileView(io.RawIOBase):
    """A read-only, seekable file: these pieces of `file`, one behind the other.

    libsndfile reads through it, and an exception cannot pass through its C code: an `OSError` of the file ends the
    view early and stays in `error`.
    """

    def __init__(self, file: BinaryIO, pieces: tuple[Piece, ...]) -> None:
        self._file, self._pieces = file, pieces
        self._starts = [0]
        for piece in pieces:
            self._starts.append(self._starts[-1] + (len(piece) if isinstance(piece, bytes) else piece[1] - piece[0]))
        self._position = 0
        self.error: OSError | None = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._starts[-1]}[whence]
        self._position = max(0, base + offset)
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        target = memoryview(buffer).cast("B")
        n_read = 0
        try:
            while n_read < len(target) and (part := self._read_part(len(target) - n_read)):
                target[n_read : n_read + len(part)] = part
                n_read += len(part)
        except OSError as error:
            self.error = error
        return n_read

    def _read_part(self, n_bytes: int) -> bytes:
        """At most n_bytes from one piece, at the present position; b"" at the end."""
        for piece, start, end in zip(self._pieces, self._starts, self._starts[1:], strict=False):
            if self._position < end:
                within, n_most = self._position - start, min(n_bytes, end - self._position)
                if isinstance(piece, bytes):
                    part = piece[within : within + n_most]
                else:
                    part = read_at(self._file, piece[0] + within, n_most)
                self._position += len(part)
                return part
        return b""


def read_at(file: BinaryIO, offset: int, n_bytes: int) -> bytes:
    """Up to n_bytes from this offset; none where damaged sizes lead beyond any file."""
    if not 0 <= offset < 2**63:
        return b""
    file.seek(offset)
    return file.read(n_bytes)


def patched(start: int, end: int, patches: Mapping[int, bytes]) -> tuple[Piece, ...]:
    """The range [start, end) of a file with the bytes at some offsets replaced."""
    pieces: list[Piece] = []
    for offset in sorted(patches):
        pieces += [(start, offset), patches[offset]]
        start = offset + len(patches[offset])
    return (*pieces, (start, end))


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
