"""How long a save keeps training waiting: beside a bare write of as many bytes, and beside a step."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from codecctl.config.load import load_config
from codecctl.train.checkpoint import Run, save_last
from codecctl.train.device import make_fabric
from codecctl.train.setup import start_state, wrap
from codecctl.train.step import train_step

pytestmark = pytest.mark.bench

CPU = torch.device("cpu")


def seconds_of(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def test_a_save_costs_little_more_than_its_bytes(tmp_path: Path) -> None:
    changes = ["train.batch_size=2", "data.crop_seconds=0.5", "loss.semantic_weight=0", "train.keep_checkpoints=2"]
    config = load_config("starter", overrides=changes)
    state = start_state(config, CPU, steps_per_epoch=1)
    context = wrap(state, None, config, make_fabric(config, CPU))
    crops, run = 0.1 * torch.randn(2, 1, 8000), Run(tmp_path)
    train_step(state, [crops], context, config)  # now the optimisers have their moments
    save_last(run, state, config, 1, 0)
    data = run.last.read_bytes()
    saves, writes, steps = [], [], []
    for _ in range(5):
        steps.append(seconds_of(lambda: train_step(state, [crops], context, config)))
        saves.append(seconds_of(lambda: save_last(run, state, config, 1, state.step - 1)))
        writes.append(seconds_of(lambda: write(tmp_path / "bare", data)))
    save, bare, step = (statistics.median(times) for times in (saves, writes, steps))
    every = config.train.checkpoint_every_steps
    print(
        f"\n{len(data) / 1e6:.0f} MB: training waits {save:.2f} s, {save / bare:.1f} times a bare write, as long as "
        f"{save / step:.1f} steps of a tiny batch: {save / step / every:.2%} of the time with one every {every} steps"
    )
    assert save < 5 * bare + 0.5
