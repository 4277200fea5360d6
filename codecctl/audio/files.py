"""Audio files in and out: float32 `[C, L]`, full scale at 1, whole or in blocks."""

from __future__ import annotations

import math
import os
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn, Self

import numpy as np
import soundfile
from numpy.typing import NDArray

from codecctl.audio import Audio, pyav
from codecctl.audio.decoders import Source, reason
from codecctl.audio.opening import AUDIO_SUFFIXES, CutOffError, open_audio, say_cut_off
from codecctl.errors import CodecctlError, UsageError
from codecctl.files import replacing
from codecctl.text import counted

_CANCELLED = 0.05  # energy of the mean, relative to that of the mean of uncorrelated channels: 13 dB are lost
_AUDIBLE = 1e-5  # mean square, -50 dBFS
_ENOUGH_SECONDS = 10  # of audible sound, to decide
_WRITTEN_FORMATS = {".wav": "WAV", ".flac": "FLAC"}
STRETCH = 4096
"""Samples per channel for which `AudioReader` records minimum and maximum, so that a check for clipping scans only
those that reach the peak."""
_MISSING_SECONDS = 0.1  # decoders may end this much earlier than the header says
_HIGHEST_PEAK = 64.0  # +36 dBFS; speech as 16-bit integers that were only converted to float exceeds it
_BLOCK_VALUES = 1 << 24  # at most, of all channels of a block
_MOST_KINDS = 8  # suffixes that a message names
_PARTIAL_SAMPLES = 4096  # read at a time from damaged files: what precedes the damage in one read is lost


@dataclass(frozen=True)
class AudioInfo:
    """Facts of an audio file."""

    sample_rate: int  # Hz
    n_channels: int
    n_samples: int  # per channel
    lossy: str | None = None  # the codec, if it is lossy: "mp3", "vorbis", ...
    format: str | None = None  # "WAV", "MPEG-4", ...
    channel: int | None = None  # counted from 0: the one that stands for all where their mean cancels

    @property
    def seconds(self) -> float:
        return self.n_samples / self.sample_rate


class AudioReader:
    """An open audio file, read block by block in constant memory.

    The format is recognised by the bytes. `source` is a path, or the bytes of a file, for which `name` stands in
    messages; the suffix of the name decides only for formats without a header. With `raw_rate` in Hz the file is read
    as headerless mono 16-bit samples. With `partial` a file that is cut off or damaged gives what comes before that.
    `channel`, counted from 0: the only one that is read. Raises `CutOffError` for a file that ends before the length in
    its header, `CodecctlError` if it is missing, empty, no audio, lacks that channel, or holds samples that are NaN,
    infinite or far beyond full scale.
    """

    def __init__(
        self,
        source: Source,
        *,
        name: str | None = None,
        raw_rate: int | None = None,
        partial: bool = False,
        channel: int | None = None,
    ) -> None:
        self.name = name or ("audio in memory" if isinstance(source, bytes) else str(source))
        self._source, self._raw_rate, self._partial, self._channel = source, raw_rate, partial, channel
        self._mixdown_known = self._is_damaged = False
        # The extremes of the latest block, one value for each STRETCH of it.
        self.lows = self.highs = np.zeros(0, np.float32)
        self._decoder, form = open_audio(source, self.name, raw_rate=raw_rate, partial=partial)
        decoder = self._decoder
        self.info = AudioInfo(decoder.sample_rate, decoder.n_channels, decoder.n_samples, decoder.lossy, form)
        if channel is not None and channel >= self.n_channels:
            self.close()
            there = counted(self.n_channels, "channel")
            raise CodecctlError(f"{self.name}: no channel {channel}; it has {there}, numbered from 0")

    @property
    def sample_rate(self) -> int:
        return self.info.sample_rate

    @property
    def n_channels(self) -> int:
        return self.info.n_channels

    def blocks(
        self, block_seconds: float = 10.0, *, start_seconds: float = 0.0, n_seconds: float | None = None
    ) -> Iterator[Audio]:
        """float32 `[C, L]`, C = 1 if one channel was asked for, L = block_seconds except for the last one (less for
        very many channels); together the file, or n_seconds of it from start_seconds on."""
        n_total = self.info.n_samples
        n_read = min(round(start_seconds * self.sample_rate), n_total)
        n_end = sys.maxsize if n_seconds is None else n_read + round(n_seconds * self.sample_rate)
        n_block = n_total if math.isinf(block_seconds) else max(1, round(block_seconds * self.sample_rate))
        if not math.isinf(block_seconds):
            n_block = min(n_block, max(STRETCH, _BLOCK_VALUES // self.n_channels))
        if n_read:
            try:
                self._decoder.skip(n_read)
            except CodecctlError as error:
                raise CodecctlError(f"{self.name}: {error}") from None
        while n_read < n_end and len(block := self._read(min(n_block, n_end - n_read))):
            if self._channel is not None:
                block = block[:, self._channel, None]
            flat = block.ravel()  # numpy is twice as fast in one dimension
            starts = np.arange(0, len(flat), STRETCH * block.shape[1])
            self.lows, self.highs = np.minimum.reduceat(flat, starts), np.maximum.reduceat(flat, starts)
            peak = max(float(self.highs.max()), -float(self.lows.min()))
            if not peak <= _HIGHEST_PEAK:
                check_sound(block, n_read, self.sample_rate, self.name)
            n_read += len(block)
            yield np.ascontiguousarray(block.T)  # [C, L]
        n_expected = min(n_total, n_end)
        is_exact = not isinstance(self._decoder, pyav.AvDecoder)
        if is_exact and not self._partial and n_read < n_expected - _MISSING_SECONDS * self.sample_rate:
            raise CutOffError(f"{self.name}: {say_cut_off(n_read / self.sample_rate, n_total / self.sample_rate)}")

    def to_mono(self, block: Audio) -> Audio:
        """`[C, L]` -> `[1, L]`: the mean of the channels, or the loudest one if they cancel in this file.

        Which of them is decided at the first call, by ten audible seconds, and then stands in `info.channel`.
        """
        if len(block) == 1:
            return block
        if not self._mixdown_known:
            with AudioReader(self._source, name=self.name, raw_rate=self._raw_rate, partial=self._partial) as reader:
                self.info = replace(self.info, channel=find_dominant_channel(reader.blocks(1.0)))
            self._mixdown_known = True
        return to_mono(block) if self.info.channel is None else block[self.info.channel][None]

    def close(self) -> None:
        self._decoder.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self, n_samples: int) -> Audio:
        """`[L, C]`, as decoders give it."""
        if self._partial:
            return self._read_partial(n_samples)
        try:
            return self._decoder.read(n_samples)
        except CodecctlError as error:
            raise CutOffError(f"{self.name}: {error}, somewhere in its {self.info.seconds:.3f} s") from None

    def _read_partial(self, n_samples: int) -> Audio:
        """`[L, C]` up to the damage."""
        parts = [np.zeros((0, self.n_channels), np.float32)]
        while n_samples and not self._is_damaged:
            try:
                parts.append(self._decoder.read(min(n_samples, _PARTIAL_SAMPLES)))
            except CodecctlError:
                self._is_damaged = True
            if not len(parts[-1]):
                break
            n_samples -= len(parts[-1])
        return np.concatenate(parts)


class AudioWriter:
    """Writes blocks of float32 `[C, L]` to a 16-bit WAV or FLAC; clips samples beyond full scale.

    The file gets its name when the `with` block ends without an error; after an error nothing is left.
    """

    def __init__(self, path: str | Path, sample_rate: int, n_channels: int = 1) -> None:
        self.path = Path(path)
        form = _WRITTEN_FORMATS.get(self.path.suffix.lower())
        if form is None:
            raise UsageError(f"{path}: audio is written as {' or '.join(_WRITTEN_FORMATS)}; use such a suffix")
        if not self.path.parent.is_dir():
            raise CodecctlError(f"{path}: there is no folder {self.path.parent}")
        with ExitStack() as stack:
            self._partial = stack.enter_context(replacing(self.path))
            try:
                name = os.fsencode(self._partial)  # soundfile itself would refuse one that is not UTF-8
                self._file = soundfile.SoundFile(name, "w", sample_rate, n_channels, "PCM_16", format=form)
            except soundfile.LibsndfileError as error:
                self._fail(error)
            stack.callback(self._close)
            self._stack = stack.pop_all()

    def write(self, block: Audio) -> None:
        """Append `[C, L]`. Raises `CodecctlError` for NaN and for a full disk."""
        if not np.isfinite(block).all():
            raise CodecctlError(f"{self.path}: not written, the audio holds NaN or infinite samples")
        try:
            self._file.write(to_pcm16(block).T)
        except soundfile.LibsndfileError as error:
            self._fail(error)

    def _close(self) -> None:
        try:
            self._file.close()
        except soundfile.LibsndfileError as error:
            self._fail(error)

    def _fail(self, error: soundfile.LibsndfileError) -> NoReturn:
        """Raise the system's reason, which libsndfile does not pass on: the same write again returns it."""
        cause = reason(error)
        try:
            with open(self._partial, "ab") as file:
                file.write(bytes(1 << 16))
        except OSError as same:
            cause = same.strerror or cause
        raise CodecctlError(f"{self.path}: cannot be written ({cause})") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)


def check_sound(block: Audio, first_sample: int, sample_rate: int, name: str) -> None:
    """Raises `CodecctlError` that says what is wrong with the first sample of `[L, C]` that cannot be sound."""
    is_finite = np.isfinite(block).all(axis=1)
    peaks = np.abs(block).max(axis=1)
    is_good = peaks <= _HIGHEST_PEAK if is_finite.all() else is_finite
    if is_good.all():
        return
    second = (first_sample + int(np.argmin(is_good))) / sample_rate
    if not is_finite.all():
        raise CodecctlError(f"{name}: holds NaN or infinite samples, the first at {second:.3f} s")
    raise CodecctlError(
        f"{name}: samples far beyond full scale (up to {peaks.max():.0f}, from {second:.3f} s on; full scale is 1), "
        f"probably integers stored as float: divide by 32768 what was 16-bit"
    )


def read_audio(path: str | Path) -> tuple[Audio, int]:
    """The whole file: float32 `[C, L]` and its sample rate in Hz."""
    with AudioReader(path) as reader:
        blocks = list(reader.blocks(math.inf))
        if not blocks:
            raise CodecctlError(f"{path}: holds no audio")
        return (blocks[0] if len(blocks) == 1 else np.concatenate(blocks, axis=1)), reader.sample_rate


def find_audio(paths: Iterable[str | Path], skipped: Counter[str] | None = None) -> list[Path]:
    """The audio files under these folders (by suffix, except hidden ones) and the files named: sorted, each once.

    `skipped` counts, by suffix, the files in the folders that were left out. Raises `CodecctlError` for what does not
    exist and for a folder that cannot be listed.
    """
    found: set[str] = set()
    for path in map(Path, paths):
        if path.is_dir():
            found.update(find_files(path, AUDIO_SUFFIXES, skipped))
        elif path.exists():
            found.add(str(path))
        else:
            raise CodecctlError(f"{path}: no such file or folder")
    # In the order of paths, by their parts; as text, since comparing pathlib's objects is slow for a million of them.
    return [Path(name) for name in sorted(found, key=lambda name: name.split(os.sep))]


def left_out(skipped: Counter[str]) -> str:
    """A line on the files that `find_audio` left out."""
    kinds = ", ".join(f"{n} {kind or 'without a suffix'}" for kind, n in skipped.most_common(_MOST_KINDS))
    return f"left out, no audio by their suffix: {kinds}{', ...' if len(skipped) > _MOST_KINDS else ''}"


def find_files(folder: Path, suffixes: Collection[str], skipped: Counter[str] | None = None) -> Iterator[str]:
    """The files under a folder with one of these suffixes, except hidden ones, in no order; see `find_audio`."""
    seen: set[str] = set()
    for here, folders, names in os.walk(folder, followlinks=True, onerror=_refuse_listing):
        if (real := os.path.realpath(here)) in seen:  # a link to a folder above
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not name.startswith(".")]
        prefix = os.path.join("" if here == "." else here.removeprefix(f".{os.sep}"), "")
        for name in names:
            suffix = os.path.splitext(name)[1].lower()
            if name.startswith("."):
                continue
            if suffix in suffixes:
                yield prefix + name
            elif skipped is not None:
                skipped[suffix] += 1


def _refuse_listing(error: OSError) -> NoReturn:
    raise CodecctlError(f"{error.filename}: this folder cannot be listed ({error.strerror})") from None


def to_pcm16(audio: Audio) -> NDArray[np.int16]:
    """Full scale 1 -> 32768, rounded, clipped; samples read from 16 bits come back bit for bit."""
    scaled: Audio = audio * np.float32(32768)
    np.rint(scaled, out=scaled)
    return np.clip(scaled, -32768, 32767, out=scaled).astype(np.int16)


def to_mono(audio: Audio) -> Audio:
    """The mean of the channels: `[C, L]` -> `[1, L]`."""
    return audio if audio.shape[0] == 1 else audio.mean(axis=0, keepdims=True, dtype=np.float32)


def find_dominant_channel(seconds: Iterable[Audio]) -> int | None:
    """The index of the loudest channel if the mean of the channels cancels, else None.

    `seconds` are `[C, L]` of a second each. Reads on until ten of them were audible.
    """
    energies: np.ndarray[tuple[int], np.dtype[np.float64]] | None = None
    mixed, n_audible = 0.0, 0
    for second in seconds:
        energy = np.einsum("cl,cl->c", second, second, dtype=np.float64)
        energies = energy if energies is None else energies + energy
        mixed += float(np.square(to_mono(second), dtype=np.float64).sum())
        n_audible += bool(energy.max() > _AUDIBLE * second.shape[1])
        if n_audible == _ENOUGH_SECONDS:
            break
    if energies is None or mixed >= _CANCELLED * energies.sum() / len(energies) ** 2:
        return None
    return int(energies.argmax())
