"""The number of samples in a FLAC file, from its last frame (RFC 9639)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import BinaryIO

from codecctl.audio.segments import Segment, patched, read_at, skip_id3

_START = b"fLaC\0\0\0\x22"  # with the header of the first metadata block
_CHUNK_BYTES = 1 << 20
_TAIL_BYTES = (1 << 16, 1 << 22)  # a frame of 8 channels can have more than 2 MB
_HEADER_BYTES = 16  # at most
_MOST_METADATA_BLOCKS = 1000


@dataclass(frozen=True)
class _Frame:
    offset: int  # bytes
    header: bytes  # sync code, block size and rate, channels and sample size
    start: int  # its number, or that of its first sample where the block size varies
    n_samples: int


def inspect(file: BinaryIO, start: int, n_file: int) -> Segment | None:
    """The FLAC file that starts at this byte, and ends where the next one starts, or None."""
    begin = skip_id3(file, start)
    if read_at(file, begin, 4) != b"fLaC":
        return None
    n_file = _next_file(file, begin + 4, n_file)
    info = read_at(file, begin + 8, 34)
    position = begin + 4
    for _ in range(_MOST_METADATA_BLOCKS):
        head = read_at(file, position, 4)
        if len(head) < 4:
            return None
        position += 4 + int.from_bytes(head[1:], "big")
        if head[0] & 0x80:
            break
    first = _frame_at(read_at(file, position, _HEADER_BYTES), 0)
    last = first and _last_frame(file, position, n_file, first)
    if len(info) < 34 or not first or not last:
        return Segment("FLAC", start, n_file)
    is_variable = bool(first.header[1] & 1)
    n_before = last.start if is_variable else last.start * int.from_bytes(info[2:4], "big")
    claimed = int.from_bytes(info[13:18], "big") & (2**36 - 1)
    if claimed and n_before + last.n_samples == claimed:
        return Segment("FLAC", start, n_file, claimed, claimed)  # the decoder compares the last frame's checksum
    rest = read_at(file, last.offset, n_file - last.offset)
    is_whole = n_before + last.n_samples > claimed > 0 or _crc(rest, 16, 0x8005) == 0  # its own checksum included
    n_there = n_before + (last.n_samples if is_whole else 0)
    end = n_file if is_whole else last.offset
    total = (int.from_bytes(info[13:18], "big") >> 36 << 36 | min(n_there, 2**36 - 1)).to_bytes(5, "big")
    pieces = patched(begin, end, {begin + 8 + 13: total})
    return Segment("FLAC", start, n_file, claimed or None, n_there, claimed > n_there, pieces, n_there)


def _next_file(file: BinaryIO, position: int, n_file: int) -> int:
    """Where the next FLAC file starts, or the end of the file."""
    while position < n_file:
        data = read_at(file, position, _CHUNK_BYTES)
        if (at := data.find(_START)) >= 0:
            return position + at
        position += max(1, len(data) - len(_START) + 1) if len(data) == _CHUNK_BYTES else len(data) or n_file
    return n_file


def _last_frame(file: BinaryIO, begin: int, n_file: int, first: _Frame) -> _Frame | None:
    """The last frame whose header is intact."""
    for n_tail in _TAIL_BYTES:
        offset = max(begin, n_file - n_tail)
        tail = read_at(file, offset, n_file - offset)
        at = len(tail)
        while (at := tail.rfind(first.header[:2], 0, at + 1)) >= 0:
            frame = _frame_at(tail, at)
            if frame and frame.header[3] & 0x0E == first.header[3] & 0x0E and frame.start >= first.start:
                return replace(frame, offset=offset + at)
        if offset == begin:
            break
    return None


def _frame_at(data: bytes, at: int) -> _Frame | None:
    """The frame whose header is at this offset, if its checksum is right."""
    head = data[at : at + _HEADER_BYTES]
    if len(head) < 6 or head[0] != 0xFF or head[1] & 0xFE != 0xF8 or head[3] & 1:
        return None
    size_code, rate_code = head[2] >> 4, head[2] & 15
    n_number = 1 if head[4] < 0x80 else 8 - (head[4] ^ 0xFF).bit_length()
    if not size_code or rate_code == 15 or (n_number > 1 and not 2 <= n_number <= 7):
        return None
    n_size = {6: 1, 7: 2}.get(size_code, 0)
    n_header = 4 + n_number + n_size + {12: 1, 13: 2, 14: 2}.get(rate_code, 0)
    if len(head) <= n_header or _crc(head[:n_header], 8, 0x07) != head[n_header]:
        return None
    number = head[4] & (0x7F >> n_number if n_number > 1 else 0x7F)
    for byte in head[5 : 4 + n_number]:
        number = number << 6 | byte & 0x3F
    if n_size:
        n_samples = int.from_bytes(head[4 + n_number : 4 + n_number + n_size], "big") + 1
    else:
        n_samples = 192 if size_code == 1 else 576 << (size_code - 2) if size_code < 6 else 256 << (size_code - 8)
    return _Frame(at, head[:4], number, n_samples)


def _crc(data: bytes, n_bits: int, polynomial: int) -> int:
    table, value, shift, mask = _crc_table(n_bits, polynomial), 0, n_bits - 8, (1 << n_bits) - 1
    for byte in data:
        value = (value << 8 & mask) ^ table[value >> shift ^ byte]
    return value


@cache
def _crc_table(n_bits: int, polynomial: int) -> tuple[int, ...]:
    """The remainder of each byte."""
    values = []
    for byte in range(256):
        value = byte << (n_bits - 8)
        for _ in range(8):
            value = value << 1 ^ (polynomial if value >> (n_bits - 1) & 1 else 0)
        values.append(value & (1 << n_bits) - 1)
    return tuple(values)
