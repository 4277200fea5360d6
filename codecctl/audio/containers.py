"""Sizes in the headers of WAV, RF64, W64, AIFF, AU, CAF, SPHERE, VOC and SVX, compared with the bytes that are there.

IRCAM's header claims no length: all that is there is read.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from codecctl.audio.segments import Piece, Segment, patched, read_at

_LIVE_RANGE = 1 << 16
MISCOUNTED_BYTES = 64  # some writers count the header with the audio
_CHUNK_LIMIT = 10_000
_FILE_MAGIC = (b"RIFF", b"RIFX", b"RF64", b"FORM", b"riff", b"caff")
_SPHERE_FIELDS = (b"sample_count", b"channel_count", b"sample_n_bytes")


@dataclass(frozen=True)
class _ChunkForm:
    """How the chunks of a format are laid out."""

    n_name: int  # bytes
    size: str  # of the content, for `struct`
    alignment: int  # bytes
    counts_head: bool = False  # the size counts name and size, too
    n_least: int = 0  # bytes of a chunk of audio that holds no sample

    @property
    def n_size(self) -> int:
        return struct.calcsize(self.size)

    @property
    def n_head(self) -> int:
        return self.n_name + self.n_size

    def is_claim(self, size: int) -> bool:
        """Whether a chunk of audio states its size."""
        is_live = is_live_size(size) if self.n_size == 4 else size >= 2**63 - 25
        return size > self.n_least and not is_live

    def fix(self, position: int, n_bytes: int) -> dict[int, bytes]:
        """Writes a size before the content that begins at `position`."""
        size = min(n_bytes + (self.n_head if self.counts_head else 0), 256**self.n_size - 1)
        return {position - self.n_size: struct.pack(self.size, size)}

    def padded(self, size: int) -> int:
        return max(0, size) + -max(0, size) % self.alignment


_RIFF, _IFF, _AIFF = _ChunkForm(4, "<I", 2), _ChunkForm(4, ">I", 2), _ChunkForm(4, ">I", 2, n_least=8)
_CAF, _W64 = _ChunkForm(4, ">q", 1, n_least=4), _ChunkForm(16, "<Q", 8, counts_head=True)


def inspect(file: BinaryIO, start: int, n_file: int) -> Segment | None:
    """The recording in one of these formats that starts at this byte, or None."""
    head = read_at(file, start, 16)
    if head[:4] in (b"RIFF", b"RIFX", b"RF64") and head[8:12] == b"WAVE":
        return _inspect_wav(file, start, n_file, head)
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        return _inspect_aiff(file, start, n_file)
    if head[:4] == b"riff" and head[4:] == b".\x91\xcf\x11\xa5\xd6(\xdb\x04\xc1\x00\x00":
        return _inspect_chunks("W64", file, start, n_file, 40, b"data", _W64)
    if head[:4] in (b".snd", b"dns.") and len(head) == 16:
        return _inspect_au(file, start, n_file, head)
    if head[:6] == b"caff\x00\x01":
        return _inspect_chunks("CAF", file, start, n_file, 8, b"data", _CAF)
    if head[:8] == b"NIST_1A\n":
        return _inspect_sphere(file, start, n_file)
    if head == b"Creative Voice F":
        return _inspect_voc(file, start, n_file)
    if head[:4] == b"FORM" and head[8:12] in (b"8SVX", b"16SV"):
        return _inspect_chunks("SVX", file, start, n_file, 12, b"BODY", _IFF)
    return None


def _inspect_chunks(
    name: str, file: BinaryIO, start: int, n_file: int, n_head: int, audio: bytes, form: _ChunkForm
) -> Segment | None:
    """A head of the file, then chunks, one of which, named `audio`, is the audio."""
    for chunk, position, size in _chunks(file, start + n_head, form):
        if chunk == audio:
            claimed, fix = size if form.is_claim(size) else None, form.fix(position, n_file - position)
            return _segment(name, file, start, n_file, position, claimed, fix, form)
    return None


def _inspect_wav(file: BinaryIO, start: int, n_file: int, head: bytes) -> Segment | None:
    form = _IFF if head[:4] == b"RIFX" else _RIFF
    wide_size: int | None = None  # offset of the 64-bit size of an RF64 file
    for name, position, size in _chunks(file, start + 12, form):
        if name == b"ds64" and head[:4] == b"RF64":
            wide_size = position + 8
        if name != b"data":
            continue
        if wide_size is not None and size == 0xFFFFFFFF:
            size = int.from_bytes(read_at(file, wide_size, 8), "little")
            is_claim, fix = 0 < size < 2**63 - 1, {wide_size: struct.pack("<Q", n_file - position)}
        else:
            n_left = n_file - position
            # Behind 4 GB of more bytes than claimed stands a writer whose 32 bits did not hold the size.
            is_claim = form.is_claim(size) and n_left - size < 2**32
            is_claim = is_claim or (not size and _is_chunk_list(file, position, n_file, form))
            if not is_claim and n_left > 0xFFFFFFFF and form is _RIFF:
                return Segment("WAV", start, n_file, None, n_left, False, _as_rf64(start, position, n_file))
            fix = form.fix(position, n_left)
        return _segment("WAV", file, start, n_file, position, size if is_claim else None, fix, form)
    return None


def _as_rf64(start: int, position: int, n_file: int) -> tuple[Piece, ...]:
    """A WAV file with the 64-bit size of its audio, which begins at `position`, in the header."""
    sizes = struct.pack("<I3QI", 28, n_file - start + 28, n_file - position, 0, 0)
    head = b"RF64\xff\xff\xff\xffWAVEds64" + sizes
    return head, (start + 12, position - 4), b"\xff\xff\xff\xff", (position, n_file)


def _inspect_aiff(file: BinaryIO, start: int, n_file: int) -> Segment | None:
    n_claimed = 0  # bytes, by the number of samples
    for name, position, size in _chunks(file, start + 12, _AIFF):
        if name == b"COMM":
            n_channels, n_frames, n_bits = struct.unpack(">HIH", read_at(file, position, 8).ljust(8, b"\0"))
            n_claimed = 0 if is_live_size(n_frames) else 8 + n_frames * n_channels * -(-n_bits // 8)
        if name == b"SSND":
            is_claim = _AIFF.is_claim(size)
            claimed = size if is_claim else n_claimed or None
            fix = {} if is_claim else _AIFF.fix(position, n_file - position)
            return _segment("AIFF", file, start, n_file, position, claimed, fix, _AIFF)
    return None


def _inspect_au(file: BinaryIO, start: int, n_file: int, head: bytes) -> Segment | None:
    offset, size = struct.unpack(">II" if head[:4] == b".snd" else "<II", head[4:12])
    claimed = None if is_live_size(size) else size
    return _segment("AU", file, start, n_file, start + offset, claimed, {start + 8: b"\xff\xff\xff\xff"})


def _inspect_sphere(file: BinaryIO, start: int, n_file: int) -> Segment | None:
    header = read_at(file, start, 4096)
    size = re.match(rb"NIST_1A\n\s*(\d{1,6})\n", header)
    if size is None:
        return None
    fields = dict(re.findall(rb"(\w+) -i (\d{1,12})\s", header))
    n_samples, n_channels, width = (int(fields.get(name, b"1")) for name in _SPHERE_FIELDS)
    claimed = n_samples * n_channels * width if b"sample_count" in fields else None
    return _segment("SPHERE", file, start, n_file, start + int(size[1]), claimed, {})


def _inspect_voc(file: BinaryIO, start: int, n_file: int) -> Segment:
    """Blocks follow, each of a kind and a size of 24 bits, up to one of kind 0."""
    first = position = start + int.from_bytes(read_at(file, start + 20, 2), "little")
    for _ in range(_CHUNK_LIMIT):
        head = read_at(file, position, 4)
        if len(head) < 4 or not head[0]:
            break
        position += 4 + int.from_bytes(head[1:], "little")
    return _segment("VOC", file, start, n_file, first, position - first, {})


def _segment(
    name: str,
    file: BinaryIO,
    start: int,
    n_file: int,
    position: int,
    n_claimed: int | None,
    fix: dict[int, bytes],
    form: _ChunkForm | None = None,
) -> Segment:
    """The recording whose audio begins at `position`; `fix` writes the true size into its header, and chunks of the
    form `form` may follow the audio."""
    n_left = max(0, n_file - position)
    n_there = n_left if n_claimed is None else min(n_left, n_claimed)
    is_cut = n_claimed is not None and n_claimed - n_there > MISCOUNTED_BYTES
    end = n_file
    if n_claimed is not None and not is_cut:
        end = position + n_there
        if form is not None:
            end = _next_file(file, position + form.padded(n_there), n_file, form)
    pieces = patched(start, n_file, fix) if fix and n_left and (n_claimed is None or is_cut) else None
    return Segment(name, start, end, n_claimed, n_there, is_cut, pieces)


def is_live_size(size: int) -> bool:
    """Whether a program writes this 32-bit size when it does not know the size yet."""
    return size == 0 or any(limit - _LIVE_RANGE <= size <= limit for limit in (2**31, 2**32 - 1))


def _chunks(file: BinaryIO, position: int, form: _ChunkForm) -> Iterator[tuple[bytes, int, int]]:
    """The first four bytes of the name, the offset of the content, and the size of the content of each chunk."""
    for _ in range(_CHUNK_LIMIT):
        head = read_at(file, position, form.n_head)
        if len(head) < form.n_head:
            return
        size = struct.unpack(form.size, head[form.n_name :])[0] - (form.n_head if form.counts_head else 0)
        yield head[:4], position + form.n_head, size
        position += form.n_head + form.padded(size)


def _next_file(file: BinaryIO, position: int, n_file: int, form: _ChunkForm) -> int:
    """Where, behind the chunks that follow the audio, another file starts; else the end of the file."""
    for name, content, size in _chunks(file, position, form):
        if name in _FILE_MAGIC:
            return content - form.n_head
        if not name.isascii() or content + size > n_file:
            break
    return n_file


def _is_chunk_list(file: BinaryIO, position: int, n_file: int, form: _ChunkForm) -> bool:
    """Whether chunks follow, and nothing else, up to the end of the file: then there is no audio before them."""
    end = position
    for name, content, size in _chunks(file, position, form):
        if not name.isascii() or content + size > n_file:
            return False
        end = content + form.padded(size)
    return end >= n_file
