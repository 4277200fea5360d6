"""A run that is killed at any moment, also inside a save, and resumed equals an uninterrupted one bit for bit."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.train.compare import assert_same_run, saves
from tests.train.tiny import ADVERSARIAL, FEW_FRAMES, tiny_yaml

pytestmark = pytest.mark.slow

# Logs, validations and saves fall on different steps: what is counted between them must survive, too.
CHANGES = (
    *ADVERSARIAL, *FEW_FRAMES, "train.n_steps=8", "train.log_every_steps=3", "train.validate_every_steps=4",
    "train.checkpoint_every_steps=2", "train.keep_checkpoints=2",
)  # fmt: skip


def kill_and_compare(prepared: Path, folder: Path, n_kills: int, seed: int, *changes: str) -> list[bool]:
    """Whether each kill left half a checkpoint; first of one process, then of two."""
    config = tiny_yaml(folder, prepared, *CHANGES, *changes)
    command = [sys.executable, "-m", "tests.train.kills", config, folder, str(n_kills), str(seed), "1", "2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    for n_ranks in "12":
        straight, killed = (folder / n_ranks / name for name in ("straight", "killed"))
        assert_same_run(straight, killed)
        assert saves(killed) == saves(straight)
        assert not list(killed.glob(".*.partial"))  # what a killed save had begun
    halves: list[bool] = json.loads(done.stdout.splitlines()[-1])
    return halves


def test_killed_and_resumed_run_equals_an_uninterrupted_one(prepared: Path, tmp_path: Path) -> None:
    assert any(kill_and_compare(prepared, tmp_path, 2, 0))


@pytest.mark.bench
@pytest.mark.parametrize("seed", range(1, 6))
def test_killed_twenty_times(prepared: Path, tmp_path: Path, seed: int) -> None:
    assert sum(kill_and_compare(prepared, tmp_path, 10, seed, "train.n_steps=40")) >= 5
