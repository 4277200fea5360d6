"""Training crops: a function of (seed, step, rank), read from memory-mapped shards without decoding."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Generic, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from codecctl.config.schema import DataConfig
from codecctl.data.manifest import SAMPLE_RATE, SPLITS, Split, Utterance, read_manifest
from codecctl.data.mix import chosen_rows, mix_factors
from codecctl.data.shards import ShardReader, read_index, run_edges, to_float
from codecctl.errors import CodecctlError

Batch = TypeVar("Batch")

_SILENCE = 1e-3  # RMS, -60 dB: below it a crop is noise, and is not brought to the level of speech


class Crops:
    """Random crops of one split of a prepared folder.

    Every speaker's recordings are joined into runs; a crop lies inside one run, and a run shorter than a crop is padded
    with zeros behind its end. `config` says what is left out (`filter`), how often the rest is heard (`mix`), and
    how its level is varied. Raises `CodecctlError` if nothing is left of this split.
    """

    def __init__(
        self, folder: str | Path, split: Split, segment_samples: int, seed: int, config: DataConfig | None = None
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
        self._augmentation_db, self._level_db = config.level_augmentation_db, config.crop_level_db
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
        """float32 `[B, 1, L]` in [-1, 1]: this rank's part of the step's n_ranks x B crops, the same anywhere."""
        chosen, starts, gains = self._draw(step, batch_size * n_ranks)
        mine = slice(rank * batch_size, (rank + 1) * batch_size)
        audio = np.zeros((batch_size, self.segment_samples), np.int16)
        for row, run, start in zip(audio, chosen[mine].tolist(), starts[mine].tolist(), strict=True):
            n_samples = min(self.segment_samples, int(self._length[run]))
            shard = self._shards[self._shard[run]]
            row[:n_samples] = self._reader.samples(shard, int(self._first[run]) + start, n_samples)
        crops = to_float(audio)
        gains = gains[mine]
        if self._level_db is not None:
            loudness = np.sqrt(np.square(crops).mean(axis=1)).clip(_SILENCE)
            gains = gains * np.float32(10 ** (self._level_db / 20)) / loudness
        if self._augmentation_db or self._level_db is not None:
            peaks = np.abs(crops).max(axis=1).clip(1e-6)
            crops *= np.minimum(gains, 1 / peaks)[:, None]  # louder, but never clipped
        return torch.from_numpy(crops).unsqueeze(1)  # [B, 1, L]

    def _draw(self, step: int, n_crops: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
        """Which runs, where in them, and how loud.

        One place in each n-th part of the data, in random order, so that the crops of a step do not crowd.
        """
        random = np.random.Generator(np.random.Philox(key=[self.seed, step]))
        places = (random.permutation(n_crops) + random.random(n_crops)) * (self._ends[-1] / n_crops)
        chosen = np.minimum(np.searchsorted(self._ends, places, side="right"), len(self._ends) - 1)
        share = (places - (self._ends[chosen] - self._mass[chosen])) / self._mass[chosen]  # of the run, in [0, 1)
        n_starts = np.maximum(self._length[chosen] - self.segment_samples, 0) + 1
        gains_db = random.uniform(-self._augmentation_db, self._augmentation_db, n_crops)
        starts = np.clip((share * n_starts).astype(np.int64), 0, n_starts - 1)
        return chosen, starts, (10 ** (gains_db / 20)).astype(np.float32)


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
