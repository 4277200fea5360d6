"""Progress bars of a download."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Self

from codecctl.cli.console import duration, say, size
from codecctl.data.download.progress import Progress
from codecctl.text import printable

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

    from codecctl.data.download.recipes import Licence

LINE_SECONDS = 30  # between two lines where no bar can be shown


class Bars(Progress):
    """A bar for each file and one for all; where stderr is no terminal, a line every 30 seconds."""

    def __init__(self, n_bytes: int) -> None:
        self._planned = n_bytes
        self._lock = threading.Lock()
        self._done: dict[str, int] = {}  # bytes that came, or had come, of each file
        self._totals: dict[str, int] = {}
        self._tasks: dict[str, TaskID] = {}
        self._fetching: set[str] = set()
        self._live: RichProgress | None = None
        self._overall: TaskID | None = None
        self._start, self._start_bytes, self._last_line = time.monotonic(), 0, time.monotonic()
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )
        from rich.progress import Progress as RichProgress

        console = Console(stderr=True, highlight=False)
        if console.is_terminal:
            columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn())
            self._live = RichProgress(
                *columns, TransferSpeedColumn(), TimeRemainingColumn(), console=console, transient=True
            )
            self._stack.enter_context(self._live)
            self._overall = self._live.add_task("all", total=self._planned or None)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def begin(self, name: str, done: int, total: int | None, *, verb: str) -> None:
        with self._lock:
            first = name not in self._tasks and name not in self._fetching
            if verb == "fetch":
                self._start_bytes += done if name not in self._done else 0
                self._fetching.add(name)
                self._totals[name] = total or 0
                self._done[name] = done
            if self._live is not None:
                if name in self._tasks:
                    self._live.remove_task(self._tasks[name])
                self._tasks[name] = self._live.add_task(
                    f"{verb} {printable(Path(name).name)}", total=total, completed=done
                )
        if self._live is None and (first or verb != "fetch"):
            self.say(f"{verb} {name}" + (f" ({size(total)})" if total else ""))

    def advance(self, name: str, done: int) -> None:
        with self._lock:
            if name in self._fetching:
                self._done[name] = done
            together, total = sum(self._done.values()), max(self._planned, sum(self._totals.values()))
            if self._live is not None and name in self._tasks:
                self._live.update(self._tasks[name], completed=done)
                if self._overall is not None:
                    self._live.update(self._overall, completed=together, total=total or None)
            elif time.monotonic() - self._last_line > LINE_SECONDS:
                self._last_line = time.monotonic()
                say(self._line(together, total))

    def end(self, name: str) -> None:
        with self._lock:
            self._fetching.discard(name)
            task = self._tasks.pop(name, None)
            if self._live is not None and task is not None:
                self._live.remove_task(task)

    def say(self, text: str) -> None:
        if self._live is not None:
            self._live.console.print(printable(text), markup=False)
        else:
            say(text)

    def aside(self, ask: Callable[[Licence], bool]) -> Callable[[Licence], bool]:
        """`ask`, while the bars are hidden."""

        def asked(licence: Licence) -> bool:
            if self._live is None:
                return ask(licence)
            self._live.stop()
            try:
                return ask(licence)
            finally:
                self._live.start()

        return asked

    def _line(self, done: int, total: int) -> str:
        rate = (done - self._start_bytes) / max(1e-3, time.monotonic() - self._start)
        left = f", {duration((total - done) / rate)} left" if rate > 0 and total > done else ""
        return f"{size(done)} of {size(total)}, {size(rate)}/s{left}"
