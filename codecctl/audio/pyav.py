"""Decoding of what libsndfile lacks (M4A, AAC, G.722, WMA, ...) through PyAV, the extra `av`."""

from __future__ import annotations

import io
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codecctl.errors import CodecctlError

SUFFIXES = frozenset({".aac", ".amr", ".g722", ".m4a", ".mp4", ".webm", ".wma"})
_HEADERLESS = {".g722": "g722"}  # the bytes do not tell what they are
_LOSSLESS = ("pcm_", "alac", "flac", "wavpack")


class AvFile:
    """The first audio stream of a file, read as float32. Raises `CodecctlError` to which the caller adds the name."""

    def __init__(self, source: str | Path | bytes, suffix: str) -> None:
        try:
            av = import_module("av")
        except ImportError:
            raise CodecctlError(f"{suffix or 'this'} needs PyAV to decode: pip install 'codecctl[av]'") from None
        self._error = av.FFmpegError
        try:
            file = io.BytesIO(source) if isinstance(source, bytes) else str(source)
            container = av.open(file, format=_HEADERLESS.get(suffix), metadata_errors="replace")
        except (av.FFmpegError, OSError, ValueError) as error:
            raise CodecctlError(f"cannot be read as audio ({_reason(error)})") from None
        if not container.streams.audio:
            container.close()
            raise CodecctlError("cannot be read as audio (there is no audio in it)")
        self._container = container
        stream = container.streams.audio[0]
        self.samplerate, self.channels = int(stream.rate), int(stream.channels)
        codec = stream.codec_context.name
        self.lossy = None if codec.startswith(_LOSSLESS) else codec
        told = stream.duration * stream.time_base if stream.duration else (container.duration or 0) / 1e6
        self.frames = round(told * self.samplerate)  # as the header tells; some tell roughly
        self._resampler: Any = av.AudioResampler(format="flt", layout=stream.layout, rate=self.samplerate)
        self._blocks = self._decode()
        self._rest: NDArray[np.float32] = np.zeros((0, self.channels), np.float32)

    def read(self, n_samples: int) -> NDArray[np.float32]:
        """`[L, C]`: the next n_samples, less at the end."""
        parts, n_there = [self._rest], len(self._rest)
        while n_there < n_samples and (block := next(self._blocks, None)) is not None:
            parts.append(block)
            n_there += len(block)
        joined = np.concatenate(parts)
        self._rest = joined[n_samples:]
        return joined[:n_samples]

    def skip(self, n_samples: int) -> None:
        """Go on from n_samples later; decodes what it leaves out, since not every format can be entered anywhere."""
        while n_samples > 0 and len(block := self.read(min(n_samples, 10 * self.samplerate))):
            n_samples -= len(block)

    def close(self) -> None:
        self._container.close()

    def _decode(self) -> Iterator[NDArray[np.float32]]:
        try:
            for frame in self._container.decode(audio=0):
                frame.pts = None  # gaps and overlaps that a broken clock tells of are not sound
                yield from self._arrays(frame)
            yield from self._arrays(None)
        except (self._error, ValueError) as error:
            raise CodecctlError(f"broken or cut off ({_reason(error)})") from None

    def _arrays(self, frame: Any) -> Iterator[NDArray[np.float32]]:
        for part in self._resampler.resample(frame):
            yield part.to_ndarray().reshape(-1, self.channels)


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error).strip().rstrip(".")
