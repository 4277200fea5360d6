"""Audio files in and out: float32 `[C, L]`, full scale at 1, whole or in blocks (libsndfile; PyAV for the rest)."""

from __future__ import annotations

import errno
import io
import math
import os
import stat
import sys
from collections.abc import Collection, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, Self

import numpy as np
import soundfile
from numpy.typing import NDArray

from codecctl.audio import pyav
from codecctl.errors import CodecctlError, UsageError
from codecctl.files import replacing

Audio = NDArray[np.float32]

_RAW_RATES = {".sln": 8000, ".sln16": 16000}  # headerless mono 16-bit little-endian samples, Hz
_SNDFILE_SUFFIXES = {".aif", ".aiff", ".au", ".caf", ".flac", ".mp3", ".oga", ".ogg", ".opus", ".w64", ".wav"}
AUDIO_SUFFIXES = frozenset({*_SNDFILE_SUFFIXES, *pyav.SUFFIXES, *_RAW_RATES})
_WRITTEN_FORMATS = {".wav": "WAV", ".flac": "FLAC"}
_LOSSY = {"VORBIS": "vorbis", "OPUS": "opus", "MPEG_LAYER_I": "mp1", "MPEG_LAYER_II": "mp2", "MPEG_LAYER_III": "mp3",
          "ULAW": "mu-law", "ALAW": "a-law", "GSM610": "gsm", "IMA_ADPCM": "adpcm", "MS_ADPCM": "adpcm"}  # fmt: skip
STRETCH = 4096
"""Samples of a channel; `AudioReader` tells the extremes of each so many: who looks for them looks nowhere else."""

_MISSING_SECONDS = 0.1  # a file that ends earlier than its header says by more than this is cut off


@dataclass(frozen=True)
class AudioInfo:
    """What a file's header says."""

    sample_rate: int  # Hz
    n_channels: int
    n_samples: int  # per channel
    lossy: str | None = None  # the codec, if it throws something away: "mp3", "vorbis", ...

    @property
    def seconds(self) -> float:
        return self.n_samples / self.sample_rate


class _Forward(soundfile.SoundFile):  # type: ignore[misc]  # soundfile tells no types
    """Is read in order. After each read from a file that can be sought in, soundfile seeks to where it is already, and
    libsndfile decodes again for that: a tenth of the time."""

    def seekable(self) -> bool:
        return False


class AudioReader:
    """An open audio file, to be read block by block in constant memory.

    `source` is a path, or the bytes of a file, for which `name` stands in messages; its suffix tells the format where
    the bytes do not. `raw_rate` in Hz takes it for headerless mono 16-bit samples. Raises `CodecctlError` that names
    the file if it is missing, empty, no audio, cut off, or holds NaN.
    """

    def __init__(self, source: str | Path | bytes, *, name: str | None = None, raw_rate: int | None = None) -> None:
        self.name = name or ("audio in memory" if isinstance(source, bytes) else str(source))
        _check_source(source, self.name)
        try:
            self._file = _open(source, os.path.splitext(self.name)[1].lower(), raw_rate)
        except soundfile.LibsndfileError as error:
            raise CodecctlError(f"{self.name}: cannot be read as audio ({_reason(error)})") from None
        except CodecctlError as error:
            raise CodecctlError(f"{self.name}: {error}") from None
        lossy = self._file.lossy if isinstance(self._file, pyav.AvFile) else _LOSSY.get(self._file.subtype)
        self.info = AudioInfo(self._file.samplerate, self._file.channels, self._file.frames, lossy)
        # The extreme samples of the block that was read last, in each STRETCH of it.
        self.lows = self.highs = np.zeros(0, np.float32)
        if not self.info.n_samples:
            self.close()
            raise CodecctlError(f"{self.name}: holds no audio")

    @property
    def sample_rate(self) -> int:
        return self.info.sample_rate

    @property
    def n_channels(self) -> int:
        return self.info.n_channels

    def blocks(
        self, block_seconds: float = 10.0, *, start_seconds: float = 0.0, n_seconds: float | None = None
    ) -> Iterator[Audio]:
        """float32 `[C, L]`, L = block_seconds but for the last one; together the file, or a stretch of it."""
        n_read = min(round(start_seconds * self.sample_rate), self.info.n_samples)
        n_end = sys.maxsize if n_seconds is None else n_read + round(n_seconds * self.sample_rate)
        n_block = self.info.n_samples if math.isinf(block_seconds) else max(1, round(block_seconds * self.sample_rate))
        if n_read:
            self._file.skip(n_read) if isinstance(self._file, pyav.AvFile) else self._file.seek(n_read)
        # PyAV's counts may be rough; libsndfile reads no further than its own.
        n_most = n_end if isinstance(self._file, pyav.AvFile) else min(n_end, self.info.n_samples)
        while n_read < n_most and len(block := self._read(min(n_block, n_most - n_read))):
            flat = block.ravel()  # in one dimension numpy is twice as fast
            starts = np.arange(0, len(flat), STRETCH * self.n_channels)
            self.lows, self.highs = np.minimum.reduceat(flat, starts), np.maximum.reduceat(flat, starts)
            if not math.isfinite(float(self.highs.max()) - float(self.lows.min())):
                second = (n_read + int(np.argmin(np.isfinite(block).all(axis=1)))) / self.sample_rate
                raise CodecctlError(f"{self.name}: holds NaN or infinite samples, the first at {second:.3f} s")
            n_read += len(block)
            yield np.ascontiguousarray(block.T)  # [C, L]
        if n_read < min(self.info.n_samples, n_end) - _MISSING_SECONDS * self.sample_rate:
            raise CodecctlError(f"{self.name}: is cut off: {n_read} of {self.info.n_samples} samples are there")

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self, n_samples: int) -> Audio:
        """`[L, C]`, as libsndfile lays it."""
        try:
            if isinstance(self._file, pyav.AvFile):
                return self._file.read(n_samples)
            block: Audio = self._file.read(n_samples, dtype="float32", always_2d=True)
        except CodecctlError as error:
            raise CodecctlError(f"{self.name}: {error}") from None
        except soundfile.LibsndfileError as error:
            raise CodecctlError(f"{self.name}: broken or cut off ({_reason(error)})") from None
        return block


class AudioWriter:
    """Writes blocks of float32 `[C, L]` to a WAV or FLAC of 16 bits; samples beyond full scale are clipped.

    The file appears under its name only when the `with` block ends well; otherwise nothing is left behind.
    """

    def __init__(self, path: str | Path, sample_rate: int, n_channels: int = 1) -> None:
        self.path = Path(path)
        form = _WRITTEN_FORMATS.get(self.path.suffix.lower())
        if form is None:
            raise UsageError(f"{path}: audio is written as {' or '.join(_WRITTEN_FORMATS)}; use such a suffix")
        if not self.path.parent.is_dir():
            raise CodecctlError(f"{path}: there is no folder {self.path.parent}")
        with ExitStack() as stack:
            partial = stack.enter_context(replacing(self.path))
            try:
                self._file = soundfile.SoundFile(partial, "w", sample_rate, n_channels, "PCM_16", format=form)
            except soundfile.LibsndfileError as error:
                raise CodecctlError(f"{path}: cannot be written ({_reason(error)})") from None
            stack.callback(self._file.close)
            self._stack = stack.pop_all()

    def write(self, block: Audio) -> None:
        """Append `[C, L]`. Raises `CodecctlError` for NaN and for a full disk."""
        if not np.isfinite(block).all():
            raise CodecctlError(f"{self.path}: not written, the audio holds NaN or infinite samples")
        try:
            self._file.write(to_pcm16(block).T)
        except soundfile.LibsndfileError as error:
            raise CodecctlError(f"{self.path}: cannot be written ({_reason(error)}); is the disk full?") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)


def probe(path: str | Path) -> AudioInfo:
    """What the header says; the audio itself is not read. Raises `CodecctlError` as `AudioReader` does."""
    with AudioReader(path) as reader:
        return reader.info


def read_audio(path: str | Path) -> tuple[Audio, int]:
    """The whole file: float32 `[C, L]` and its sample rate in Hz."""
    with AudioReader(path) as reader:
        blocks = list(reader.blocks(math.inf))
        if not blocks:
            raise CodecctlError(f"{path}: holds no audio")
        return (blocks[0] if len(blocks) == 1 else np.concatenate(blocks, axis=1)), reader.sample_rate


def read_blocks(path: str | Path, block_seconds: float = 10.0) -> Iterator[Audio]:
    """The file as float32 `[C, L]` blocks, in constant memory; `AudioReader` where the sample rate is wanted too."""
    with AudioReader(path) as reader:
        yield from reader.blocks(block_seconds)


def write_audio(path: str | Path, audio: Audio, sample_rate: int) -> None:
    """float32 `[C, L]` -> a WAV or FLAC of 16 bits, by suffix, all or nothing."""
    with AudioWriter(path, sample_rate, audio.shape[0]) as writer:
        writer.write(audio)


def find_audio(paths: Iterable[str | Path]) -> list[Path]:
    """The audio files under these folders (by suffix, none that is hidden) and the files named: sorted, each once."""
    found: set[str] = set()
    for path in map(Path, paths):
        if path.is_dir():
            found.update(find_files(path, AUDIO_SUFFIXES))
        elif path.is_file():
            found.add(str(path))
        else:
            raise CodecctlError(f"{path}: no such file or folder")
    # As paths sort, by their parts; text, for there may be a million, and pathlib's comparisons are slow.
    return [Path(name) for name in sorted(found, key=lambda name: name.split(os.sep))]


def find_files(folder: Path, suffixes: Collection[str]) -> Iterator[str]:
    """Those under a folder with one of these suffixes that are not hidden, in no order. Raises `OSError` if a folder
    cannot be listed."""
    seen: set[str] = set()
    for here, folders, names in os.walk(folder, followlinks=True, onerror=_raise):
        if (real := os.path.realpath(here)) in seen:  # a link that leads back up
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not name.startswith(".")]
        prefix = os.path.join("" if here == "." else here.removeprefix(f".{os.sep}"), "")
        for name in names:
            if os.path.splitext(name)[1].lower() in suffixes and not name.startswith("."):
                yield prefix + name


def to_pcm16(audio: Audio) -> NDArray[np.int16]:
    """Full scale 1 -> 32768, rounded, clipped; what was read from 16 bits comes back bit for bit."""
    scaled: Audio = audio * np.float32(32768)
    np.rint(scaled, out=scaled)
    return np.clip(scaled, -32768, 32767, out=scaled).astype(np.int16)


def _open(source: str | Path | bytes, suffix: str, raw_rate: int | None) -> soundfile.SoundFile | pyav.AvFile:
    """The decoder that fits: PyAV where the suffix or the first bytes tell of what libsndfile does not read."""
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    if rate := raw_rate or _RAW_RATES.get(suffix):
        return _Forward(file, "r", rate, 1, "PCM_16", "LITTLE", "RAW")
    if suffix in pyav.SUFFIXES or (isinstance(source, bytes) and source[4:8] == b"ftyp"):
        return pyav.AvFile(source, suffix)
    return _Forward(file)


def _check_source(source: str | Path | bytes, name: str) -> None:
    is_folder = False
    try:
        if isinstance(source, bytes):
            n_bytes = len(source)
        else:
            status = os.stat(source)
            n_bytes, is_folder = status.st_size, stat.S_ISDIR(status.st_mode)
    except OSError as error:
        raise CodecctlError(f"{name}: {'no such file' if error.errno == errno.ENOENT else error.strerror}") from None
    if is_folder:
        raise CodecctlError(f"{name}: is a folder, expected an audio file")
    if not n_bytes:
        raise CodecctlError(f"{name}: is empty")


def _reason(error: soundfile.LibsndfileError) -> str:
    return str(error.error_string).strip().rstrip(".") or f"libsndfile error {error.code}"


def _raise(error: OSError) -> NoReturn:
    raise error
