"""How fast a run goes, and how much of its time it waits for audio."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

Item = TypeVar("Item")

_KEPT = 0.9  # of the average at each step


@dataclass(frozen=True)
class Pace:
    """Of the last steps, recent ones weighing more."""

    audio_seconds_per_second: float
    loader_wait_share: float  # of all the time: until the crops of a step were there


class Clock:
    """Takes the time of steps that each hear `audio_seconds_per_step`."""

    def __init__(self, audio_seconds_per_step: float) -> None:
        self.pace: Pace | None = None
        self._audio_seconds = audio_seconds_per_step
        self._waited = 0.0  # seconds of this step
        self._last = time.perf_counter()

    def waiting(self, items: Iterable[Item]) -> Iterator[Item]:
        """The same items; until one is there, the loop waits."""
        iterator = iter(items)
        while True:
            start = time.perf_counter()
            try:
                item = next(iterator)
            except StopIteration:
                return
            self._waited += time.perf_counter() - start
            yield item

    def tick(self) -> Pace:
        """A step is done."""
        now = time.perf_counter()
        seconds = now - self._last
        speed, share = self._audio_seconds / seconds, self._waited / seconds
        if self.pace is not None:
            speed = _KEPT * self.pace.audio_seconds_per_second + (1 - _KEPT) * speed
            share = _KEPT * self.pace.loader_wait_share + (1 - _KEPT) * share
        self.pace, self._last, self._waited = Pace(speed, share), now, 0.0
        return self.pace
