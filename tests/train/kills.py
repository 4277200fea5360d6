"""Kill a training again and again, half of the times inside a save, then let it end:
`python -m tests.train.kills CONFIG FOLDER N_KILLS SEED N_RANKS...` leaves FOLDER/N_RANKS/straight and .../killed.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import torch

from codecctl.config.load import load_config
from codecctl.inference.checkpoint import Checkpoint
from codecctl.train.callbacks import TrainingCallbacks
from codecctl.train.loop import resume, train
from tests.train.forks import fork_ranks

CPU = torch.device("cpu")
sync = os.fsync


def run_or_resume(config: str, run: Path) -> None:
    """Nothing is left to do for a run that was killed behind its last save."""
    settings = load_config(config)
    if not (run / "last.pt").exists():
        train(settings, run, CPU, TrainingCallbacks())
    elif Checkpoint.read(run / "last.pt").step < settings.train.n_steps:
        resume(run, CPU, TrainingCallbacks())


def clear_leftovers(run: Path) -> None:
    """What a run leaves that was killed before its first save is in the way of the next one, which says so."""
    if not (run / "last.pt").exists():
        shutil.rmtree(run, ignore_errors=True)


def on_a_slow_disk(config: str, run: Path) -> None:
    os.fsync = lambda file: (time.sleep(0.1), sync(file))  # type: ignore[assignment, return-value]
    run_or_resume(config, run)


def kill(config: str, run: Path, n_ranks: int, inside_a_save: bool, delay: float) -> bool:
    """One attempt, killed; whether half a checkpoint is left."""
    clear_leftovers(run)
    children = fork_ranks(lambda rank: on_a_slow_disk(config, run), n_ranks)
    deadline = time.monotonic() + 120
    while not any(run.glob(".last.pt*.partial")) if inside_a_save else not (run / "metrics.jsonl").exists():
        assert os.waitpid(children[0], os.WNOHANG)[0] == 0, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.001)
    time.sleep(delay)
    for child in children:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return any(run.glob(".*.partial"))


def finish(config: str, run: Path, n_ranks: int) -> None:
    clear_leftovers(run)
    for child in fork_ranks(lambda rank: run_or_resume(config, run), n_ranks):
        assert os.waitpid(child, 0)[1] == 0


def main(config: str, folder: str, n_kills: str, seed: str, *numbers: str) -> None:
    random.seed(int(seed))
    halves = []
    for n_ranks in map(int, numbers):
        straight, killed = (Path(folder) / str(n_ranks) / name for name in ("straight", "killed"))
        finish(config, straight, n_ranks)
        for n in range(int(n_kills)):
            inside = n % 2 == 0
            halves.append(kill(config, killed, n_ranks, inside, random.uniform(0, 0.08 if inside else 0.3)))
        finish(config, killed, n_ranks)
    print(json.dumps(halves))


if __name__ == "__main__":
    main(*sys.argv[1:])
