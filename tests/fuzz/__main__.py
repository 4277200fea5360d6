"""`python -m tests.fuzz --minutes 30 [--target audio]`: many cases by hand; a crash of the process counts, too."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path

from tests.fuzz.harness import Case, Target
from tests.fuzz.targets import TARGETS

_STUCK_SECONDS = 20.0  # C code cannot be interrupted from within the process


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0, help="for all targets together")
    parser.add_argument("--cases", type=int, default=2**62, help="at most, for each target")
    parser.add_argument("--target", choices=sorted(TARGETS), action="append", help="default: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="a folder for the inputs that failed")
    options = parser.parse_args()
    names = options.target or sorted(TARGETS)
    n_failures = 0
    for name in names:
        seconds = 60 * options.minutes / len(names)
        n_cases, failures = _fuzz(TARGETS[name], options.seed, seconds, options.cases)
        print(f"{name}: {n_cases} cases, {len(failures)} failures", flush=True)
        for number, what in failures:
            file, data = Case(TARGETS[name], options.seed, number).build()
            print(f"  case {number} of seed {options.seed} ({file}, {len(data)} bytes): {what}")
            if options.keep:
                options.keep.mkdir(parents=True, exist_ok=True)
                (options.keep / f"{name}-{number}-{file}").write_bytes(data)
        n_failures += len(failures)
    return int(n_failures > 0)


def _fuzz(target: Target, seed: int, seconds: float, most: int) -> tuple[int, list[tuple[int, str]]]:
    """The number of cases, and those that failed: their numbers and what happened."""
    context = multiprocessing.get_context("fork")
    at, failures, end = context.Value("q", 0), context.SimpleQueue(), time.monotonic() + seconds
    found: list[tuple[int, str]] = []
    assert target.inputs  # made once, before the fork
    while time.monotonic() < end and at.value < most:
        child = context.Process(target=_work, args=(target, seed, at, failures, end, most))
        child.start()
        last, since = -1, time.monotonic()
        while child.is_alive():
            child.join(0.5)
            while not failures.empty():
                found.append(failures.get())
            if at.value != last:
                last, since = at.value, time.monotonic()
            elif time.monotonic() - since > _STUCK_SECONDS:
                child.kill()
                child.join()
        while not failures.empty():
            found.append(failures.get())
        if child.exitcode:
            found.append((at.value, f"the process ended with {child.exitcode}"))
            at.value += 1
    return at.value, found


def _work(
    target: Target,
    seed: int,
    at: Synchronized[int],
    failures: multiprocessing.SimpleQueue[tuple[int, str]],
    end: float,
    most: int,
) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # decoders in C write their own messages there
    with tempfile.TemporaryDirectory(prefix="codecctl-fuzz-") as folder:
        while time.monotonic() < end and at.value < most:
            if what := Case(target, seed, at.value).run(Path(folder)):
                failures.put((at.value, what))
            at.value += 1


if __name__ == "__main__":
    sys.exit(main())
