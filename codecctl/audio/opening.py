"""Opens an audio file: recognises its bytes, chooses the decoder, and compares what the header claims with the file."""

from __future__ import annotations

import os
import stat
from typing import BinaryIO

from codecctl.audio import containers, flac, headers, mpeg, ogg, pyav
from codecctl.audio.decoders import Decoder, SndfileDecoder, Source, open_file, open_segments
from codecctl.audio.segments import Segment, read_at, skip_id3
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
RAW_RATES = {".sln": 8000, ".sln16": 16000}  # headerless mono 16-bit little-endian samples, Hz
_SNDFILE_SUFFIXES = {
    ".aif", ".aifc", ".aiff", ".au", ".bwf", ".caf", ".flac", ".mp2", ".mp3", ".oga", ".ogg", ".opus", ".rf64", ".snd",
    ".sph", ".w64", ".wav",
}  # fmt: skip
AUDIO_SUFFIXES = frozenset({*_SNDFILE_SUFFIXES, *pyav.SUFFIXES, *RAW_RATES})
"""Of the files that a search of a folder finds. A file that is named is recognised by its bytes."""
_LOWEST_RATE, _HIGHEST_RATE = 4_000, 768_000  # Hz
_SAMPLES_PER_BYTE = 2_000  # per channel; digital silence in FLAC or Vorbis has a few hundred


class CutOffError(CodecctlError):
    """The file ends before the length that its header claims, or is damaged within; `partial` reads what precedes."""


def open_audio(
    source: Source, name: str, *, raw_rate: int | None = None, partial: bool = False
) -> tuple[Decoder, str | None]:
    """The decoder of an audio file, and the name of its format where that is known.

    `name` stands for the file in messages, and its suffix decides for formats without a header. Raises `CutOffError`
    for a file that ends before the length in its header, unless `partial`; `CodecctlError` for all else that is no
    audio.
    """
    n_bytes = _size(source, name)
    try:
        decoder, form, segments = _open(source, os.path.splitext(name)[1].lower(), raw_rate)
    except OSError as error:
        raise CodecctlError(f"{name}: cannot be read ({error.strerror or error})") from None
    except CodecctlError as error:
        raise type(error)(f"{name}: {error}") from None
    try:
        _check_claims(decoder, segments, n_bytes, partial=partial)
    except CodecctlError as error:
        decoder.close()
        raise type(error)(f"{name}: {error}") from None
    return decoder, form


def say_cut_off(seconds: float, claimed_seconds: float) -> str:
    """The message of `CutOffError`."""
    return f"cut off (holds {seconds:.3f} s of the {claimed_seconds:.3f} s that its header claims)"


def _open(source: Source, suffix: str, raw_rate: int | None) -> tuple[Decoder, str | None, list[Segment]]:
    """The decoder that fits the bytes, the name of the format, and what is known of the recordings in the file."""
    if rate := raw_rate or RAW_RATES.get(suffix):
        return SndfileDecoder(source, raw_rate=rate), "raw", []
    with open_file(source) as file:
        form = "G.722" if suffix == ".g722" else recognise_av(read_at(file, 0, 64))
        segments = [] if form else find_segments(file)
        if not form and not segments and (kind := recognise_other(file)):
            raise CodecctlError(f"not audio ({kind})")
    if form:
        return _open_av(source, suffix, form), form, []
    try:
        decoder = open_segments(source, segments)
    except CodecctlError as refusal:
        if any(segment.is_cut for segment in segments):
            raise CutOffError("cut off (none of the audio that its header claims can be read)") from None
        if len(segments) > 1 or not pyav.is_installed():
            raise
        try:
            return pyav.AvDecoder(source, suffix), None, []
        except CodecctlError:
            raise refusal from None
    return decoder, segments[0].format if segments else None, segments


def _open_av(source: Source, suffix: str, form: str) -> pyav.AvDecoder:
    article = "an" if form in ("MPEG-4", "AAC", "AMR") else "a"
    what = f"{article} {form} file" + ("" if suffix in pyav.SUFFIXES or not suffix else f" named {suffix}")
    if not pyav.is_installed():
        raise CodecctlError(f'needs PyAV to decode ({what}): pip install "codecctl[av]"')
    try:
        return pyav.AvDecoder(source, suffix)
    except CodecctlError as error:
        raise CodecctlError(f"{error}; it is {what}") from None


def _check_claims(decoder: Decoder, segments: list[Segment], n_bytes: int, *, partial: bool) -> None:
    """Raises `CodecctlError` for a header that claims what cannot be, `CutOffError` for more than is there."""
    if not _LOWEST_RATE <= decoder.sample_rate <= _HIGHEST_RATE:
        raise CodecctlError(
            f"sample rate out of range ({decoder.sample_rate} Hz; {_LOWEST_RATE} to {_HIGHEST_RATE} Hz are read)"
        )
    if segments and all(segment.is_cut and segment.n_claimed and not segment.n_there for segment in segments):
        raise CutOffError("cut off (none of the audio that its header claims is there)")
    if decoder.n_samples > _SAMPLES_PER_BYTE * n_bytes:
        raise CodecctlError(
            f"damaged header (claims {decoder.n_samples} samples, more than {_SAMPLES_PER_BYTE} for each of the "
            f"{n_bytes} bytes)"
        )
    seconds = decoder.n_samples / decoder.sample_rate
    if isinstance(decoder, pyav.AvDecoder):
        if decoder.is_cut and not partial:
            raise CutOffError(say_cut_off(seconds, (decoder.n_claimed or 0) / decoder.sample_rate))
    elif any(segment.is_cut for segment in segments) and not partial:
        n_there, claims = sum(segment.n_there for segment in segments), [segment.n_claimed for segment in segments]
        if None in claims:
            raise CutOffError(f"cut off (it ends after {seconds:.3f} s without the mark of its end)")
        raise CutOffError(say_cut_off(seconds, seconds * sum(claim or 0 for claim in claims) / n_there))
    if not decoder.n_samples:
        raise CodecctlError("holds no audio")


def _size(source: Source, name: str) -> int:
    """Bytes. Raises `CodecctlError` for what cannot be a file of audio."""
    if isinstance(source, bytes):
        n_bytes = len(source)
    else:
        try:
            status = os.stat(source)
        except FileNotFoundError:
            raise CodecctlError(f"{name}: no such file") from None
        except (OSError, ValueError) as error:
            raise CodecctlError(f"{name}: {getattr(error, 'strerror', None) or error}") from None
        if stat.S_ISDIR(status.st_mode):
            raise CodecctlError(f"{name}: is a folder, expected an audio file")
        if not stat.S_ISREG(status.st_mode):
            raise CodecctlError(f"{name}: is a pipe or a device, expected an audio file")
        n_bytes = status.st_size
    if not n_bytes:
        raise CodecctlError(f"{name}: is empty")
    return n_bytes


def find_segments(file: BinaryIO) -> list[Segment]:
    """The recordings of a file, one behind the other; none if the format is not one that is inspected.

    Raises `CodecctlError` for more than a thousand recordings in a file.
    """
    n_bytes = file.seek(0, os.SEEK_END)
    segments: list[Segment] = []
    for inspect in (containers.inspect, headers.inspect, flac.inspect, ogg.inspect, mpeg.inspect):
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
