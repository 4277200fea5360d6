"""Text for people: messages, sizes, durations, tables and progress bars.

Results go to stdout, everything else to stderr. Text is shown as it is: rich's markup is off everywhere.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from codecctl.cli.pipes import naming_stdout
from codecctl.text import printable

LINE_SECONDS = 30  # between two lines where no bar can be shown


def say(text: str = "", *, label: str = "", style: str = "bold") -> None:
    """A line on stderr: the label in a style of rich, then the text. Without a stderr that takes it nothing happens."""
    from rich.console import Console
    from rich.text import Text

    with contextlib.suppress(OSError):
        line = Text.assemble((printable(label), style), printable(text))
        Console(stderr=True, highlight=False, soft_wrap=True).print(line)


def say_error(text: str) -> None:
    say(f" {text}", label="error:", style="bold red")


class WarningLines(logging.Handler):
    """Shows what the library logs."""

    def emit(self, record: logging.LogRecord) -> None:
        say(f" {record.getMessage()}", label="warning:", style="bold yellow")


def reason(error: OSError, name: str | Path = "") -> str:
    """What the system refused, after the name of the file; `name` stands in where the error has none."""
    where = error.filename or name
    return f"{where}: {error.strerror or error}" if where else str(error.strerror or error)


def show(*columns: str) -> None:
    """A line on stdout; tabs between columns."""
    with naming_stdout():
        print("\t".join(map(printable, columns)))


def show_facts(facts: dict[str, str]) -> None:
    """A line on stdout for each name and value, in two columns."""
    width = max(map(len, facts))
    for name, value in facts.items():
        show(f"{name:{width}}  {value}")


def show_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table on stdout. Columns whose heading starts with `>` are right-aligned and never wrapped; an empty row is a
    gap. Where no terminal bounds it, it is as wide as it needs to be."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        right = heading.startswith(">")
        table.add_column(heading.removeprefix(">"), justify="right" if right else "left", no_wrap=right)
    for row in rows:
        table.add_row(*map(printable, row))
    with naming_stdout():
        Console(width=None if sys.stdout.isatty() else 240, highlight=False, markup=False, emoji=False).print(table)


@contextlib.contextmanager
def progress_bar(what: str, *, lines: bool = False) -> Iterator[Callable[..., None]]:
    """A bar on stderr where that is a terminal; call it with (done, total) and a text that stands behind it.

    `lines`: it is a line every 30 seconds where stderr is no terminal, and a line remains of it.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn(what, markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    start = said = time.monotonic()
    last = ""
    with Progress(
        *columns,
        TextColumn("{task.description}", markup=False),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as bar:
        task = bar.add_task("", total=None)

        def advance(done: int, total: int, text: str = "") -> None:
            nonlocal said, last
            bar.update(task, completed=done, total=total, description=text)
            left = (time.monotonic() - start) / max(1, done) * (total - done)
            last = f"{done} of {total} {what}, {text}" + (f", {duration(left)} left" if done < total else "")
            if lines and not console.is_terminal and done < total and time.monotonic() - said > LINE_SECONDS:
                said = time.monotonic()
                say(last)

        yield advance
    if lines and last:
        say(last)


def size(n_bytes: float | None) -> str:
    """Bytes in decimal units: `1.5 GB`, `640 B`; `?` if unknown."""
    if n_bytes is None:
        return "?"
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n_bytes >= scale:
            return f"{n_bytes / scale:,.1f} {unit}"
    return f"{n_bytes:.0f} B"


def duration(seconds: float) -> str:
    """Rounded: `3 d 04 h`, `2 h 05 min`, `7 min`, `40 s`."""
    minutes, hours = int(seconds / 60 + 0.5), int(seconds / 3600 + 0.5)
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    if minutes < 60:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60:02d} min" if hours < 48 else f"{hours // 24} d {hours % 24:02d} h"
