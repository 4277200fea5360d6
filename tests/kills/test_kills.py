"""Five kills of each job; `python -m tests.kills` does a hundred."""

from __future__ import annotations

import subprocess
import sys

import pytest

NAMES = (
    "prepare", "encode", "encode a corpus", "export", "validate --continue", "download", "train, 1 rank",
    "train, 2 ranks",
)  # fmt: skip


@pytest.mark.slow
def test_five_kills_of_each_job_lose_nothing_and_leave_nothing() -> None:
    """In a process of its own: jobs are forks, which must not inherit the threads of other tests."""
    command = [sys.executable, "-m", "tests.kills", "--n", "5"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line.split("|")[1].strip() for line in done.stdout.splitlines()[2:]] == list(NAMES)
