"""Stopping with the state saved. The first SIGINT or SIGTERM, or the end of `train.max_minutes`, lets the loop finish
its step; a second signal stops the process at once."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Self, TypeVar

from codecctl.config.schema import TrainConfig
from codecctl.errors import UsageError

Item = TypeVar("Item")

TIME_IS_OVER = 1  # below the numbers of the signals: of the reasons of several ranks the largest counts


@dataclass(frozen=True)
class TimeLimit:
    """How long a command may train; `minutes` None: no limit. Raises `UsageError` unless `minutes` is positive."""

    minutes: float | None
    start: float  # of the command, by `time.monotonic()`

    def __post_init__(self) -> None:
        if self.minutes is not None and not self.minutes > 0:
            raise UsageError(f"--max-minutes {self.minutes:g}: must be above 0; leave it out to train without a limit")

    @classmethod
    def of(cls, config: TrainConfig, minutes: float | None, start: float | None) -> Self:
        """`minutes` None: those of the config; `start` None: now."""
        return cls(config.max_minutes if minutes is None else minutes, time.monotonic() if start is None else start)

    @property
    def minutes_passed(self) -> float:
        return (time.monotonic() - self.start) / 60

    @property
    def is_over(self) -> bool:
        return self.minutes is not None and self.minutes_passed >= self.minutes


class StopSignals:
    """In a `with`: `received` is the signal that asked to stop, or None. Needs the main thread."""

    received: int | None = None

    def __init__(self, limit: TimeLimit = TimeLimit(None, 0.0)) -> None:
        self._limit = limit

    @property
    def reason(self) -> int:
        """To stop: the signal, `TIME_IS_OVER`, or 0 for none."""
        return self.received or (TIME_IS_OVER if self._limit.is_over else 0)

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._receive) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def _receive(self, number: int, _: FrameType | None) -> None:
        if self.received is not None:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self.received = number

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


class StopAsked(Exception):
    """There is a reason to stop, and what is being done can be done again."""


class UntilStopped(list[Item]):
    """A list whose iteration raises `StopAsked` once there is a reason to stop."""

    def __init__(self, items: Iterable[Item], reason_to_stop: Callable[[], int | None]) -> None:
        super().__init__(items)
        self._reason_to_stop = reason_to_stop

    def __iter__(self) -> Iterator[Item]:
        for item in super().__iter__():
            if self._reason_to_stop():
                raise StopAsked
            yield item
