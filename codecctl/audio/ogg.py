"""The streams of an Ogg file, one behind the other, and whether each has its last page (RFC 3533)."""

from __future__ import annotations

from typing import BinaryIO

from codecctl.audio.segments import Segment, read_at, skip_id3

_BEGIN, _END = 2, 4  # flags of a page
_HEAD_BYTES = 27
_MOST_PAGE_BYTES = _HEAD_BYTES + 255 + 255 * 255
_AUDIO_MAGIC = (b"\x01vorbis", b"OpusHead", b"\x7fFLAC", b"Speex   ")


def inspect(file: BinaryIO, start: int, n_file: int) -> Segment | None:
    """The stream, or the multiplexed streams, that start at this byte, or None.

    Ogg claims no length, but marks the last page of each stream: a file without that page is cut off.
    """
    position = begin = skip_id3(file, start)
    audio: int | None = None  # the serial number of the first stream of audio
    has_data = is_ended = False
    while page := _page_at(file, position):
        flags, serial, body, end = page
        if flags & _BEGIN:
            if has_data:
                break
            if audio is None and read_at(file, body, 8).startswith(_AUDIO_MAGIC):
                audio = serial
        else:
            has_data = True
        if end > n_file:  # the page itself is cut off
            position = n_file
            break
        is_ended = is_ended or bool(flags & _END and serial == audio)
        position = end
        if position < n_file and read_at(file, position, 4) != b"OggS":
            # The next page, if it is near: damage may hide some.
            at = read_at(file, position, 2 * _MOST_PAGE_BYTES).find(b"OggS")
            position = n_file if at < 0 else position + at
    if position == begin:
        return None
    end = n_file if n_file - position < _HEAD_BYTES else position
    return Segment("Ogg", start, end, is_cut=audio is not None and not is_ended)


def _page_at(file: BinaryIO, position: int) -> tuple[int, int, int, int] | None:
    """Flags, serial number, offset of the content, and end of a page."""
    head = read_at(file, position, _HEAD_BYTES)
    if len(head) < _HEAD_BYTES or head[:4] != b"OggS":
        return None
    sizes = file.read(head[26])
    body = position + _HEAD_BYTES + head[26]
    return head[5], int.from_bytes(head[14:18], "little"), body, body + sum(sizes)
