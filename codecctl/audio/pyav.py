"""Decoding of what libsndfile lacks (M4A, AAC, G.722, WMA, ...) with PyAV, the extra `av`."""

from __future__ import annotations

import io
from collections.abc import Iterator
from fractions import Fraction
from importlib import import_module
from importlib.util import find_spec
from os import PathLike, fspath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codecctl.errors import CodecctlError

SUFFIXES = frozenset({".3gp", ".aac", ".amr", ".g722", ".m4a", ".mka", ".mp4", ".webm", ".wma"})
_HEADERLESS = {".g722": "g722"}  # the bytes do not tell what they are
_LOSSLESS = ("pcm_", "alac", "flac", "wavpack", "tta", "ape")
# Containers of audio. Playlists, which make FFmpeg open other files and addresses, are not among them.
_DEMUXERS = (
    "aac ac3 aiff amr amrnb amrwb ape asf au avi caf dsf dts eac3 flac flv g722 matroska,webm mov,mp4,m4a,3gp,3g2,mj2 "
    "mp3 mpc mpc8 mpeg mpegts nistsphere oga ogg oma rm tak tta voc w64 wav wv xwma"
)
_CLAIMING = ("mov", "matroska", "asf")  # their headers hold the length; for others FFmpeg estimates it
_MISSING_SECONDS = 0.25  # these lengths may be off by the encoder's delay


def is_installed() -> bool:
    return find_spec("av") is not None


class AvDecoder:
    """The first audio stream of a file, as float32. Raises `CodecctlError`, to which the caller adds the file's name.

    `n_samples` is what the packets in the file add up to, `n_claimed` what the header says; both may be off by the
    delay of the encoder.
    """

    def __init__(self, source: str | PathLike[str] | bytes, suffix: str) -> None:
        self._av: Any = import_module("av")
        self._source, self._form = source, _HEADERLESS.get(suffix)
        container, stream = self._open()
        with container:
            self.sample_rate, self.n_channels = int(stream.rate or 0), int(stream.channels or 0)
            if not self.sample_rate or not self.n_channels:
                raise CodecctlError("cannot be read as audio (no sample rate or no channels)")
            codec = stream.codec_context.name
            self.lossy = None if codec.startswith(_LOSSLESS) else codec
            self.n_claimed = self._claimed_samples(container, stream)
            self.n_samples = self._count_samples(container, stream)
        n_missing = (self.n_claimed or 0) - self.n_samples
        self.is_cut = n_missing > _MISSING_SECONDS * self.sample_rate
        self._container, stream = self._open()
        layout, rate = stream.layout, self.sample_rate
        self._resampler: Any = self._av.AudioResampler(format="flt", layout=layout, rate=rate)
        self._blocks = self._decode()
        self._rest: NDArray[np.float32] = np.zeros((0, self.n_channels), np.float32)

    def read(self, n_samples: int) -> NDArray[np.float32]:
        """`[L, C]`: the next n_samples, fewer at the end."""
        parts, n_there = [self._rest], len(self._rest)
        while n_there < n_samples and (block := next(self._blocks, None)) is not None:
            parts.append(block)
            n_there += len(block)
        joined = np.concatenate(parts)
        self._rest = joined[n_samples:]
        return joined[:n_samples]

    def skip(self, n_samples: int) -> None:
        """Decode and drop n_samples: not every format allows to start anywhere."""
        while n_samples > 0 and len(block := self.read(min(n_samples, 10 * self.sample_rate))):
            n_samples -= len(block)

    def close(self) -> None:
        self._container.close()

    def _open(self) -> tuple[Any, Any]:
        """The container and its first audio stream."""
        file = io.BytesIO(self._source) if isinstance(self._source, bytes) else f"file:{fspath(self._source)}"
        options = {"format_whitelist": _DEMUXERS.replace(" ", ",")}
        try:
            container = self._av.open(file, format=self._form, options=options, metadata_errors="replace")
        except (self._av.FFmpegError, OSError, ValueError) as error:
            raise CodecctlError(f"cannot be read as audio ({_reason(error)})") from None
        if not container.streams.audio:
            container.close()
            raise CodecctlError("cannot be read as audio (there is no audio in it)")
        stream = container.streams.audio[0]
        if stream.codec_context is None:
            container.close()
            raise CodecctlError("cannot be read as audio (its codec is not known to PyAV)")
        return container, stream

    def _claimed_samples(self, container: Any, stream: Any) -> int | None:
        if not container.format.name.startswith(_CLAIMING):
            return None
        seconds = stream.duration * stream.time_base if stream.duration else Fraction(container.duration or 0, 10**6)
        return round(seconds * self.sample_rate) or None

    def _count_samples(self, container: Any, stream: Any) -> int:
        """From the lengths of the packets, without decoding them."""
        total = self._sum(packet.duration or 0 for packet in container.demux(stream))
        n_counted = round(total * stream.time_base * self.sample_rate)
        if self.n_claimed is None:
            return n_counted or self._count_decoded()
        # Packets include the delay that the decoder drops; without lengths of packets the claim is all that is known.
        return min(n_counted, self.n_claimed) if n_counted else self.n_claimed

    def _count_decoded(self) -> int:
        """By decoding, where neither the header nor the packets have lengths."""
        container, stream = self._open()
        with container:
            return self._sum(frame.samples for frame in container.decode(stream))

    def _sum(self, lengths: Iterator[int]) -> int:
        """Of what precedes the damage, if there is any, which `read` reports."""
        total = 0
        try:
            for length in lengths:
                total += length
        except (self._av.FFmpegError, ValueError):
            pass
        return total

    def _decode(self) -> Iterator[NDArray[np.float32]]:
        try:
            for frame in self._container.decode(audio=0):
                frame.pts = None  # gaps and overlaps of a broken clock hold no sound
                yield from self._arrays(frame)
            yield from self._arrays(None)
        except (self._av.FFmpegError, ValueError) as error:
            raise CodecctlError(f"broken or cut off ({_reason(error)})") from None

    def _arrays(self, frame: Any) -> Iterator[NDArray[np.float32]]:
        for part in self._resampler.resample(frame):
            yield part.to_ndarray().reshape(-1, self.n_channels)


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error).strip().rstrip(".")
