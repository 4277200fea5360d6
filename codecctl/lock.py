"""One process at a time in a folder, also across machines: a lease made with O_EXCL, which works where flock fails.

Leases are numbered files `.lease-NNNNNN`, and numbers only grow. The highest one counts: its holder rewrites it at
intervals, in place and with one call, so that a killed holder leaves no other file, and marks it as released at the
end. When it is released, or its holder is dead or has stopped rewriting it, whoever creates the next number takes over;
of two processes that try, O_EXCL lets one. Numbers are never reused, so a suspended process cannot mistake the current
lease for the stale one that it saw.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from codecctl.errors import CodecctlError
from codecctl.files import machine
from codecctl.parsing import parse_json

_FILE = re.compile(r"\.lease-(\d{6})")
_RECORD_BYTES = 512  # each record covers the one before


@dataclass(frozen=True)
class LeaseTiming:
    """How often a lease is rewritten, and after how long an unchanged one is stale."""

    renew_seconds: float = 5.0
    stale_seconds: float = 60.0
    poll_seconds: float = 1.0


class LeaseHeld(CodecctlError):
    """Another process holds the lease; the message is its name."""


class Lease:
    """`with Lease(folder): ...` waits until no other process works in the folder, then keeps others out.

    `on_wait` is called once with the holder's name, after a first wait; with `wait=False` `LeaseHeld` is raised as soon
    as the holder is known to be alive. `on_lost` is called from another thread if the lease was taken over, which
    happens to a process that was suspended for longer than `stale_seconds`: it must stop writing to the folder.
    """

    def __init__(
        self,
        folder: Path,
        *,
        wait: bool = True,
        on_wait: Callable[[str], None] = lambda holder: None,
        on_lost: Callable[[], None] = lambda: None,
        timing: LeaseTiming = LeaseTiming(),
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._folder, self._wait, self._on_wait, self._on_lost = folder, wait, on_wait, on_lost
        self._timing, self._clock, self._sleep = timing, clock, sleep
        self._path: Path | None = None
        self._closing = threading.Event()
        self._renewing = threading.Thread(target=self._renew, name="lease", daemon=True)

    def __enter__(self) -> Self:
        self._folder.mkdir(parents=True, exist_ok=True)
        watch = _Watch(self._timing.stale_seconds, self._clock)
        n_waits = 0
        while not self._try(watch):
            if watch.is_alive and not self._wait:
                raise LeaseHeld(watch.holder)
            if n_waits == 1:
                self._on_wait(watch.holder)
            self._sleep(self._timing.poll_seconds)
            n_waits += 1
        self._renewing.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        self._renewing.join()
        self._write(released=True)

    def _try(self, watch: _Watch) -> bool:
        """Create the next number if the highest one is free, released or stale."""
        number, content = _highest(self._folder)
        if number and not watch.is_over(number, content):
            return False
        path = self._folder / f".lease-{number + 1:06d}"
        try:
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            return False
        _record(descriptor)
        if _highest(self._folder)[0] != number + 1:
            path.unlink(missing_ok=True)  # this process was suspended meanwhile, and others took higher numbers
            return False
        for older in range(max(1, number - 8), number + 1):
            (self._folder / f".lease-{older:06d}").unlink(missing_ok=True)
        self._path = path
        return True

    def _renew(self) -> None:
        count = 0
        while not self._closing.wait(self._timing.renew_seconds):
            count += 1
            assert self._path is not None
            if _highest(self._folder)[0] != _number(self._path):
                self._path = None
                self._on_lost()
                return
            self._write(renewed=count)

    def _write(self, **state: Any) -> None:
        """Rewrite the lease, if it is there and can be written: others see also without it that a process has ended."""
        if self._path is not None:
            with contextlib.suppress(OSError):
                _record(os.open(self._path, os.O_WRONLY), **state)


def is_taken(folder: Path) -> bool:
    """Whether the folder's lease belongs to another process, which may have taken it over while this one slept."""
    number, content = _highest(folder)
    holder, own = _parse(content), _identity()
    return number > 0 and not holder.get("released") and any(holder.get(key) != own[key] for key in own)


def living_holder(folder: Path) -> str | None:
    """The name of another process of this machine that works in the folder now; None if there is none or it is not
    known, as of one on another machine. Writes nothing."""
    number, content = _highest(folder)
    watch = _Watch(math.inf, time.monotonic)
    if not number or watch.is_over(number, content) or not watch.is_alive:
        return None
    return watch.holder if _parse(content).get("pid") != os.getpid() else None


class _Watch:
    """Decides whether another's lease is over. Staleness is measured here, while the file stays unchanged, so that no
    clocks of two machines are compared."""

    def __init__(self, stale_seconds: float, clock: Callable[[], float]) -> None:
        self._stale_seconds, self._clock = stale_seconds, clock
        self._seen: tuple[int, str] | None = None
        self._since = 0.0
        self.holder = ""
        self.is_alive = False  # for certain: it runs on this machine, or has rewritten its lease

    def is_over(self, number: int, content: str) -> bool:
        if (number, content) != self._seen:
            self.is_alive = self._seen is not None
            self._seen, self._since = (number, content), self._clock()
        holder = _parse(content)
        self.holder = f"process {holder.get('pid', '?')} on {holder.get('host', '?')}"
        if holder.get("released"):
            return True
        if machine() is not None and holder.get("machine") == machine():  # elsewhere a process cannot be looked up
            self.is_alive = _start_time(holder.get("pid", 0)) == holder.get("started")
            if not self.is_alive:
                return True
        return self._clock() - self._since > self._stale_seconds


def _record(descriptor: int, **state: Any) -> None:
    try:
        os.write(descriptor, json.dumps({**_identity(), **state}).encode().ljust(_RECORD_BYTES))
    finally:
        os.close(descriptor)


def _number(path: Path) -> int:
    match = _FILE.fullmatch(path.name)
    return int(match[1]) if match else 0


def _highest(folder: Path) -> tuple[int, str]:
    number = max((_number(path) for path in folder.glob(".lease-*")), default=0)
    try:
        return number, (folder / f".lease-{number:06d}").read_text(encoding="utf-8")
    except OSError:
        return number, ""  # being created, or just removed


def _parse(content: str) -> dict[str, Any]:
    try:
        return parse_json(content, "lease")
    except CodecctlError:
        return {}  # being written


def _identity() -> dict[str, Any]:
    pid = os.getpid()
    return {"host": socket.gethostname(), "pid": pid, "machine": machine(), "started": _start_time(pid)}


def _start_time(pid: int) -> str | None:
    """When a process started, in ticks, since its pid may have been reused; None if it has ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in ("Z", "X") else fields[19]
