"""Augmentations of training crops: each a class that draws its random numbers and applies them.

Every augmentation has a random stream of its own, named after its class, so that adding one changes no other's numbers.
They are applied in the order colour, noise, level: noise has the stated distance from the filtered crop, and the level
and the bound on the peak hold for what the codec gets. Speed comes before, when the samples are read.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol
from zlib import crc32

import numpy as np
from numpy.random import Generator, Philox
from numpy.typing import NDArray

from codecctl.audio import Audio
from codecctl.config.schema import DataConfig
from codecctl.data import SAMPLE_RATE

_LEAST_RMS = 1e-3  # -60 dB; a softer crop is background noise and is not brought to the level of speech
_LOWEST_HZ = 62.5  # the response of a colour filter below it is that at it
_NOISE_COLOUR_DB = 20.0  # from a rumble to a hiss
N_COLOURS = 3  # cosines of a random filter


class Augmentation(Protocol):
    """`draw` gives `[n, ...]` random parameters, the same for the same `random`; `apply` gives crops `[B, L]`."""

    def draw(self, random: Generator, n: int) -> NDArray[Any]: ...
    def apply(self, crops: Audio, drawn: NDArray[Any]) -> Audio: ...


def random_stream(seed: int, step: int, name: str) -> Generator:
    """The random numbers of one step of one training for one purpose."""
    return Generator(Philox(key=[seed, step], counter=[0, 0, 0, crc32(name.encode())]))


def augmentations(config: DataConfig, highest_peak: float) -> list[Augmentation]:
    """Those that the config turns on, in their order; `highest_peak` bounds the samples of what they return."""
    chosen: list[Augmentation] = []
    if config.colour_augmentation_db:
        chosen.append(Colour(config.colour_augmentation_db))
    if config.noise_snr_db is not None:
        chosen.append(Noise(*config.noise_snr_db))
    if chosen or config.level_augmentation_db or config.crop_level_db is not None:
        chosen.append(Level(config.level_augmentation_db, config.crop_level_db, highest_peak))
    return chosen


@dataclass(frozen=True)
class Speed:
    """Crops run faster or slower by up to `most`, and their pitch rises or falls by as much."""

    most: float

    def draw(self, random: Generator, n: int) -> NDArray[np.float64]:
        """`[n]`: samples of the recording for a sample of the crop."""
        return 1 + random.uniform(-self.most, self.most, n)


@dataclass(frozen=True)
class Colour:
    """Crops pass smooth random filters without delay, of up to `most_db`, like other microphones and rooms."""

    most_db: float

    def draw(self, random: Generator, n: int) -> NDArray[np.float64]:
        return random.uniform(-1, 1, (n, N_COLOURS))

    def apply(self, crops: Audio, drawn: NDArray[np.float64]) -> Audio:
        return colour(crops, drawn, self.most_db)


@dataclass(frozen=True)
class Noise:
    """Crops get stationary noise of a random colour, between `least_db` and `most_db` below their RMS."""

    least_db: float
    most_db: float
    _DRAWN: ClassVar = np.dtype([("seed", "<i8"), ("snr_db", "<f8"), ("colour", "<f8", (N_COLOURS,))])

    def draw(self, random: Generator, n: int) -> NDArray[np.void]:
        drawn = np.empty(n, self._DRAWN)
        drawn["seed"] = random.integers(np.iinfo(np.int64).max, size=n)
        drawn["snr_db"] = random.uniform(self.least_db, self.most_db, n)
        drawn["colour"] = random.uniform(-1, 1, (n, N_COLOURS))
        return drawn

    def apply(self, crops: Audio, drawn: NDArray[np.void]) -> Audio:
        sources = [Generator(Philox(key=int(seed))) for seed in drawn["seed"]]
        white = np.stack([source.standard_normal(crops.shape[1], np.float32) for source in sources])
        noise = colour(white, drawn["colour"], _NOISE_COLOUR_DB)
        gains = _rms(crops) * 10 ** (-drawn["snr_db"] / 20) / _rms(noise)
        return (crops + gains[:, None] * noise).astype(np.float32)


@dataclass(frozen=True)
class Level:
    """Crops are brought to `target_db` RMS of full scale (None: left as they are), then made louder or softer by up to
    `most_db`; a crop whose peak would exceed `highest_peak` is made softer."""

    most_db: float
    target_db: float | None
    highest_peak: float

    def draw(self, random: Generator, n: int) -> NDArray[np.float64]:
        return random.uniform(-self.most_db, self.most_db, n)

    def apply(self, crops: Audio, drawn: NDArray[np.float64]) -> Audio:
        gains = 10 ** (drawn / 20)
        if self.target_db is not None:
            gains = gains * 10 ** (self.target_db / 20) / _rms(crops)
        peaks = np.abs(crops).max(axis=1).clip(1e-6)
        scales = np.minimum(gains, self.highest_peak / peaks).astype(np.float32)
        louder: Audio = crops * scales[:, None]
        return louder


def colour(audio: Audio, weights: NDArray[np.float64], most_db: float) -> Audio:
    """`[B, L]` through zero-phase filters whose response in dB is a sum of cosines over the octaves, up to `most_db`.

    `weights` `[B, N_COLOURS]` in [-1, 1] are those of the cosines: a tilt, a hump, and a finer one.
    """
    hertz = np.fft.rfftfreq(audio.shape[1], 1 / SAMPLE_RATE).clip(_LOWEST_HZ)
    octaves = np.log2(hertz / _LOWEST_HZ) / math.log2(SAMPLE_RATE / 2 / _LOWEST_HZ)  # from 0 to 1
    number = np.arange(1, N_COLOURS + 1)
    waves = np.cos(np.pi * number[:, None] * octaves) / number[:, None] / (1 / number).sum()
    responses = 10 ** (most_db / 20 * (weights @ waves))
    return np.fft.irfft(np.fft.rfft(audio) * responses, audio.shape[1]).astype(np.float32)


def _rms(audio: Audio) -> NDArray[np.float32]:
    """`[B, L]` -> `[B]`, at least `_LEAST_RMS`."""
    rms: NDArray[np.float32] = np.sqrt(np.square(audio).mean(axis=1)).clip(_LEAST_RMS)
    return rms
