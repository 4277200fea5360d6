"""Time of each part of a training step, by CUDA events on a card, so that the host never waits; and throughput."""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Self, TypeVar

import torch
from torch import Tensor

BACKWARD, DISCRIMINATORS = "backward", "discriminators"

Mark = float | torch.cuda.Event
Marks = list[tuple[str | None, Mark]]  # from this moment on the time is that of the named part; None: of no part

_active: PartTimer | None = None
Item = TypeVar("Item")
_KEPT = 0.9  # of the averages at each step


class PartTimer:
    """Within `with`: `part` and `backward_part` record what they enclose, for steps that compute on `device`."""

    def __init__(self, device: torch.device) -> None:
        self._on_card = device.type == "cuda"
        self._open: list[str] = []  # parts entered and not left yet, the innermost last
        self._marks: Marks = []
        self._steps: deque[Marks] = deque()

    def enter(self, name: str) -> None:
        self._open.append(name)
        self._mark(name)

    def leave(self) -> None:
        self._open.pop()
        self._mark(self._open[-1] if self._open else None)

    def switch(self, name: str) -> None:
        """Go on as the part `name` in place of the innermost one."""
        self._open[-1] = name
        self._mark(name)

    def end_step(self) -> None:
        self._steps.append(self._marks)
        self._marks = []

    def finished(self) -> list[dict[str, float]]:
        """Seconds by part of each step that the device has completed since the last call, in order. Does not wait."""
        steps = []
        while self._steps and _is_done(self._steps[0]):
            steps.append(_seconds(self._steps.popleft()))
        return steps

    def _mark(self, name: str | None) -> None:
        if not self._on_card:
            self._marks.append((name, time.perf_counter()))
            return
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        self._marks.append((name, event))

    def __enter__(self) -> Self:
        global _active
        self._before, _active = _active, self
        return self

    def __exit__(self, *_: object) -> None:
        global _active
        _active = self._before


@contextmanager
def part(name: str) -> Iterator[None]:
    """Within, or in the function that this decorates: the time counts as that of the part `name`, except where another
    part is entered. Does nothing while no `PartTimer` is active."""
    timer = _active
    if timer is None:
        yield
        return
    timer.enter(name)
    try:
        yield
    finally:
        timer.leave()


@contextmanager
def untimed() -> Iterator[None]:
    """Within: no part is recorded."""
    global _active
    before, _active = _active, None
    try:
        yield
    finally:
        _active = before


def backward_part(name: str, inputs: Tensor, outputs: Iterable[Tensor]) -> None:
    """Count the backward pass from `outputs` to `inputs` as the part `name`, within the part `BACKWARD`.

    Autograd goes backward through what was computed last first, so no other part's backward pass comes between.
    """
    timer = _active
    if timer is None or not inputs.requires_grad:
        return
    for output in outputs:
        output.register_hook(lambda _: timer.switch(name))  # type: ignore[no-untyped-call]
    inputs.register_hook(lambda _: timer.switch(BACKWARD))  # type: ignore[no-untyped-call]


def _is_done(marks: Marks) -> bool:
    last = marks[-1][1] if marks else 0.0
    return isinstance(last, float) or bool(last.query())  # type: ignore[no-untyped-call]


def _seconds(marks: Marks) -> dict[str, float]:
    seconds: dict[str, float] = defaultdict(float)
    for (name, start), (_, end) in pairwise(marks):
        if name is not None:
            seconds[name] += _between(start, end)
    return dict(seconds)


def _between(start: Any, end: Any) -> float:
    return end - start if isinstance(start, float) else start.elapsed_time(end) / 1000


@dataclass(frozen=True)
class Throughput:
    """Averages over the last steps, recent ones weighing more."""

    audio_seconds_per_second: float
    loader_wait_share: float  # of the time between two steps: waiting for their crops
    discriminators_share: float | None  # of the time of a step, both passes; None: they have not been used yet


class Clock(PartTimer):
    """Measures steps that each train on `audio_seconds_per_step`. Never waits for the device."""

    def __init__(self, audio_seconds_per_step: float, device: torch.device) -> None:
        super().__init__(device)
        self._audio_seconds = audio_seconds_per_step
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

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Within: the time is not that of a step."""
        start = time.perf_counter()
        yield
        self._last += time.perf_counter() - start

    def tick(self) -> Throughput:
        """To be called at the end of each step."""
        now = time.perf_counter()
        kept = _KEPT if self._n_steps else 0.0
        self._seconds = _average(self._seconds, now - self._last, kept)
        self._wait_seconds = _average(self._wait_seconds, self._waited, kept)
        self._last, self._waited, self._n_steps = now, 0.0, self._n_steps + 1
        self.end_step()
        for parts in filter(None, self.finished()):  # a replayed step has no parts
            names = self._parts.keys() | parts.keys()
            kept = _KEPT if self._parts else 0.0
            self._parts = {name: _average(self._parts.get(name, 0.0), parts.get(name, 0.0), kept) for name in names}
        share = self._parts[DISCRIMINATORS] / sum(self._parts.values()) if DISCRIMINATORS in self._parts else None
        return Throughput(self._audio_seconds / self._seconds, self._wait_seconds / self._seconds, share)


def _average(average: float, value: float, kept: float) -> float:
    return kept * average + (1 - kept) * value
