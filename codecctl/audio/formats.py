"""Recognises files by their first bytes and finds the recordings within them."""

from __future__ import annotations

import os
from typing import BinaryIO

from codecctl.audio import containers, flac, mpeg, ogg
from codecctl.audio.segments import Segment, skip_id3
from codecctl.audio.views import read_at
from codecctl.errors import CodecctlError

_MOST_SEGMENTS = 1000
_AV_MAGIC = {
    b"\x1aE\xdf\xa3": "Matroska or WebM",
    b"0&\xb2u\x8ef\xcf\x11": "Windows Media",
    b"#!AMR": "AMR",
    b"MAC ": "Monkey's Audio",
    b"wvpk": "WavPack",
    b"TTA1": "True Audio",
    b"FLV\x01": "Flash video",
}
_OTHER_MAGIC = {
    b"version https://git-lfs": "a Git LFS pointer, not the file that it stands for (`git lfs pull` fetches it)",
    b"%PDF-": "a PDF document",
    b"PK\x03\x04": "a ZIP archive or a PyTorch checkpoint",
    b"\x1f\x8b": "a gzip archive",
    b"BZh": "a bzip2 archive",
    b"\xfd7zXZ": "an xz archive",
    b"7z\xbc\xaf": "a 7-Zip archive",
    b"(\xb5/\xfd": "a Zstandard archive",
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"GIF8": "a GIF image",
    b"\x7fELF": "a program",
    b"PAR1": "a Parquet file",
    b"\x93NUMPY": "a NumPy array",
    b"CCTL": "packed codes (`codecctl decode` reads them)",
}


def find_segments(file: BinaryIO) -> list[Segment]:
    """The recordings of a file, one behind the other; none if the format is not one that is inspected.

    Raises `CodecctlError` for more than a thousand recordings in a file.
    """
    n_bytes = file.seek(0, os.SEEK_END)
    segments: list[Segment] = []
    for inspect in (containers.inspect, flac.inspect, ogg.inspect, mpeg.inspect):
        position = 0
        while position < n_bytes and (segment := inspect(file, position, n_bytes)):
            if segment.end <= position or (segments and segment.format != segments[0].format):
                break
            segments.append(segment)
            position = segment.end
            if len(segments) > _MOST_SEGMENTS:
                raise CodecctlError(f"holds more than {_MOST_SEGMENTS} recordings, one behind the other")
        if segments:
            break
    return segments


def recognise_av(start: bytes) -> str | None:
    """The format of a file of audio that libsndfile does not read, by its first bytes."""
    if start[4:8] == b"ftyp":
        return "MPEG-4"
    if len(start) > 1 and start[0] == 0xFF and start[1] & 0xF6 == 0xF0:
        return "AAC"
    return next((name for magic, name in _AV_MAGIC.items() if start.startswith(magic)), None)


def recognise_other(file: BinaryIO) -> str | None:
    """What a file is that holds no audio, with its article, or None if that does not show."""
    start = read_at(file, skip_id3(file, 0), 1024)
    if kind := next((kind for magic, kind in _OTHER_MAGIC.items() if start.startswith(magic)), None):
        return kind
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return "an HTML page"
    if text.startswith(b"<?xml"):
        return "an XML document"
    if text and all(byte >= 32 or byte in b"\t\n\r\f" for byte in text) and b"\x7f" not in text and _is_utf8(text):
        return "a text file"
    return None


def _is_utf8(text: bytes) -> bool:
    try:
        text[:-4].decode()  # the last character may be cut
    except UnicodeDecodeError:
        return False
    return True
