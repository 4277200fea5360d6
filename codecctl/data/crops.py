"""Training crops: a function of (seed, step, rank), read from memory-mapped shards without decoding."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Generic, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from codecctl.audio.files import Audio, to_pcm16
from codecctl.audio.resample import resample
from codecctl.config.schema import DataConfig
from codecctl.data.manifest import SAMPLE_RATE, SPLITS, Split, Utterance, read_manifest
from codecctl.data.mix import chosen_rows, mix_factors
from codecctl.data.shards import ShardReader, read_index, run_edges, to_float
from codecctl.errors import CodecctlError

Batch = TypeVar("Batch")

_SILENCE = 1e-3  # RMS, -60 dB: below it a crop is noise, and is not brought to the level of speech
_LOWEST_COLOUR = 62.5  # Hz: below it a filter does what it does there
_NOISE_COLOUR_DB = 20.0  # from a rumble to a hiss
N_COLOURS = 3  # cosines of a random filter: a tilt, a hump, and one finer
_CROP = np.dtype([
    ("run", "<i8"), ("start", "<i8"), ("n_source", "<i8"), ("gain", "<f4"), ("colour", "<f4", (N_COLOURS,)),
    ("noise", "<i8"), ("noise_gain", "<f4"), ("noise_colour", "<f4", (N_COLOURS,)),
])  # fmt: skip


class Crops:
    """Random crops of one split of a prepared folder.

    Every speaker's recordings are joined into runs; a crop lies inside one run, and a run shorter than a crop is padded
    with zeros behind its end. `config` says what is left out (`filter`), how often the rest is heard (`mix`), and
    how its level, speed, colour and noise are varied, `highest_peak` how loud that may make it. Raises
    `CodecctlError` if nothing is left of this split.
    """

    def __init__(
        self,
        folder: str | Path,
        split: Split,
        segment_samples: int,
        seed: int,
        config: DataConfig | None = None,
        highest_peak: float = 1.0,
    ) -> None:
        config = config or DataConfig()
        index = read_index(folder)
        rows = index.rows[index.rows["split"] == SPLITS.index(split)]
        if not len(rows):
            raise CodecctlError(f"{folder}: no recordings in the {split} split; prepare more")
        rows = rows[chosen_rows(rows, index, config.filter)]
        if not len(rows):
            raise CodecctlError(f"{folder}: data.filter leaves nothing of the {split} split")
        self.segment_samples, self.seed = segment_samples, seed
        self._config, self._highest_peak = config, highest_peak
        self._reader, self._shards = ShardReader(folder), index.shards
        self.n_samples = int(rows["n_samples"].sum())
        factors = mix_factors(rows, index, config.mix)
        rows, factors = rows[factors > 0], factors[factors > 0]
        if not len(rows):
            raise CodecctlError(f"{folder}: data.mix leaves nothing of the {split} split: all its factors are 0")
        starts = run_edges(rows)[:-1]
        self._shard = rows["shard"][starts]
        self._first = rows["first_sample"][starts].astype(np.int64)
        self._length = np.add.reduceat(rows["n_samples"], starts).astype(np.int64)
        # A run is drawn in proportion to its length, so that every second has the same chance, but for the mix.
        self._mass = self._length * factors[starts]
        self._ends = np.cumsum(self._mass)

    @property
    def seconds(self) -> float:
        """All audio of the split."""
        return self.n_samples / SAMPLE_RATE

    def batch(self, step: int, batch_size: int, rank: int = 0, n_ranks: int = 1) -> Tensor:
        """float32 `[B, 1, L]`: this rank's part of the step's n_ranks x B crops, the same anywhere."""
        drawn = self._draw(step, batch_size * n_ranks)[rank * batch_size : (rank + 1) * batch_size]
        audio = np.zeros((batch_size, self.segment_samples), np.int16)
        for row, crop in zip(audio, drawn, strict=True):
            samples = self._read(crop)
            row[: len(samples)] = samples
        crops = to_float(audio)
        config = self._config
        if config.colour_augmentation_db:
            crops = coloured(crops, drawn["colour"], config.colour_augmentation_db)
        if config.noise_snr_db is not None:
            levels = drawn["noise_gain"] * _rms(crops)
            crops += levels[:, None] * noises(drawn["noise"], drawn["noise_colour"], self.segment_samples)
        gains = drawn["gain"]
        if config.crop_level_db is not None:
            gains = gains * np.float32(10 ** (config.crop_level_db / 20)) / _rms(crops)
        changes = config.level_augmentation_db, config.colour_augmentation_db, config.noise_snr_db, config.crop_level_db
        if any(changes):
            peaks = np.abs(crops).max(axis=1).clip(1e-6)
            crops *= np.minimum(gains, self._highest_peak / peaks)[:, None]
        return torch.from_numpy(crops).unsqueeze(1)  # [B, 1, L]

    def _read(self, crop: NDArray[np.void]) -> NDArray[np.int16]:
        """The samples of one crop at its speed, up to L of them."""
        run, n_source = crop["run"], int(crop["n_source"])
        first = int(self._first[run]) + int(crop["start"])
        n_samples = min(n_source, int(self._length[run]))
        samples: NDArray[np.int16] = self._reader.samples(self._shards[self._shard[run]], first, n_samples)
        if n_source == self.segment_samples:
            return samples
        return to_pcm16(resample(to_float(samples)[None], n_source, self.segment_samples)[0])

    def _draw(self, step: int, n_crops: int) -> NDArray[np.void]:
        """Which runs, where in them, how much of them, how loud and how coloured, a row of `_CROP` each.

        One place in each n-th part of the data, in random order, so that the crops of a step do not crowd.
        """
        random = np.random.Generator(np.random.Philox(key=[self.seed, step]))
        config, drawn = self._config, np.empty(n_crops, _CROP)
        places = (random.permutation(n_crops) + random.random(n_crops)) * (self._ends[-1] / n_crops)
        chosen = np.minimum(np.searchsorted(self._ends, places, side="right"), len(self._ends) - 1)
        share = (places - (self._ends[chosen] - self._mass[chosen])) / self._mass[chosen]  # of the run, in [0, 1)
        gains_db = random.uniform(-config.level_augmentation_db, config.level_augmentation_db, n_crops)
        speeds = 1 + random.uniform(-config.speed_augmentation, config.speed_augmentation, n_crops)
        n_source = np.rint(self.segment_samples * speeds).astype(np.int64)
        n_starts = np.maximum(self._length[chosen] - n_source, 0) + 1
        drawn["run"], drawn["n_source"] = chosen, n_source
        drawn["start"] = np.clip((share * n_starts).astype(np.int64), 0, n_starts - 1)
        drawn["gain"] = 10 ** (gains_db / 20)
        drawn["colour"] = random.uniform(-1, 1, (n_crops, N_COLOURS))
        drawn["noise"] = random.integers(np.iinfo(np.int64).max, size=n_crops)
        least_db, most_db = config.noise_snr_db or (0.0, 0.0)
        drawn["noise_gain"] = 10 ** (-random.uniform(least_db, most_db, n_crops) / 20)
        drawn["noise_colour"] = random.uniform(-1, 1, (n_crops, N_COLOURS))
        return drawn


def _rms(crops: Audio) -> Audio:
    """RMS of each crop of `[B, L]`, -60 dB at least."""
    rms: Audio = np.sqrt(np.square(crops).mean(axis=1)).clip(_SILENCE)
    return rms


def coloured(crops: Audio, colours: Audio, most_db: float) -> Audio:
    """`[B, L]` through smooth filters without a delay: in dB a sum of cosines over the octaves, up to `most_db`.

    `colours` `[B, N_COLOURS]` from -1 to 1 are the cosines' weights, slow ones first.
    """
    hertz = np.fft.rfftfreq(crops.shape[1], 1 / SAMPLE_RATE).clip(_LOWEST_COLOUR)
    octaves = np.log2(hertz / _LOWEST_COLOUR) / math.log2(SAMPLE_RATE / 2 / _LOWEST_COLOUR)  # from 0 to 1
    number = np.arange(1, N_COLOURS + 1)
    waves = np.cos(np.pi * number[:, None] * octaves) / number[:, None] / (1 / number).sum()
    curves = 10 ** (most_db / 20 * (colours @ waves))
    return np.fft.irfft(np.fft.rfft(crops) * curves, crops.shape[1]).astype(np.float32)


def noises(seeds: NDArray[np.int64], colours: Audio, n_samples: int) -> Audio:
    """`[B, n_samples]` of RMS 1, each the one of its seed `[B]` and its colour `[B, N_COLOURS]` from -1 to 1."""
    sources = [np.random.Generator(np.random.Philox(key=int(seed))) for seed in seeds]
    white = np.stack([source.standard_normal(n_samples, np.float32) for source in sources])
    noise = coloured(white, colours, _NOISE_COLOUR_DB)
    rms: Audio = np.sqrt(np.square(noise).mean(axis=1, keepdims=True))
    return noise / rms


class Prefetcher(Generic[Batch]):
    """(step, cut(step)) for each step from `first_step` on, cut ahead of their use by threads; without end.

    The order and the batches are the same for any `n_workers`; 0 cuts when asked. An exception in `cut` is raised where
    its batch would have come. Close it, or use it in a `with`.
    """

    def __init__(self, cut: Callable[[int], Batch], first_step: int, n_workers: int) -> None:
        self._cut, self._next_step = cut, first_step
        self._pool = ThreadPoolExecutor(n_workers, "crops") if n_workers else None
        self._n_ahead = 2 * n_workers
        self._ahead: deque[Future[Batch]] = deque()

    def __iter__(self) -> Iterator[tuple[int, Batch]]:
        return self

    def __next__(self) -> tuple[int, Batch]:
        step = self._next_step
        if self._pool is None:
            batch = self._cut(step)
        else:
            while len(self._ahead) < self._n_ahead:
                self._ahead.append(self._pool.submit(self._cut, step + len(self._ahead)))
            batch = self._ahead.popleft().result()
        self._next_step = step + 1
        return step, batch

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def utterances(folder: str | Path, split: Split) -> list[Utterance]:
    """The recordings of one split, in the manifest's order. Raises `CodecctlError` if there are none."""
    read_index(folder)  # says what is missing where nothing was prepared
    found = [utterance for utterance in read_manifest(Path(folder) / "manifest.jsonl") if utterance.split == split]
    if not found:
        raise CodecctlError(f"{folder}: no recordings in the {split} split; prepare more")
    return found


def read_utterance(folder: str | Path, utterance: Utterance) -> Tensor:
    """float32 `[1, L]` in [-1, 1], by the same level rule as crops."""
    samples = ShardReader(folder).samples(utterance.shard, utterance.first_sample, utterance.n_samples)
    return torch.from_numpy(to_float(samples)).unsqueeze(0)
