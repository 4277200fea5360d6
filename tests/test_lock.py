"""One process at a time in a folder, whatever becomes of the one before."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from codecctl.lock import Lease, LeaseTiming

QUICK = LeaseTiming(renew_seconds=0.1, stale_seconds=1.0, poll_seconds=0.02)
HOLD = textwrap.dedent(
    """
    import sys, time
    from pathlib import Path
    from codecctl.lock import Lease, LeaseTiming
    lost = []
    quick = LeaseTiming(renew_seconds=0.1, stale_seconds=1.0, poll_seconds=0.02)
    with Lease(Path(sys.argv[1]), timing=quick, on_lost=lambda: lost.append(True)):
        print("mine", flush=True)
        until = time.monotonic() + float(sys.argv[2])
        while time.monotonic() < until and not lost:
            time.sleep(0.02)
    print("lost" if lost else "done", flush=True)
    """
)


def hold(folder: Path, seconds: float) -> subprocess.Popen[str]:
    """A second process that has the lease when this returns."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder), str(seconds)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "mine\n"
    return process


def test_the_second_one_waits_for_the_first(tmp_path: Path) -> None:
    process = hold(tmp_path, 1.5)
    told: list[str] = []
    with Lease(tmp_path, on_wait=told.append, timing=QUICK):
        assert process.poll() is not None or process.communicate()[0] == "done\n"
    assert told == [f"process {process.pid} on {os.uname().nodename}"]


def test_a_killed_holder_is_succeeded_at_once(tmp_path: Path) -> None:
    process = hold(tmp_path, 60)
    process.kill()
    process.wait()
    start = time.monotonic()
    with Lease(tmp_path, timing=LeaseTiming(stale_seconds=3600, poll_seconds=0.02)):
        assert time.monotonic() - start < 10
    assert [path.name for path in tmp_path.iterdir()] == [".lease-000002"]


def test_a_holder_of_another_machine_is_believed_as_long_as_it_renews(tmp_path: Path) -> None:
    lease = tmp_path / ".lease-000041"
    stop = threading.Event()

    def renew() -> None:
        for count in range(15):  # longer than stale_seconds
            if stop.wait(0.1):
                return
            temporary = tmp_path / "t"
            temporary.write_text(f'{{"host": "far", "pid": 7, "machine": "another", "renewed": {count}}}')
            os.replace(temporary, lease)

    lease.write_text('{"host": "far", "pid": 7, "machine": "another"}')
    thread = threading.Thread(target=renew)
    thread.start()
    start = time.monotonic()
    try:
        with Lease(tmp_path, timing=QUICK):
            assert time.monotonic() - start > 2.0
    finally:
        stop.set()
        thread.join()


def test_a_sleeper_that_lost_its_lease_is_told(tmp_path: Path) -> None:
    process = hold(tmp_path, 60)
    os.kill(process.pid, signal.SIGSTOP)
    for path in tmp_path.glob(".lease-*"):  # as if it were of a machine that one cannot look into
        path.write_text(path.read_text().replace('"machine": "', '"machine": "far '))
    with Lease(tmp_path, timing=QUICK):
        os.kill(process.pid, signal.SIGCONT)
        assert process.communicate(timeout=30)[0] == "lost\n"


def test_of_many_who_wait_one_at_a_time_gets_it(tmp_path: Path) -> None:
    inside, most, taken = 0, 0, 0
    guard = threading.Lock()

    def work() -> None:
        nonlocal inside, most, taken
        with Lease(tmp_path, timing=LeaseTiming(poll_seconds=0.001)):
            with guard:
                inside += 1
                most = max(most, inside)
            time.sleep(0.01)
            with guard:
                inside -= 1
                taken += 1

    threads = [threading.Thread(target=work) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (most, taken) == (1, 12)


def test_an_error_inside_lets_go(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), Lease(tmp_path, timing=QUICK):
        raise KeyboardInterrupt
    start = time.monotonic()
    with Lease(tmp_path, timing=LeaseTiming(stale_seconds=3600)):
        assert time.monotonic() - start < 5
