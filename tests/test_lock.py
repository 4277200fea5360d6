"""One process at a time in a folder, however the one before ended."""

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

from codecctl.lock import Lease, LeaseHeld, LeaseTiming, is_taken, living_holder

QUICK = LeaseTiming(renew_seconds=0.1, stale_seconds=1.0, poll_seconds=0.02)
HOLD = textwrap.dedent(
    """
    import sys, time
    from pathlib import Path
    from codecctl.lock import Lease, LeaseHeld, LeaseTiming, is_taken
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


@pytest.mark.slow
def test_lease_waits_for_the_holder_and_names_it(tmp_path: Path) -> None:
    process = hold(tmp_path, 1.5)
    told: list[str] = []
    with Lease(tmp_path, on_wait=told.append, timing=QUICK):
        assert process.poll() is not None or process.communicate()[0] == "done\n"
    assert told == [f"process {process.pid} on {os.uname().nodename}"]


def test_a_lease_that_is_released_within_a_first_wait_needs_no_words(tmp_path: Path) -> None:
    told: list[str] = []
    lease = tmp_path / ".lease-000001"
    lease.write_text('{"host": "far", "pid": 7, "machine": "another"}')
    with Lease(tmp_path, on_wait=told.append, sleep=lambda seconds: lease.write_text('{"released": true}') and None):
        assert told == []


def test_without_waiting_a_live_holder_on_this_machine_is_refused_at_once(tmp_path: Path) -> None:
    process = hold(tmp_path, 60)
    with pytest.raises(LeaseHeld, match=f"process {process.pid} on "), Lease(tmp_path, wait=False):
        pass
    process.kill()
    process.wait()
    with Lease(tmp_path, wait=False):
        pass


def test_without_waiting_a_holder_on_another_machine_is_watched_until_it_is_known(tmp_path: Path) -> None:
    """Refused as soon as it renews its lease; succeeded when it has not for `stale_seconds`."""
    lease = tmp_path / ".lease-000001"
    lease.write_text('{"host": "far", "pid": 7, "machine": "another"}')
    now = 0.0

    def renew(seconds: float) -> None:
        lease.write_text('{"host": "far", "pid": 7, "machine": "another", "renewed": 1}')

    with pytest.raises(LeaseHeld, match="process 7 on far"), Lease(tmp_path, wait=False, sleep=renew):
        pass

    def pass_time(seconds: float) -> None:
        nonlocal now
        now += seconds

    told: list[str] = []
    with Lease(tmp_path, wait=False, on_wait=told.append, clock=lambda: now, sleep=pass_time):
        assert 60 < now < 65
    assert told == ["process 7 on far"]


def test_is_taken_while_another_process_holds_the_lease(tmp_path: Path) -> None:
    assert not is_taken(tmp_path)
    with Lease(tmp_path):
        assert not is_taken(tmp_path)
    process = hold(tmp_path, 60)
    assert is_taken(tmp_path)
    process.kill()
    process.wait()


def test_the_living_holder_is_another_process_of_this_machine(tmp_path: Path) -> None:
    assert living_holder(tmp_path) is None
    with Lease(tmp_path):
        assert living_holder(tmp_path) is None
    process = hold(tmp_path, 60)
    assert living_holder(tmp_path) == f"process {process.pid} on {os.uname().nodename}"
    process.kill()
    process.wait()
    assert living_holder(tmp_path) is None


def test_lease_of_a_killed_process_is_taken_at_once(tmp_path: Path) -> None:
    process = hold(tmp_path, 60)
    process.kill()
    process.wait()
    start = time.monotonic()
    with Lease(tmp_path, timing=LeaseTiming(stale_seconds=3600, poll_seconds=0.02)):
        assert time.monotonic() - start < 10
    assert [path.name for path in tmp_path.iterdir()] == [".lease-000002"]


def test_a_holder_on_another_machine_keeps_its_lease_as_long_as_it_renews_it(tmp_path: Path) -> None:
    lease = tmp_path / ".lease-000041"
    lease.write_text('{"host": "far", "pid": 7, "machine": "another"}')
    now = 0.0

    def renew_for_ten_minutes(seconds: float) -> None:
        nonlocal now
        now += seconds
        if now < 600:
            lease.write_text(f'{{"host": "far", "pid": 7, "machine": "another", "renewed": {now}}}')

    with Lease(tmp_path, clock=lambda: now, sleep=renew_for_ten_minutes):
        assert 655 < now < 670


def test_a_suspended_holder_that_lost_its_lease_is_notified(tmp_path: Path) -> None:
    process = hold(tmp_path, 60)
    os.kill(process.pid, signal.SIGSTOP)
    for path in tmp_path.glob(".lease-*"):  # as if it were of a machine that one cannot look into
        path.write_text(path.read_text().replace('"machine": "', '"machine": "far '))
    with Lease(tmp_path, timing=QUICK):
        os.kill(process.pid, signal.SIGCONT)
        assert process.communicate(timeout=30)[0] == "lost\n"


def test_many_waiting_threads_hold_the_lease_one_at_a_time(tmp_path: Path) -> None:
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


def test_lease_is_released_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), Lease(tmp_path, timing=QUICK):
        raise KeyboardInterrupt
    start = time.monotonic()
    with Lease(tmp_path, timing=LeaseTiming(stale_seconds=3600)):
        assert time.monotonic() - start < 5


def test_a_lease_is_rewritten_in_place_so_that_a_kill_leaves_no_second_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "replace", None)
    lease = tmp_path / ".lease-000001"
    with Lease(tmp_path, timing=QUICK):
        until = time.monotonic() + 10
        while '"renewed"' not in lease.read_text() and time.monotonic() < until:
            time.sleep(0.02)
        assert '"renewed"' in lease.read_text()
    assert '"released": true' in lease.read_text()
    assert list(tmp_path.iterdir()) == [lease]
