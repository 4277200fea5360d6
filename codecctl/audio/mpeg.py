"""The frames of an MPEG audio file (MP1, MP2, MP3), counted: its headers hold estimates or nothing."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import BinaryIO

from codecctl.audio.segments import Piece, Segment, patched, read_at, skip_id3

_KBPS = {  # (MPEG-1, layer) -> by bitrate code
    (True, 1): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_KBPS[False, 3] = _KBPS[False, 2]
_XING, _VBRI = (b"Xing", b"Info"), b"VBRI"
_HEADER_BYTES = 4
_FIRST_CHUNK_BYTES, _CHUNK_BYTES = 1 << 14, 1 << 20
_TAG_BYTES = 64  # of a frame, as many as its Xing or VBRI header takes to be recognised
_SEARCH_BYTES = 1 << 16  # for the first frame, and for the next one after damage


@dataclass(frozen=True)
class _Header:
    """What all frames of a stream have in common."""

    key: tuple[int, int]  # the bits of the second and third byte that do not change
    layer: int
    n_samples: int  # of a frame
    tag_offset: int  # of a Xing header
    lengths: dict[int, int]  # second and third byte -> bytes of the frame


def inspect(file: BinaryIO, start: int, n_file: int) -> Segment | None:
    """The recording that starts at this byte and ends before the next one's tag or header, or None."""
    begin = skip_id3(file, start)
    found = _find_frame(read_at(file, begin, _SEARCH_BYTES), is_file=start == 0)
    if found < 0:
        return None
    begin += found
    first = read_at(file, begin, 4096)
    header = _parse(first)
    assert header is not None
    if len(first) < _TAG_BYTES:
        return None
    tag = _tag(first, header)
    n_first = header.lengths[first[1] << 8 | first[2]]
    count = _count(file, begin + n_first if tag else begin, n_file, header)
    n_frames, name = count.n_frames, f"MP{header.layer}"
    n_samples = n_frames * header.n_samples
    if header.layer != 3:
        return Segment(name, start, count.end, None, n_frames, n_samples=n_samples)
    claimed, patches = _claimed_frames(first, begin, header, tag, count)
    if claimed is None or tag == _VBRI:
        audio = (begin + n_first if tag else begin, count.last_end)
        is_cut = claimed is not None and claimed - n_frames > 1
        pieces = _with_xing(audio, first, header, n_frames)
        return Segment(name, start, count.end, claimed, n_frames, is_cut, pieces, n_samples)
    # Some writers count the frame of the header, too.
    is_cut = claimed - n_frames > (0 if count.is_truncated else 1)
    if claimed == n_frames or (claimed == n_frames + 1 and not is_cut):
        return Segment(name, start, count.end, claimed, n_frames)
    pieces = patched(begin, count.last_end, patches)
    return Segment(name, start, count.end, claimed, n_frames, is_cut, pieces)


def _claimed_frames(
    first: bytes, begin: int, header: _Header, tag: bytes | None, count: _Count
) -> tuple[int | None, dict[int, bytes]]:
    """The number of frames in a Xing, Info or VBRI header, and what to write there for the true number."""
    if tag == _VBRI:
        return int.from_bytes(first[50:54], "big"), {}
    at = header.tag_offset + 8
    if tag is None or not first[at - 1] & 1:
        return None, {}
    patches = {begin + at: count.n_frames.to_bytes(4, "big")}
    if first[at - 1] & 2:  # the number of bytes follows
        patches[begin + at + 4] = (count.last_end - begin).to_bytes(8, "big")[-4:]
    return int.from_bytes(first[at : at + 4], "big"), patches


@dataclass(frozen=True)
class _Count:
    """The frames of a recording."""

    n_frames: int  # whole ones
    last_end: int  # offset behind the last of them
    end: int  # offset behind the recording, tags included
    is_truncated: bool = False  # part of one more frame is there


def _count(file: BinaryIO, position: int, n_file: int, header: _Header) -> _Count:
    """Count the frames from here up to the next recording's tag or header, or to the end of the file."""
    n_frames, last_end, lengths, tag_at = 0, position, header.lengths, header.tag_offset
    n_chunk = _FIRST_CHUNK_BYTES
    while position < n_file - _HEADER_BYTES:
        data = read_at(file, position, n_chunk)
        n_chunk = min(2 * n_chunk, _CHUNK_BYTES)
        is_last = position + len(data) == n_file
        at, n_most = 0, len(data) - (_HEADER_BYTES if is_last else _TAG_BYTES)
        while at <= n_most and data[at] == 0xFF and (length := lengths.get(data[at + 1] << 8 | data[at + 2])):
            if header.layer == 3 and (data[at + tag_at : at + tag_at + 4] in _XING or data[at + 36 : at + 40] == _VBRI):
                return _Count(n_frames, position + at if at else last_end, position + at)
            if position + at + length > n_file:
                return _Count(n_frames, position + at if at else last_end, n_file, is_truncated=True)
            at += length
            n_frames += 1
        if at:
            last_end = position + at
        position += at
        if at > n_most:
            continue
        # No frame: a tag, damage, or the end.
        rest = read_at(file, position, _SEARCH_BYTES)
        found, tag = _find_frame(rest, key=header.key), rest.find(b"ID3")
        if tag >= 0 and (found < 0 or tag < found):
            return _Count(n_frames, last_end, position + tag)
        if found < 0:
            break
        position += max(1, found)
        n_chunk = _FIRST_CHUNK_BYTES  # where there is damage, there may be more
    return _Count(n_frames, last_end, n_file)


def _find_frame(data: bytes, *, is_file: bool = False, key: tuple[int, int] | None = None) -> int:
    """The offset of the first frame in `data`, or -1: at 0 one like it follows, elsewhere three do, since what looks
    like a frame is found in any data. `is_file`: `data` begins a file, which may hold a single frame."""
    at = -1
    while (at := data.find(b"\xff", at + 1)) >= 0:
        header = _parse(data[at : at + 4])
        if header is None or key not in (None, header.key):
            continue
        follower = at
        for _ in range(3 if at else 1):
            follower += header.lengths[data[follower + 1] << 8 | data[follower + 2]]
            after = data[follower : follower + 3]
            if len(after) < 3 or after[0] != 0xFF or after[1] << 8 | after[2] not in header.lengths:
                break
        else:
            return at
        if is_file and at == 0 and follower >= len(data) - 2:
            return at
    return -1


@lru_cache(maxsize=1024)
def _parse(head: bytes) -> _Header | None:
    """What a frame's first four bytes say, or None if they are none or leave the frame's length open."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return None
    version, layer, rate_code = head[1] >> 3 & 3, 4 - (head[1] >> 1 & 3), head[2] >> 2 & 3
    if version == 1 or layer == 4 or rate_code == 3 or head[2] >> 4 in (0, 15):
        return None
    is_first = version == 3  # MPEG-1
    rate = (44_100, 48_000, 32_000)[rate_code] >> (0 if is_first else 1 if version == 2 else 2)
    n_samples = 384 if layer == 1 else 1152 if layer == 2 or is_first else 576
    is_mono = head[3] >> 6 == 3
    side = (17 if is_mono else 32) if is_first else (9 if is_mono else 17)
    key = (head[1] & 0xFE, head[2] & 0x0C)
    lengths = {}
    for code, kbps in enumerate(_KBPS[is_first, layer]):
        for low in range(4 if code else 0):  # padding and the private bit
            padding = low >> 1
            n_bytes = n_samples // 8 * kbps * 1000 // rate + padding
            if layer == 1:
                n_bytes = (12 * kbps * 1000 // rate + padding) * 4
            for protection in (0, 1):
                lengths[(key[0] | protection) << 8 | code << 4 | key[1] | low] = n_bytes
    return _Header(key, layer, n_samples, 4 + side, lengths)


def _tag(frame: bytes, header: _Header) -> bytes | None:
    """Xing, Info or VBRI, if the frame holds such a header in place of sound."""
    tag = frame[header.tag_offset : header.tag_offset + 4]
    if header.layer == 3 and tag in _XING:
        return tag
    return _VBRI if header.layer == 3 and frame[36:40] == _VBRI else None


def _with_xing(audio: tuple[int, int], frame: bytes, header: _Header, n_frames: int) -> tuple[Piece, ...]:
    """These frames after one that holds their number, without which the decoder estimates it."""
    head = bytes([0xFF, header.key[0] | 1, 14 << 4 | header.key[1], frame[3]])
    length = header.lengths[head[1] << 8 | head[2]]
    sizes = n_frames.to_bytes(4, "big") + (length + audio[1] - audio[0]).to_bytes(8, "big")[-4:]
    xing = head + bytes(header.tag_offset - 4) + b"Xing\0\0\0\x03" + sizes
    return xing.ljust(length, b"\0"), audio
