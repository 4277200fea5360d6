"""Lengths in the headers of AVR, MPC 2000, MATLAB 4 and 5, WVE, SDS (MIDI) and XI (FastTracker), compared with the
bytes that are there.

PVF and PAF claim no length: all that is there is read.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import BinaryIO

from codecctl.audio.segments import Piece, Segment, patched, read_at

_MAT4_BYTES = {0: 8, 1: 4, 2: 4, 3: 2, 4: 2, 5: 1}  # of a value, by the tens digit of the matrix's type
_MAT5_MATRIX = 14
_SDS_PACKET, _SDS_PACKET_DATA = 127, 120  # bytes


def inspect(file: BinaryIO, start: int, n_file: int) -> Segment | None:
    """The recording in one of these formats that starts at this byte, or None."""
    head = read_at(file, start, 340)
    if head[:4] == b"2BIT" and len(head) >= 128:
        width, n_samples = _unpack(">H", head, 14) // 8, _unpack(">I", head, 26)
        return _segment("AVR", start, n_file, start + 128, n_samples * (1 + (head[12:14] != b"\0\0")) * width)
    if head[:2] == b"\x01\x04" and len(head) >= 42:
        return _segment("MPC 2000", start, n_file, start + 42, _unpack("<I", head, 30) * (1 + bool(head[21])) * 2)
    if head[:15] == b"ALawSoundFile**" and len(head) >= 32:
        return _segment("WVE", start, n_file, start + 32, _unpack(">I", head, 18))
    if head[:20] == b"Extended Instrument:" and len(head) >= 338:
        return _segment("XI", start, n_file, start + 338, _unpack("<I", head, 298))
    if head[:2] == b"\xf0\x7e" and head[3:4] == b"\x01" and len(head) >= 21:
        return _inspect_sds(head, start, n_file)
    if head[20:31] == b"samplerate\0":
        return _inspect_mat4(file, head, start, n_file)
    if head[:10] == b"MATLAB 5.0":
        return _inspect_mat5(file, head, start, n_file)
    return None


def _inspect_sds(head: bytes, start: int, n_file: int) -> Segment | None:
    """Packets of 120 bytes of data follow, seven bits of a sample in each byte."""
    n_bytes = -(-head[6] // 7)
    if not 2 <= n_bytes <= 4:
        return None
    n_samples, per_packet = head[10] | head[11] << 7 | head[12] << 14, _SDS_PACKET_DATA // n_bytes
    n_packets, first = -(-n_samples // per_packet), start + 21
    n_whole = (n_file - first) // _SDS_PACKET
    segment = _segment("SDS", start, n_file, first, n_packets * _SDS_PACKET)
    if n_whole >= n_packets:
        return segment
    n_there = n_whole * per_packet
    true_size = bytes((n_there & 127, n_there >> 7 & 127, n_there >> 14))
    pieces = patched(start, first + n_whole * _SDS_PACKET, {start + 10: true_size})
    return Segment("SDS", start, n_file, n_samples, n_there, True, pieces)


def _inspect_mat4(file: BinaryIO, head: bytes, start: int, n_file: int) -> Segment | None:
    """A matrix of one value, the sample rate, then one of channels and samples."""
    order = "<" if head[:2] == b"\0\0" and head[4] else ">"
    position = start + 31 + _MAT4_BYTES.get(_unpack(order + "I", head, 0) // 10 % 10, 8)
    fields = read_at(file, position, 20)
    if len(fields) < 20:
        return None
    kind, n_channels, n_samples, _, n_name = struct.unpack(order + "5I", fields)
    width = _MAT4_BYTES.get(kind // 10 % 10, 8)
    return _segment("MATLAB 4", start, n_file, position + 20 + n_name, n_channels * n_samples * width)


def _inspect_mat5(file: BinaryIO, head: bytes, start: int, n_file: int) -> Segment | None:
    """A matrix of one value, the sample rate, then one of channels and samples: flags, sizes, name and values."""
    order = "<" if head[126:128] == b"IM" else ">"
    matrices = (content for kind, content, _ in _elements(file, start + 128, order, 2) if kind == _MAT5_MATRIX)
    for content in list(matrices)[1:]:
        for _, position, size in list(_elements(file, content, order, 4))[3:]:
            return _segment("MATLAB 5", start, n_file, position, size)
    return None


def _elements(file: BinaryIO, position: int, order: str, n_most: int) -> Iterator[tuple[int, int, int]]:
    """The type, the offset of the content and the size of the content of each element; small ones have all three in
    eight bytes."""
    for _ in range(n_most):
        head = read_at(file, position, 8)
        if len(head) < 8:
            return
        kind, size = struct.unpack(order + "2I", head)
        if kind >> 16:
            yield kind & 0xFFFF, position + 4, kind >> 16
            position += 8
        else:
            yield kind, position + 8, size
            position += 8 + size + -size % 8


def _segment(name: str, start: int, n_file: int, position: int, n_claimed: int) -> Segment:
    """The recording whose audio begins at `position`; a length of zero is that of a writer that did not finish."""
    n_left = max(0, n_file - position)
    n_there = min(n_left, n_claimed) if n_claimed else n_left
    pieces: tuple[Piece, ...] = ((start, position + n_there),)  # libsndfile takes what follows for audio, too
    return Segment(name, start, position + n_there, n_claimed or None, n_there, n_there < n_claimed, pieces)


def _unpack(form: str, head: bytes, offset: int) -> int:
    return int(struct.unpack_from(form, head, offset)[0])
