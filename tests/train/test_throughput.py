"""How fast a run trains: the clock of the loop and the timer of a step's parts."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from codecctl.train import timer
from codecctl.train.timer import Clock, PartTimer, backward_part, part

CPU = torch.device("cpu")
Pass = Callable[[float], None]


@pytest.fixture
def seconds_pass(monkeypatch: pytest.MonkeyPatch) -> Pass:
    """A clock that stands still until it is called."""
    now = [0.0]

    def advance(seconds: float) -> None:
        now[0] += seconds

    monkeypatch.setattr(timer.time, "perf_counter", lambda: now[0])
    return advance


def loader(seconds_pass: Pass, seconds: float, n: int) -> Iterator[int]:
    for i in range(n):
        seconds_pass(seconds)
        yield i


@pytest.mark.parametrize(("wait", "work"), [(4.0, 1.0), (1.0, 4.0)])
def test_waiting_for_the_loader_is_not_computing(seconds_pass: Pass, wait: float, work: float) -> None:
    with Clock(10.0, CPU) as clock:
        for _ in clock.waiting(loader(seconds_pass, wait, 5)):
            seconds_pass(work)
            found = clock.tick()
    assert found.loader_wait_share == pytest.approx(wait / 5)
    assert found.audio_seconds_per_second == pytest.approx(2.0)
    assert found.discriminators_share is None


def test_uneven_steps_do_not_look_faster_than_they_are(seconds_pass: Pass) -> None:
    """As where the host runs ahead of a card and then waits for it: 10 s of audio every second."""
    with Clock(10.0, CPU) as clock:
        for i in range(200):
            seconds_pass(1.99 if i % 2 else 0.01)
            speed = clock.tick().audio_seconds_per_second
    assert speed == pytest.approx(10.0, rel=0.1)


def test_the_discriminators_share_is_that_of_the_time_of_steps(seconds_pass: Pass) -> None:
    @part("other")
    def step() -> None:
        seconds_pass(1.0)
        with part("discriminators"):
            seconds_pass(3.0)

    with Clock(1.0, CPU) as clock:
        for _ in range(3):
            step()
            found = clock.tick()
            seconds_pass(100.0)  # e.g. a validation
    assert found.discriminators_share == pytest.approx(0.75)


def test_a_validation_between_two_steps_makes_none_slower(seconds_pass: Pass) -> None:
    with Clock(10.0, CPU) as clock:
        for _ in range(3):
            seconds_pass(1.0)
            found = clock.tick()
            with clock.paused():
                seconds_pass(100.0)
    assert found.audio_seconds_per_second == pytest.approx(10.0)


def test_a_loop_that_ends_early_closes_its_loader() -> None:
    closed = []

    def items() -> Iterator[int]:
        try:
            yield from range(10)
        finally:
            closed.append(True)

    for i in Clock(1.0, CPU).waiting(items()):
        if i == 2:
            break
    assert closed == [True]


def test_time_belongs_to_the_innermost_part(seconds_pass: Pass) -> None:
    with PartTimer(CPU) as parts:
        for _ in range(2):
            with part("losses"):
                seconds_pass(1.0)
                with part("teacher"):
                    seconds_pass(2.0)
                seconds_pass(4.0)
            seconds_pass(8.0)
            parts.end_step()
    assert parts.finished() == [{"losses": 5.0, "teacher": 2.0}] * 2
    assert parts.finished() == []


def test_without_a_timer_parts_do_nothing(seconds_pass: Pass) -> None:
    parts = PartTimer(CPU)
    with part("losses"):
        seconds_pass(1.0)
    parts.end_step()
    assert parts.finished() == [{}]


class Slow(torch.autograd.Function):
    """The identity; each pass takes some seconds."""

    @staticmethod
    def forward(ctx: object, x: Tensor, seconds_pass: Pass, seconds: float) -> Tensor:
        ctx.work = lambda: seconds_pass(seconds)  # type: ignore[attr-defined]
        return x.clone()

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        ctx.work()  # type: ignore[attr-defined]
        return gradient, None, None


def test_the_backward_pass_is_split_between_its_parts(seconds_pass: Pass) -> None:
    """As in a step: losses of the decoded audio, then those that the discriminators give."""
    audio = Slow.apply(torch.ones(3, requires_grad=True), seconds_pass, 1.0)
    loss = Slow.apply(audio, seconds_pass, 2.0).sum()
    heard = audio[:]
    judged = [Slow.apply(heard, seconds_pass, 4.0).sum(), Slow.apply(heard, seconds_pass, 8.0).sum()]
    with PartTimer(CPU) as parts:
        backward_part("discriminators", heard, judged)
        with part("backward"):
            (loss + sum(judged)).backward()
        parts.end_step()
    assert parts.finished() == [{"backward": 3.0, "discriminators": 12.0}]
