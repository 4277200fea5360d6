"""Where the time of a step goes."""

from __future__ import annotations

import time
from collections.abc import Iterator

from codecctl.train.pace import Clock


def slow(seconds: float, n: int) -> Iterator[int]:
    for i in range(n):
        time.sleep(seconds)
        yield i


def test_waiting_is_told_from_working() -> None:
    """The same total: with a slow loader and a fast step, and the other way round."""
    shares = []
    for wait, work in ((0.04, 0.01), (0.01, 0.04)):
        clock, seen = Clock(1.0), []
        for i in clock.waiting(slow(wait, 5)):
            time.sleep(work)
            seen.append(i)
            pace = clock.tick()
        assert seen == [0, 1, 2, 3, 4]
        assert 0 < pace.audio_seconds_per_second <= 20
        shares.append(pace.loader_wait_share)
    assert shares[0] > 0.5 > shares[1] > 0


def test_a_loop_that_ends_early_closes_its_loader() -> None:
    closed = []

    def loader() -> Iterator[int]:
        try:
            yield from range(10)
        finally:
            closed.append(True)

    for i in Clock(1.0).waiting(loader()):
        if i == 2:
            break
    assert closed == [True]
