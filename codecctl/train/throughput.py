"""Throughput of a training, and the shares of its time."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Self, TypeVar

import torch

from codecctl.train.timer import DISCRIMINATORS, PartTimer

Item = TypeVar("Item")

_KEPT = 0.9  # of the averages at each step


@dataclass(frozen=True)
class Throughput:
    """Averages over the last steps, recent ones weighing more."""

    audio_seconds_per_second: float
    loader_wait_share: float  # of the time between two steps: waiting for their crops
    discriminators_share: float | None  # of the time of a step, both passes; None: they have not been used yet


class Clock:
    """Measures steps that each train on `audio_seconds_per_step`, within a `with`. Never waits for the device."""

    def __init__(self, audio_seconds_per_step: float, device: torch.device) -> None:
        self._audio_seconds = audio_seconds_per_step
        self._timer = PartTimer(device)
        self._waited = 0.0  # seconds of this step
        self._last = time.perf_counter()
        # A host that runs ahead of its card takes steps of very different length: seconds are averaged, not speeds.
        self._seconds = self._wait_seconds = 0.0
        self._parts: dict[str, float] = {}
        self._n_steps = 0

    def waiting(self, items: Iterable[Item]) -> Iterator[Item]:
        """The same items; the time until the next one is there counts as waiting for the loader."""
        iterator = iter(items)
        while True:
            start = time.perf_counter()
            try:
                item = next(iterator)
            except StopIteration:
                return
            self._waited += time.perf_counter() - start
            yield item

    def tick(self) -> Throughput:
        """To be called at the end of each step."""
        now = time.perf_counter()
        kept = _KEPT if self._n_steps else 0.0
        self._seconds = _average(self._seconds, now - self._last, kept)
        self._wait_seconds = _average(self._wait_seconds, self._waited, kept)
        self._last, self._waited, self._n_steps = now, 0.0, self._n_steps + 1
        self._timer.end_step()
        for parts in self._timer.finished():
            names = self._parts.keys() | parts.keys()
            kept = _KEPT if self._parts else 0.0
            self._parts = {name: _average(self._parts.get(name, 0.0), parts.get(name, 0.0), kept) for name in names}
        share = self._parts[DISCRIMINATORS] / sum(self._parts.values()) if DISCRIMINATORS in self._parts else None
        return Throughput(self._audio_seconds / self._seconds, self._wait_seconds / self._seconds, share)

    def __enter__(self) -> Self:
        self._timer.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.__exit__()


def _average(average: float, value: float, kept: float) -> float:
    return kept * average + (1 - kept) * value
