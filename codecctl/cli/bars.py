"""Progress bars of a download."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Self

from codecctl.cli.console import duration, size
from codecctl.data.download.progress import Progress
from codecctl.text import printable

if TYPE_CHECKING:
    from rich.progress import TaskID

    from codecctl.data.download.recipes import Licence

LINE_SECONDS = 30  # between two lines where no bar can be shown


class Bars(Progress):
    """A bar for each file and one for all; where stderr is no terminal, a line every 30 seconds."""

    def __init__(self, n_bytes: int) -> None:
        from rich import progress as rich
        from rich.console import Console

        console = Console(stderr=True, highlight=False)
        columns = (rich.TextColumn("{task.description}", markup=False), rich.BarColumn(), rich.DownloadColumn())
        speed = (rich.TransferSpeedColumn(), rich.TimeRemainingColumn())
        self._is_live = console.is_terminal
        self._bars = rich.Progress(*columns, *speed, console=console, transient=True, disable=not self._is_live)
        self._planned = n_bytes
        self._overall = self._bars.add_task("all", total=n_bytes or None)
        self._lock = threading.Lock()
        self._done: dict[str, int] = {}  # bytes of each file that have arrived
        self._totals: dict[str, int] = {}
        self._tasks: dict[str, TaskID] = {}
        self._fetching: set[str] = set()
        self._last_line = time.monotonic()

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def begin(self, name: str, done: int, total: int | None, *, verb: str) -> None:
        with self._lock:
            if again := name in self._tasks:
                self._bars.remove_task(self._tasks[name])
            shown = f"{verb} {printable(Path(name).name)}"
            self._tasks[name] = self._bars.add_task(shown, total=total, completed=done)
            if verb == "fetch":
                self._fetching.add(name)
                self._totals[name], self._done[name] = total or 0, done
                if done:  # was here before: no part of the speed
                    self._bars.reset(self._overall, completed=sum(self._done.values()))
        if not self._is_live and not (again and verb == "fetch"):
            self.say(f"{verb} {name}" + (f" ({size(total)})" if total else ""))

    def advance(self, name: str, done: int) -> None:
        with self._lock:
            if name in self._tasks:
                self._bars.update(self._tasks[name], completed=done)
            if name not in self._fetching:
                return
            self._done[name] = done
            total = max(self._planned, sum(self._totals.values()))
            self._bars.update(self._overall, completed=sum(self._done.values()), total=total or None)
            if not self._is_live and time.monotonic() - self._last_line > LINE_SECONDS:
                self._last_line = time.monotonic()
                self.say(self._line())

    def end(self, name: str) -> None:
        with self._lock:
            self._fetching.discard(name)
            if (task := self._tasks.pop(name, None)) is not None:
                self._bars.remove_task(task)

    def say(self, text: str) -> None:
        self._bars.console.print(printable(text), markup=False, soft_wrap=True)

    def aside(self, ask: Callable[[Licence], bool]) -> Callable[[Licence], bool]:
        """`ask`, while the bars are hidden."""

        def asked(licence: Licence) -> bool:
            self._bars.stop()
            try:
                return ask(licence)
            finally:
                self._bars.start()

        return asked

    def _line(self) -> str:
        everything = next(task for task in self._bars.tasks if task.id == self._overall)
        speed = f", {size(everything.speed)}/s" if everything.speed else ""
        left = f", {duration(everything.time_remaining)} left" if everything.time_remaining else ""
        return f"{size(everything.completed)} of {size(everything.total)}{speed}{left}"
