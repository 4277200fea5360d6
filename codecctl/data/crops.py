"""Training crops: a function of (seed, step, rank), read from memory-mapped shards without decoding."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from fnmatch import fnmatchcase
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from codecctl.audio import Audio
from codecctl.audio.files import to_pcm16
from codecctl.audio.resample import resample
from codecctl.config.schema import DataConfig, FilterConfig, MixConfig
from codecctl.data import SAMPLE_RATE, SPLITS, Split
from codecctl.data.augment import Speed, augmentations, random_stream
from codecctl.data.manifest import Utterance, read_manifest
from codecctl.data.shards import Index, Rows, ShardReader, read_index, run_edges, to_float
from codecctl.errors import CodecctlError, ConfigError
from codecctl.workers import BoundedPool, leave_signals

Batch = TypeVar("Batch")


class Crops:
    """Random crops of one split of a prepared folder.

    The utterances of a speaker are joined into runs; a crop is inside one run, and a run shorter than a crop is padded
    with zeros at its end. `config` says which utterances are left out (`filter`), how often the others are drawn
    (`mix`), and how crops are augmented; `highest_peak` bounds the augmented samples. Raises `CodecctlError` if no
    utterance of the split is left.
    """

    def __init__(
        self,
        folder: str | Path,
        split: Split,
        crop_samples: int,
        seed: int,
        config: DataConfig | None = None,
        highest_peak: float = 1.0,
    ) -> None:
        config = config or DataConfig()
        index = read_index(folder)
        rows, factors = _choose(index, split, config, folder)
        self.crop_samples, self.seed = crop_samples, seed
        self._speed = Speed(config.speed_augmentation)
        self._augmentations = augmentations(config, highest_peak)
        self._reader, self._shards = ShardReader(folder), index.shards
        rows, factors = rows[factors > 0], factors[factors > 0]
        self.n_samples = int(rows["n_samples"].sum())
        starts = run_edges(rows)[:-1]
        self._shard = rows["shard"][starts]
        self._first = rows["first_sample"][starts].astype(np.int64)
        self._length = np.add.reduceat(rows["n_samples"], starts).astype(np.int64)
        # A run is drawn in proportion to its length, so that every second is equally likely, apart from the mix.
        self._mass = self._length * factors[starts]
        self._ends = np.cumsum(self._mass)

    @property
    def are_augmented(self) -> bool:
        return bool(self._augmentations) or self._speed.most > 0

    @property
    def seconds(self) -> float:
        """All audio of the split that crops are drawn from."""
        return self.n_samples / SAMPLE_RATE

    def batch(self, step: int, batch_size: int, rank: int = 0, n_ranks: int = 1) -> Tensor:
        """float32 `[B, 1, L]`: this rank's share of the step's n_ranks x B crops, which follow from (seed, step)."""
        return torch.from_numpy(self.array(step, batch_size, rank, n_ranks))

    def array(self, step: int, batch_size: int, rank: int = 0, n_ranks: int = 1) -> Audio:
        """The same as `batch`, in numpy."""
        n_crops, own = batch_size * n_ranks, slice(rank * batch_size, (rank + 1) * batch_size)
        places = [drawn[own] for drawn in self._draw_places(step, n_crops)]
        crops = to_float(np.stack([self._read(*map(int, place)) for place in zip(*places, strict=True)]))  # [B, L]
        for augmentation in self._augmentations:
            random = random_stream(self.seed, step, type(augmentation).__name__)
            crops = augmentation.apply(crops, augmentation.draw(random, n_crops)[own])
        return crops[:, None]  # [B, 1, L]

    def _draw_places(self, step: int, n_crops: int) -> tuple[NDArray[np.int64], ...]:
        """Run, first sample in it and number of samples of each crop, `[n_crops]` each.

        One crop from each n-th part of the data, in random order, so that the crops of a step are spread.
        """
        random = np.random.Generator(np.random.Philox(key=[self.seed, step]))
        places = (random.permutation(n_crops) + random.random(n_crops)) * (self._ends[-1] / n_crops)
        runs = np.minimum(np.searchsorted(self._ends, places, side="right"), len(self._ends) - 1)
        share = (places - (self._ends[runs] - self._mass[runs])) / self._mass[runs]  # of the run, in [0, 1)
        speeds = self._speed.draw(random_stream(self.seed, step, Speed.__name__), n_crops)
        n_source = np.rint(self.crop_samples * speeds).astype(np.int64)
        n_starts = np.maximum(self._length[runs] - n_source, 0) + 1
        starts = np.clip((share * n_starts).astype(np.int64), 0, n_starts - 1)
        return runs, starts, n_source

    def _read(self, run: int, start: int, n_source: int) -> NDArray[np.int16]:
        """`[L]`: n_source samples of a run, resampled to L if that is another number, zeros after its end."""
        n_samples = min(n_source, int(self._length[run]))
        samples = self._reader.samples(self._shards[self._shard[run]], int(self._first[run]) + start, n_samples)
        if n_source != self.crop_samples:
            samples = to_pcm16(resample(to_float(samples)[None], n_source, self.crop_samples)[0])
        crop = np.zeros(self.crop_samples, np.int16)
        crop[: len(samples)] = samples[: len(crop)]
        return crop


def _choose(index: Index, split: Split, config: DataConfig, folder: str | Path) -> tuple[Rows, NDArray[np.float64]]:
    """The rows of a split that pass `config.filter`, and the factors of `config.mix` for them."""
    rows = index.rows[index.rows["split"] == SPLITS.index(split)]
    if not len(rows):
        raise _empty(folder, split)
    rows = rows[chosen_rows(rows, index, config.filter)]
    if not len(rows):
        raise CodecctlError(f"{folder}: data.filter leaves nothing of the {split} split")
    factors = mix_factors(rows, index, config.mix)
    if not factors.any():
        raise CodecctlError(f"{folder}: data.mix leaves nothing of the {split} split: all its factors are 0")
    return rows, factors


def _empty(folder: str | Path, split: Split) -> CodecctlError:
    how = " with data.validation_share above 0" if split == "validation" else ""
    return CodecctlError(f"{folder}: no recordings in the {split} split; prepare more{how}")


@contextmanager
def prefetch(
    cut: Callable[[int], Batch], first_step: int, n_workers: int, *, in_processes: bool = False
) -> Iterator[Iterator[tuple[int, Batch]]]:
    """Within: (step, cut(step)) for each step from `first_step` on, without end, cut ahead of their use by threads.

    With `in_processes` by processes instead: `cut` and its batches are pickled. Threads that make many short calls wait
    for the interpreter more than they compute, and keep the training's own thread from launching kernels.

    Order and batches do not depend on `n_workers`; 0 cuts on demand. An exception in `cut` is raised in place of its
    batch.
    """
    if in_processes and n_workers:
        pool = BoundedPool(n_workers, initializer=partial(_start_cutting, cut))
        cut = _cut_here
    else:
        pool = BoundedPool(n_workers, "threads")
    n_ahead = max(1, pool.n_submitted_at_most)

    def batches() -> Iterator[tuple[int, Batch]]:
        ahead: deque[Future[Batch]] = deque()
        for step in count(first_step):
            while len(ahead) < n_ahead:
                ahead.append(pool.submit(cut, step + len(ahead)))
            yield step, ahead.popleft().result()

    with pool:
        yield batches()


_cut: Callable[[int], Any]  # of a worker process


def _start_cutting(cut: Callable[[int], Any]) -> None:
    """In a worker process."""
    global _cut
    _cut = cut
    leave_signals()


def _cut_here(step: int) -> Any:
    return _cut(step)


def utterances(folder: str | Path, split: Split) -> list[Utterance]:
    """The utterances of one split, in the manifest's order. Raises `CodecctlError` if there are none."""
    read_index(folder)  # raises where nothing was prepared
    found = [utterance for utterance in read_manifest(Path(folder) / "manifest.jsonl") if utterance.split == split]
    if not found:
        raise _empty(folder, split)
    return found


def read_utterance(folder: str | Path, utterance: Utterance) -> Tensor:
    """float32 `[1, L]` in [-1, 1), scaled as crops are."""
    samples = ShardReader(folder).samples(utterance.shard, utterance.first_sample, utterance.n_samples)
    return torch.from_numpy(to_float(samples)).unsqueeze(0)


def chosen_rows(rows: Rows, index: Index, config: FilterConfig) -> NDArray[np.bool_]:
    """`[n_rows]`: whether an utterance passes the filter. Raises `ConfigError` for a name that matches nothing."""
    chosen = rows["bandwidth_hz"] >= config.min_bandwidth_hz
    for key in ("languages", "licences"):
        wanted = getattr(config, key)
        if wanted is not None:
            fits = _factors(f"filter.{key}", getattr(index, key), dict.fromkeys(wanted, 1.0), default=0.0)
            chosen &= fits[rows[key.removesuffix("s")]] > 0
    return chosen


def mix_factors(rows: Rows, index: Index, config: MixConfig) -> NDArray[np.float64]:
    """`[n_rows]`: how much more often an utterance is drawn than its length alone would have it.

    The hours h of a (dataset, language) count as h^(1/temperature). Raises `ConfigError` for a name that matches
    nothing.
    """
    by_dataset = _factors("mix.datasets", index.datasets, config.datasets)[rows["dataset"]]
    by_language = _factors("mix.languages", index.languages, config.languages)[rows["language"]]
    group = rows["dataset"].astype(np.int64) * len(index.languages) + rows["language"]
    hours = np.bincount(group, rows["n_samples"])[group]
    factors: NDArray[np.float64] = by_dataset * by_language * hours ** (1 / config.temperature - 1)
    return factors


def _factors(
    key: str, names: Sequence[str | None], wanted: Mapping[str, float], default: float = 1.0
) -> NDArray[np.float64]:
    """`[n_names]`: the factor of the first pattern that a name fits, else the default one."""
    there = [name or "unknown" for name in names]
    for pattern in wanted:
        if not any(fnmatchcase(name, pattern) for name in there):
            raise ConfigError(f"data.{key}: nothing prepared is '{pattern}'; there is {', '.join(sorted(there))}")
    matching = ([factor for pattern, factor in wanted.items() if fnmatchcase(name, pattern)] for name in there)
    return np.array([factors[0] if factors else default for factors in matching])
