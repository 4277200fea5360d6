"""Ctrl-C, which reaches every process of a terminal, ends workers at once and without a traceback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PROGRAM = """\
import pathlib, sys, time
from codecctl.workers import run_units

def note(what):
    pathlib.Path(sys.argv[1], what).touch()

def work(seconds):
    note("begun" if seconds else "idle")
    time.sleep(seconds)

if __name__ == "__main__":
    try:
        list(run_units(work, [int(seconds) for seconds in sys.argv[2:]], n_workers=2))
    except KeyboardInterrupt:
        print("interrupted")
elif not pathlib.Path(sys.argv[1], "starting").exists():
    note("starting")
    time.sleep(2)
"""


@pytest.mark.slow
@pytest.mark.parametrize("to_all", [True, False])  # as a terminal sends it, or `kill`
@pytest.mark.parametrize(("moment", "units"), [("starting", "60 60"), ("begun", "60 60"), ("idle", "0 60")])
def test_an_interrupt_ends_all_in_silence(tmp_path: Path, moment: str, units: str, to_all: bool) -> None:
    program, notes = tmp_path / "program.py", tmp_path / "notes"
    program.write_text(PROGRAM)
    notes.mkdir()
    command = [sys.executable, str(program), str(notes), *units.split()]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, start_new_session=True, **pipes) as started:
        end = time.monotonic() + 120
        while not (notes / moment).exists() or (moment == "idle" and not (notes / "begun").exists()):
            assert time.monotonic() < end
            time.sleep(0.01)
        (os.killpg if to_all else os.kill)(started.pid, signal.SIGINT)
        out, errors = started.communicate(timeout=50)  # less than a unit takes
    assert (out, errors) == ("interrupted\n", "")
