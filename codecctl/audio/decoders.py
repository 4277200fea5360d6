"""Decoders of audio files behind one interface: libsndfile, PyAV for what it lacks, and several recordings in a row."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO, Protocol

import numpy as np
import soundfile
from numpy.typing import NDArray

from codecctl.audio.segments import FileView, Piece, Segment
from codecctl.errors import CodecctlError

Source = str | os.PathLike[str] | bytes
"""A path, or the bytes of a file."""

_LOSSY = {"VORBIS": "vorbis", "OPUS": "opus", "MPEG_LAYER_I": "mp1", "MPEG_LAYER_II": "mp2", "MPEG_LAYER_III": "mp3",
          "ULAW": "mu-law", "ALAW": "a-law", "GSM610": "gsm", "IMA_ADPCM": "adpcm", "MS_ADPCM": "adpcm"}  # fmt: skip


_FRAME_SAMPLES = 1152  # of an MPEG frame, at most


class Decoder(Protocol):
    """An open recording. `read` returns float32 `[L, C]`, fewer than n_samples only at the end; its methods raise
    `CodecctlError`, to which the caller adds the file's name."""

    sample_rate: int  # Hz
    n_channels: int
    n_samples: int  # per channel
    lossy: str | None  # the codec, if it is lossy

    def read(self, n_samples: int) -> NDArray[np.float32]: ...
    def skip(self, n_samples: int) -> None: ...
    def close(self) -> None: ...


def open_file(source: Source) -> BinaryIO:
    """The bytes of a source. Raises `OSError`."""
    return io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb")


class _SequentialFile(soundfile.SoundFile):  # type: ignore[misc]  # soundfile has no types
    """Read in order. soundfile seeks to the present position after each read from a seekable file, for which libsndfile
    decodes again: a tenth of the time."""

    def seekable(self) -> bool:
        return False


class SndfileDecoder:
    """Decodes with libsndfile: a file, or these pieces of it, or headerless mono 16-bit samples of `raw_rate` Hz."""

    def __init__(self, source: Source, *, pieces: tuple[Piece, ...] | None = None, raw_rate: int | None = None) -> None:
        self._view: FileView | None = None
        self._base: BinaryIO | None = None
        file: Any = io.BytesIO(source) if isinstance(source, bytes) else os.fsencode(source)  # soundfile asks for UTF-8
        if pieces is not None:
            self._base = open_file(source)
            file = self._view = FileView(self._base, pieces)
        raw = (raw_rate, 1, "PCM_16", "LITTLE", "RAW") if raw_rate else ()
        try:
            self._file = _SequentialFile(file, "r", *raw)
        except (soundfile.LibsndfileError, OSError) as error:
            if self._base:
                self._base.close()
            raise CodecctlError(f"cannot be read as audio ({reason(error)})") from None
        if self._file.format == "SD2":  # whose header is in another file: libsndfile took `._` for it
            self.close()
            raise CodecctlError("cannot be read as audio (the format is not recognised)")
        self.sample_rate, self.n_channels = int(self._file.samplerate), int(self._file.channels)
        self.n_samples, self.lossy = int(self._file.frames), _LOSSY.get(self._file.subtype)
        self._position = 0

    def read(self, n_samples: int) -> NDArray[np.float32]:
        n_samples = min(n_samples, self.n_samples - self._position)  # libsndfile pads with zeros beyond
        try:
            block: NDArray[np.float32] = self._file.read(n_samples, dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as error:
            raise CodecctlError(f"broken or cut off ({reason(error)})") from None
        if self._view and self._view.error:
            raise CodecctlError(f"cannot be read ({self._view.error.strerror})")
        self._position += len(block)
        return block

    def skip(self, n_samples: int) -> None:
        try:
            self._position = int(self._file.seek(min(self._position + n_samples, self.n_samples)))
        except soundfile.LibsndfileError as error:
            raise CodecctlError(f"broken or cut off ({reason(error)})") from None

    def close(self) -> None:
        self._file.close()
        if self._base:
            self._base.close()


class ChainDecoder:
    """Decodes several recordings one behind the other; only one of them is open at a time."""

    def __init__(self, openers: Sequence[Callable[[], Decoder]]) -> None:
        lengths: list[int] = []
        for open_next in openers:
            decoder = open_next()
            form = (decoder.sample_rate, decoder.n_channels)
            if not lengths:
                self.sample_rate, self.n_channels, self.lossy = *form, decoder.lossy
            decoder.close()
            if form != (self.sample_rate, self.n_channels):
                raise CodecctlError(
                    f"holds recordings of different formats: {self.sample_rate} Hz with {self.n_channels} channels, "
                    f"then {form[0]} Hz with {form[1]}; split it"
                )
            lengths.append(decoder.n_samples)
        self.n_samples = sum(lengths)
        self._parts: Iterator[tuple[Callable[[], Decoder], int]] = iter(zip(openers, lengths, strict=True))
        self._now: Decoder | None = None
        self._n_left = 0

    def read(self, n_samples: int) -> NDArray[np.float32]:
        blocks = [np.zeros((0, self.n_channels), np.float32)]
        while n_samples and (decoder := self._advance()):
            blocks.append(decoder.read(min(n_samples, self._n_left)))
            n_samples -= len(blocks[-1])
            self._n_left = self._n_left - len(blocks[-1]) if len(blocks[-1]) else 0
        return np.concatenate(blocks)

    def skip(self, n_samples: int) -> None:
        while n_samples and (decoder := self._advance()):
            n_skipped = min(n_samples, self._n_left)
            decoder.skip(n_skipped)
            n_samples -= n_skipped
            self._n_left -= n_skipped

    def close(self) -> None:
        if self._now:
            self._now.close()
            self._now = None

    def _advance(self) -> Decoder | None:
        """The decoder of the recording that has samples left; None at the end."""
        while not self._n_left:
            self.close()
            open_next, self._n_left = next(self._parts, (None, 0))
            if open_next is None:
                return None
            self._now = open_next()
        return self._now


def open_segments(source: Source, segments: Sequence[Segment]) -> Decoder:
    """libsndfile on these recordings of a file, one behind the other; on the whole file if there are none."""
    if not segments:
        with open_file(source) as file:
            whole = ((0, file.seek(0, os.SEEK_END)),)
        return SndfileDecoder(source, pieces=whole)  # without a name, by which libsndfile would guess the format
    if len(segments) == 1:
        return _open_segment(source, segments[0], is_whole_file=True)
    return ChainDecoder([lambda segment=segment: _open_segment(source, segment) for segment in segments])  # type: ignore[misc]


def _open_segment(source: Source, segment: Segment, *, is_whole_file: bool = False) -> SndfileDecoder:
    pieces, counted = segment.pieces, segment.n_samples
    if pieces and counted is None:
        return SndfileDecoder(source, pieces=pieces)
    decoder = SndfileDecoder(source, pieces=None if is_whole_file else ((segment.start, segment.end),))
    if counted is None:
        return decoder
    if 0 <= decoder.n_samples - counted <= _FRAME_SAMPLES:  # an estimate by the size of the file, rounded up
        decoder.n_samples = counted
        return decoder
    if pieces is None and abs(decoder.n_samples - counted) <= _FRAME_SAMPLES:
        return decoder
    decoder.close()
    if pieces is None:
        raise CodecctlError("libsndfile can only estimate its length")
    return SndfileDecoder(source, pieces=pieces)


def reason(error: Exception) -> str:
    """The cause in libsndfile's or the system's words, without its final dot."""
    if isinstance(error, soundfile.LibsndfileError):
        # What libsndfile says where it finds no MPEG frames, and of a file `._` that it takes for the header of SD2.
        if "possibly a pipe" in error.error_string or error.error_string.startswith("Error : bad "):
            return "the format is not recognised"
        return str(error.error_string).strip().rstrip(".") or f"libsndfile error {error.code}"
    return str(getattr(error, "strerror", None) or error).strip().rstrip(".")
