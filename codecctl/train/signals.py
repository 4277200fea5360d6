"""Stopping in good order: the first SIGINT or SIGTERM asks the loop to finish its step, a second one stops at once."""

from __future__ import annotations

import signal
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import Self, TypeVar

Item = TypeVar("Item")


class StopSignals:
    """In a `with`: `received` is the signal that asked to stop, or None. Needs the main thread."""

    received: int | None = None

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
    """A signal came while something was done that can be done again."""


class UntilStopped(list[Item]):
    """A list whose iteration raises `StopAsked` once a signal has come."""

    def __init__(self, items: Iterable[Item], signals: StopSignals) -> None:
        super().__init__(items)
        self._signals = signals

    def __iter__(self) -> Iterator[Item]:
        for item in super().__iter__():
            if self._signals.received is not None:
                raise StopAsked
            yield item
