"""Text for people: nothing from outside is taken for markup or reaches the terminal as a control character."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codecctl.cli.console import duration, reason, say, show, show_table, size, time_unit
from codecctl.text import counted, number, printable

HOSTILE = "[red]x[/y] :smile: {z} \x1b]0;a\x07\n\u202e\udcff"
SHOWN = r"[red]x[/y] :smile: {z} \x1b]0;a\x07\n\u202e\udcff"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\tb\r\n", r"a\tb\r\n"),
        ("\x1b[31m\x07\x9b", r"\x1b[31m\x07\x9b"),
        ("\u202eabc\u2069\u2028", r"\u202eabc\u2069\u2028"),
        (os.fsdecode(b"n\xff"), r"n\udcff"),
        ("తెలుగు\u200cఅ é\u00a0[b]\\", "తెలుగు\u200cఅ é\u00a0[b]\\"),
    ],
)
def test_printable_escapes_what_a_terminal_would_act_on(text: str, shown: str) -> None:
    assert printable(text) == shown


@given(st.text(st.characters()))
def test_printable_text_is_one_line_that_can_be_encoded(text: str) -> None:
    assert len(printable(text).encode().decode().splitlines()) <= 1
    assert printable(printable(text)) == printable(text)


def test_say_shows_text_as_it_is(capfd: pytest.CaptureFixture[str]) -> None:
    say(f": {HOSTILE}", label=HOSTILE)
    assert capfd.readouterr() == ("", f"{SHOWN}: {SHOWN}\n")


def test_tables_and_lines_show_text_as_it_is(capfd: pytest.CaptureFixture[str]) -> None:
    show(HOSTILE, "b")
    show_table(("name", ">hours"), [(HOSTILE, "1.5"), ()])
    lines = capfd.readouterr().out.splitlines()
    assert [line.split() for line in lines[:2]] == [[*SHOWN.split(), "b"], ["name", "hours"]]
    assert lines[2].split() == [*SHOWN.split(), "1.5"]


@pytest.mark.parametrize("width", [40, 60])
def test_a_table_on_a_narrow_terminal_loses_no_text_and_no_row_label(width: int) -> None:
    headings = ("", *(f">quantizer {n} off" for n in range(6)), "text")
    rows = [[f"log-spectral, dB {row}", *(f"{row}.{n}25 ± 0.004" for n in range(6)), 9 * "words "] for row in range(3)]
    printed = on_a_terminal(width, f"from codecctl.cli.console import show_table; show_table({headings}, {rows})")
    lines = printed.splitlines()
    assert max(map(len, lines)) <= width
    assert all(cell in printed for row in rows for cell in row[:-1])
    assert printed.count("words") == 27
    assert all(line.startswith("log-spectral, dB") for line in lines if "±" in line)


def on_a_terminal(width: int, code: str) -> str:
    """What a Python program prints on a terminal of so many columns, without its colours."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (40, width))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    with os.fdopen(ours, "rb", buffering=0) as terminal:
        process = subprocess.Popen([sys.executable, "-c", code], stdout=theirs, env=environment)
        os.close(theirs)
        printed = b""
        with contextlib.suppress(OSError):  # how Linux says that the program has closed it
            while chunk := terminal.read(65536):
                printed += chunk
        assert process.wait() == 0
    return re.sub(r"\x1b\[[\d;]*m", "", printed.decode())


@contextmanager
def stderr_on(descriptor: int) -> Iterator[None]:
    saved = os.dup(2)
    os.dup2(descriptor, 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full")
def test_a_message_that_nobody_takes_is_no_error(capfd: pytest.CaptureFixture[str]) -> None:
    with open("/dev/full", "wb") as full, stderr_on(full.fileno()):
        say("lost")


@pytest.mark.parametrize(
    ("n_bytes", "text"),
    [(None, "?"), (0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (2_500_000, "2.5 MB"), (3.26e9, "3.3 GB")],
)
def test_sizes(n_bytes: int | None, text: str) -> None:
    assert size(n_bytes) == text
    assert size(1.2e15) == "1,200.0 TB"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.7, "1 min"), (3599, "1 h 00 min"), (7500, "2 h 05 min"), (273_600, "3 d 04 h")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_table_of_less_than_an_hour_is_in_minutes() -> None:
    assert time_unit(3599) == ("minutes", "min", 60)
    assert time_unit(3600) == ("hours", "h", 3600)


def test_numbers() -> None:
    assert [counted(n, "recording") for n in (0, 1, 2)] == ["0 recordings", "1 recording", "2 recordings"]
    assert [number(value, 2) for value in (1.239, -0.001, float("nan"))] == ["1.24", "0.00", "undefined"]


def test_a_reason_names_the_file() -> None:
    assert reason(OSError(28, "No space left on device", "x.wav")) == "x.wav: No space left on device"
    assert reason(OSError(28, "No space left on device"), "y.wav") == "y.wav: No space left on device"
    assert reason(OSError("odd")) == "odd"
