"""One process at a time on a folder, also across machines: a lease made with O_EXCL, which holds where flock fails.

Leases are numbered and only ever count up. The highest one rules: its holder renews it, lets go of it by writing that
into it, or dies, and then whoever creates the next number takes over. Two who try create the same file, and O_EXCL lets
one of them. A number is never used twice, so a process that was asleep while the world went on cannot take a live lease
for the dead one it knew.
"""

from __future__ import annotations

import contextlib
import json
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

_FILE = re.compile(r"\.lease-(\d{6})")


@dataclass(frozen=True)
class Timing:
    """How often a lease is renewed and how long an unchanged one is believed."""

    renew_seconds: float = 5.0
    stale_seconds: float = 60.0
    poll_seconds: float = 1.0


class Lease:
    """`with Lease(folder): ...` waits until nobody else works in the folder, then keeps others out.

    `waiting` is called once with the holder's name if there is one. `lost` is called if the lease was taken away, which
    happens to a process that slept for longer than `stale_seconds`: it must stop touching the folder.
    """

    def __init__(
        self,
        folder: Path,
        *,
        waiting: Callable[[str], None] = lambda holder: None,
        lost: Callable[[], None] = lambda: None,
        timing: Timing = Timing(),
    ) -> None:
        self._folder, self._waiting, self._lost, self._timing = folder, waiting, lost, timing
        self._path: Path | None = None
        self._closing = threading.Event()
        self._renewing: threading.Thread | None = None

    def __enter__(self) -> Self:
        self._folder.mkdir(parents=True, exist_ok=True)
        watch = _Watch(self._timing.stale_seconds)
        told = False
        while not self._try(watch):
            if not told:
                self._waiting(watch.holder)
                told = True
            time.sleep(self._timing.poll_seconds)
        self._renewing = threading.Thread(target=self._renew, name="lease", daemon=True)
        self._renewing.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        if self._renewing is not None:
            self._renewing.join()
        if self._path is not None and self._path.exists():
            with contextlib.suppress(OSError):  # a full disk: then others see that this process is gone
                _replace(self._path, {**_identity(), "released": True})

    def _try(self, watch: _Watch) -> bool:
        """Take the next number if the highest one is free, released or dead."""
        number, content = _highest(self._folder)
        if number and not watch.is_over(number, content):
            return False
        path = self._folder / f".lease-{number + 1:06d}"
        try:
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            return False
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(_identity(), file)
        if _highest(self._folder)[0] != number + 1:
            path.unlink(missing_ok=True)  # the world went on while this process slept
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
                self._lost()
                return
            with contextlib.suppress(OSError):  # a full disk is told by the download itself
                _replace(self._path, {**_identity(), "renewed": count})


class _Watch:
    """Whether a lease is over. Time is what passes here while the file stays as it is: no two clocks are compared."""

    def __init__(self, stale_seconds: float) -> None:
        self._stale_seconds = stale_seconds
        self._seen: tuple[int, str] | None = None
        self._since = 0.0
        self.holder = ""

    def is_over(self, number: int, content: str) -> bool:
        if (number, content) != self._seen:
            self._seen, self._since = (number, content), time.monotonic()
        said = _parse(content)
        self.holder = f"process {said.get('pid', '?')} on {said.get('host', '?')}"
        if said.get("released") or _is_dead(said):
            return True
        return time.monotonic() - self._since > self._stale_seconds


def _number(path: Path) -> int:
    match = _FILE.fullmatch(path.name)
    return int(match[1]) if match else 0


def _highest(folder: Path) -> tuple[int, str]:
    number = max((_number(path) for path in folder.glob(".lease-*")), default=0)
    try:
        return number, (folder / f".lease-{number:06d}").read_text(encoding="utf-8")
    except OSError:
        return number, ""  # being created or just gone


def _parse(content: str) -> dict[str, Any]:
    try:
        said = json.loads(content)
    except json.JSONDecodeError:
        return {}  # being written
    return said if isinstance(said, dict) else {}


def _identity() -> dict[str, Any]:
    pid = os.getpid()
    return {"host": socket.gethostname(), "pid": pid, "machine": _machine(), "started": _started(pid)}


def _machine() -> str | None:
    """What tells apart two running systems, and two containers in which the same number is another process."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return None


def _started(pid: int) -> str | None:
    """When a process started, in ticks: its number alone may have gone to another since."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in ("Z", "X") else fields[19]


def _is_dead(said: dict[str, Any]) -> bool:
    """Only of a process on this very system can one be sure."""
    machine = _machine()
    return (
        machine is not None and said.get("machine") == machine and _started(said.get("pid", 0)) != said.get("started")
    )


def _replace(path: Path, content: dict[str, Any]) -> None:
    temporary = path.with_name(f".renewal{path.name}-{os.getpid()}")
    temporary.write_text(json.dumps(content), encoding="utf-8")
    os.replace(temporary, path)
