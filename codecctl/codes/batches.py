"""Recordings of unequal length encoded together, each to the codes that it gets alone.

The codec is causal and padding is on the right, so padding changes no frame of a recording. A window of recordings is
read while the one before is encoded; within a window they are sorted by length, so that little is padding. Windows and
batches follow from the recordings alone: neither timing nor the number of workers changes what is computed together.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from codecctl.audio import Audio
from codecctl.audio.resample import Resampler
from codecctl.bitstream import Codes
from codecctl.data.prepare.items import AudioItem, ItemOpener
from codecctl.errors import CodecctlError, UsageError
from codecctl.inference.stream import StreamEncoder

if TYPE_CHECKING:
    from codecctl.inference.load import Codec

_BATCH_SECONDS = {"cpu": 30.0, "cuda": 300.0}  # of padded audio; the CPU gains nothing from more
_BATCHES_A_WINDOW = 4
_FRAMES_A_PUSH = 1000  # of a recording that is longer than a batch

Read = Audio | str | None
"""Samples `[L]`, why there are none, or None for a recording that is too long to be held in memory."""


@dataclass(frozen=True)
class Encoded:
    """One recording: its codes, uint16 `[K, T]`, or why it has none."""

    number: int  # of the item
    codes: Codes | None = None
    n_samples: int = 0  # at the codec's rate
    failure: str = ""


class BatchEncoder:
    """Encodes the recordings of a unit. `partial` takes what is there of audio that is cut off."""

    def __init__(self, codec: Codec, n_quantizers: int | None = None, *, partial: bool = False) -> None:
        self._codec, self._n_quantizers, self._partial = codec, n_quantizers, partial
        parameter = next(codec.parameters())
        self._device, self._dtype = parameter.device, parameter.dtype
        self._most_samples = round(_BATCH_SECONDS[self._device.type] * codec.sample_rate)
        self.wait_seconds = self.encode_seconds = 0.0  # of wall time; `wait` for reading and resampling

    def encode(self, root: Path, items: Sequence[AudioItem]) -> Iterator[Encoded]:
        """The recordings below `root`, each once, in the order in which they are done."""
        windows = self._windows(root, items)
        with ThreadPoolExecutor(1, thread_name_prefix="read") as thread:
            reading = thread.submit(next, windows, None)
            while True:
                start = time.perf_counter()
                window = reading.result()
                self.wait_seconds += time.perf_counter() - start
                if window is None:
                    return
                reading = thread.submit(next, windows, None)
                start = time.perf_counter()
                yield from self._encode_window(window, root, items)
                self.encode_seconds += time.perf_counter() - start

    def _windows(self, root: Path, items: Sequence[AudioItem]) -> Iterator[list[tuple[int, Read]]]:
        """(number, what was read) of some recordings at a time.

        What is stated of their sizes decides the order, so that those of a window are about equally long.
        """
        opener = ItemOpener(root, partial=self._partial)
        window: list[tuple[int, Read]] = []
        n_samples = 0
        for number in sorted(range(len(items)), key=lambda number: _reading_order(items[number])):
            audio = self._read(opener, items[number])
            window.append((number, audio))
            n_samples += len(audio) if isinstance(audio, np.ndarray) else 0
            if n_samples >= _BATCHES_A_WINDOW * self._most_samples:
                yield window
                window, n_samples = [], 0
        if window:
            yield window

    def _read(self, opener: ItemOpener, item: AudioItem) -> Read:
        blocks, n_samples = [], 0
        try:
            for block in _mono_blocks(opener, item, self._codec.sample_rate):
                blocks.append(block)
                n_samples += len(block)
                if n_samples > self._most_samples:
                    return None
        except UsageError:
            raise  # a package is missing
        except CodecctlError as error:
            return opener.reason(error)
        return np.concatenate(blocks) if n_samples else "holds no audio"

    def _encode_window(
        self, window: list[tuple[int, Read]], root: Path, items: Sequence[AudioItem]
    ) -> Iterator[Encoded]:
        short = []
        for number, audio in window:
            if isinstance(audio, str):
                yield Encoded(number, failure=audio)
            elif audio is None:
                yield self._encode_long(number, root, items[number])
            else:
                short.append((number, audio))
        for batch in self._batches(short):
            codes = self._encode_batch([audio for _, audio in batch])
            for (number, audio), padded in zip(batch, codes, strict=True):
                yield Encoded(number, padded[:, : self._codec.n_frames(len(audio))], len(audio))

    def _batches(self, recordings: list[tuple[int, Audio]]) -> Iterator[list[tuple[int, Audio]]]:
        """The recordings, sorted by length, in batches of bounded size."""
        batch: list[tuple[int, Audio]] = []
        for number, audio in sorted(recordings, key=lambda recording: (len(recording[1]), recording[0])):
            if batch and (len(batch) + 1) * len(audio) > self._most_samples:
                yield batch
                batch = []
            batch.append((number, audio))
        if batch:
            yield batch

    @torch.inference_mode()
    def _encode_batch(self, recordings: Sequence[Audio]) -> Codes:
        """`[L]` each -> `[B, K, T]`, T that of the longest one."""
        audio = torch.zeros(len(recordings), 1, max(map(len, recordings)))
        for row, samples in zip(audio, recordings, strict=True):
            row[0, : len(samples)] = torch.from_numpy(samples)
        return _to_numpy(self._codec.encode(audio.to(self._device, self._dtype), n_quantizers=self._n_quantizers))

    @torch.inference_mode()
    def _encode_long(self, number: int, root: Path, item: AudioItem) -> Encoded:
        """A recording in constant memory, apart from its codes."""
        stream = StreamEncoder(self._codec, self._n_quantizers, frames_per_push=_FRAMES_A_PUSH)
        opener = ItemOpener(root, partial=self._partial)
        try:
            blocks = _mono_blocks(opener, item, self._codec.sample_rate)
            codes = [_to_numpy(stream.push(torch.from_numpy(block)[None, None])) for block in blocks]
            codes.append(_to_numpy(stream.flush()))
        except CodecctlError as error:
            return Encoded(number, failure=opener.reason(error))
        return Encoded(number, np.concatenate(codes, axis=-1)[0], stream.n_samples)


def _reading_order(item: AudioItem) -> tuple[tuple[str, int], float, int]:
    """Rows of a Parquet file's row group are read one after the other."""
    return item.part or ("", 0), item.n_seconds or 0.0, item.n_bytes


def _to_numpy(codes: Tensor) -> Codes:
    return codes.cpu().numpy().astype(np.uint16)


def _mono_blocks(opener: ItemOpener, item: AudioItem, sample_rate: int) -> Iterator[Audio]:
    """The recording as `[L]` at `sample_rate`. Raises `CodecctlError` if it ends before its stated length."""
    with opener.open(item) as reader:
        resampler, n_read = Resampler(reader.sample_rate, sample_rate), 0
        for block in reader.blocks(start_seconds=item.start_seconds or 0.0, n_seconds=item.n_seconds):
            n_read += block.shape[-1]
            yield resampler.push(reader.to_mono(block))[0]
        yield resampler.flush()[0]
    seconds = n_read / reader.sample_rate
    if item.n_seconds is not None and seconds < item.n_seconds - 0.1:
        raise CodecctlError(f"ends after {seconds:.2f} of the {item.n_seconds:.2f} s that its list states")
