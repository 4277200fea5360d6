"""The first signal asks, a second one is obeyed at once."""

from __future__ import annotations

import os
import signal
import time

import pytest

from codecctl.train.signals import StopAsked, StopSignals, UntilStopped


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_remembered(number: int) -> None:
    before = signal.getsignal(number)
    with StopSignals() as signals:
        assert signals.received is None
        signal.raise_signal(number)
        assert signals.received == number
    assert signal.getsignal(number) == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_second_signal_ends_the_process_at_once(number: int) -> None:
    child = os.fork()
    if not child:
        with StopSignals():
            signal.raise_signal(number)
            signal.raise_signal(number)
            time.sleep(60)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -number


def test_what_can_be_done_again_ends_in_the_middle() -> None:
    with StopSignals() as signals:
        items = iter(UntilStopped(range(5), lambda: signals.reason))
        assert [next(items), next(items)] == [0, 1]
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(StopAsked):
            next(items)
