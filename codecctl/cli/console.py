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
_FOLDED = 24  # characters that a column of text has at least where it is folded


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
    gap. Columns that do not fit on a terminal follow in further tables, which repeat the first column. Where no
    terminal bounds it, it is as wide as it needs to be."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 240, highlight=False, markup=False, emoji=False)
    right = [heading.startswith(">") for heading in headings]
    lines = [[printable(cell) for cell in row] or [""] * len(headings) for row in rows]
    columns = [[heading.removeprefix(">"), *cells] for heading, *cells in zip(headings, *lines, strict=True)]
    if len(_tables(columns, right, console.width)) > 1:
        columns = [
            [name.replace(" ", "\n") if r else name, *cells] for r, (name, *cells) in zip(right, columns, strict=True)
        ]
    for number, chosen in enumerate(_tables(columns, right, console.width)):
        table = Table(box=None, pad_edge=False, header_style="bold")
        for i in chosen:
            table.add_column(columns[i][0], justify="right" if right[i] else "left", no_wrap=right[i], overflow="fold")
        for row in zip(*(columns[i][1:] for i in chosen), strict=True):
            table.add_row(*row)
        with naming_stdout():
            console.print(*([""] if number else []), table, sep="\n")


def _tables(columns: Sequence[Sequence[str]], right: Sequence[bool], width: int) -> list[list[int]]:
    """The columns, by number, of each table that fits in so many characters; the first is in all."""
    from rich.cells import cell_len

    needed = [2 + max(cell_len(line) for cell in column for line in cell.split("\n")) for column in columns]
    needed = [n if r else min(n, 2 + _FOLDED) for n, r in zip(needed, right, strict=True)]
    tables = [[0]]
    for i in range(1, len(columns)):
        if len(tables[-1]) > 1 and sum(needed[k] for k in (*tables[-1], i)) > width + 2:
            tables.append([0])
        tables[-1].append(i)
    return tables


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


def time_unit(seconds: float) -> tuple[str, str, int]:
    """Of a table of durations, by their sum: a heading, the unit and its seconds."""
    return ("hours", "h", 3600) if seconds >= 3600 else ("minutes", "min", 60)


def duration(seconds: float) -> str:
    """Rounded: `3 d 04 h`, `2 h 05 min`, `7 min`, `40 s`."""
    minutes, hours = int(seconds / 60 + 0.5), int(seconds / 3600 + 0.5)
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    if minutes < 60:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60:02d} min" if hours < 48 else f"{hours // 24} d {hours % 24:02d} h"
