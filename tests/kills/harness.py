"""Kills a job again and again, half of the times soon after it began to write a file, then lets it end and compares.

The jobs run as on a slow disk: a rename takes time, so that kills also fall between a write and its rename.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import ParamSpec

P = ParamSpec("P")
_WAIT_SECONDS = 300.0
_RENAME_SECONDS = 0.02


@dataclass(frozen=True)
class Job:
    """A command whose repetition completes what a killed one began."""

    name: str
    run: Callable[[Path], object]  # work in this folder; whoever starts it again goes on from what is there
    check: Callable[[Path, Path], None]  # (folder, folder of a run that was not killed): asserts that both are equal
    check_between: Callable[[Path, Path], None] = lambda folder, straight: None  # after each kill: nothing is wrong


@dataclass
class Tally:
    """What happened to a job."""

    n_kills: int = 0
    n_inside: int = 0  # kills that left a temporary file
    n_ended: int = 0  # it was done before the signal came
    faults: list[str] = field(default_factory=list)


def kill_often(job: Job, folder: Path, n_kills: int, seed: int) -> Tally:
    """`n_kills` kills at moments that follow from `seed` as far as the machine's speed allows."""
    draw, tally = random.Random(f"{job.name} {seed}"), Tally()
    straight, round_ = folder / "straight", 0
    started = time.monotonic()
    _finish(job, straight)
    seconds = time.monotonic() - started
    killed = folder / "killed-0"
    while tally.n_kills < n_kills:
        inside = draw.random() < 0.5
        before = set(_temporary(killed))
        child = _start(job, killed)
        is_first = inside and draw.random() < 0.5  # the first write: some jobs have one only, at the end
        end = time.monotonic() + (0 if is_first else draw.uniform(0, 0.9 * seconds))
        while (status := os.waitpid(child, os.WNOHANG)) == (0, 0):
            is_time = time.monotonic() > end
            if is_time and inside and set(_temporary(killed)) - before:
                inside, end = False, time.monotonic() + draw.uniform(0, 1.5 * _RENAME_SECONDS)
            elif is_time and not inside:
                os.killpg(child, signal.SIGKILL)
                os.waitpid(child, 0)
                tally.n_kills += 1
                tally.n_inside += bool(_temporary(killed))
                _try(tally, "after a kill", job.check_between, killed, straight)
                break
            time.sleep(0.0005)
        else:  # it is complete; the next kills happen to a new one
            tally.n_ended += 1
            tally.faults += [f"a start ended with {_say_end(killed, status[1])}"] * bool(status[1])
            _compare(job, killed, straight, tally)
            round_ += 1
            killed = folder / f"killed-{round_}"
    _try(tally, "after the kills", _finish, job, killed)
    _compare(job, killed, straight, tally)
    return tally


def _compare(job: Job, killed: Path, straight: Path, tally: Tally) -> None:
    _try(tally, "at the end", job.check, killed, straight)
    tally.faults += [f"left behind: {path}" for path in _temporary(killed)]


def _try(tally: Tally, when: str, call: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> None:
    try:
        call(*args, **kwargs)
    except Exception as error:
        tally.faults.append(f"{when}: {type(error).__name__}: {error}")


def _temporary(folder: Path) -> list[Path]:
    """Files and folders under names that are not final."""
    endings = (".partial", ".part", ".part.json")
    try:
        found = folder.rglob("*")
        return [path for path in found if path.name.endswith(endings) or path.name.startswith(".unpacking-")]
    except FileNotFoundError:
        return []  # a folder went away on the way


def _start(job: Job, folder: Path) -> int:
    """The job in a process and a group of its own; it has all modules already."""
    folder.mkdir(parents=True, exist_ok=True)
    if child := os.fork():
        return child
    try:
        os.setsid()
        log = os.open(folder.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.replace = partial(_slowly, os.replace)  # type: ignore[assignment]
        os._exit(int(job.run(folder) or 0))
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(70)


def _slowly(rename: Callable[[Path, Path], None], old: Path, new: Path) -> None:
    time.sleep(_RENAME_SECONDS)
    rename(old, new)


def _finish(job: Job, folder: Path) -> None:
    child, until = _start(job, folder), time.monotonic() + _WAIT_SECONDS
    while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0):
        if time.monotonic() > until:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            raise AssertionError(f"it did not end within {_WAIT_SECONDS:.0f} s")
        time.sleep(0.01)
    assert ended[1] == 0, f"it ended with {_say_end(folder, ended[1])}"


def _say_end(folder: Path, status: int) -> str:
    log = folder.with_suffix(".log").read_text(errors="replace").strip()
    return f"{os.waitstatus_to_exitcode(status)}: {log[-1000:]}"
