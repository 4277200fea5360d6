"""Training: from a config and prepared data to a run folder, and on from a checkpoint."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import torch
from lightning_fabric import Fabric

from codecctl.config.schema import Config
from codecctl.errors import UsageError
from codecctl.train import launch
from codecctl.train.callbacks import TrainingCallbacks
from codecctl.train.changes import change_config
from codecctl.train.checkpoint import Restored, Run, read_run_config, take_weights
from codecctl.train.device import make_fabric
from codecctl.train.setup import fit_codebooks, open_crops
from codecctl.train.signals import TimeLimit
from codecctl.train.training import Training


def train(
    config: Config,
    folder: Path,
    device: torch.device,
    callbacks: TrainingCallbacks,
    stop_step: int | None = None,
    *,
    start_from: Path | None = None,
    n_devices: int = 1,
    n_nodes: int = 1,
    max_minutes: float | None = None,
    started: float | None = None,
) -> Run:
    """Start a run in `folder` and train until `stop_step` (None: `train.n_steps`). `start_from`: the checkpoint whose
    weights and codebooks it starts with; None: random weights, and codebooks by k-means. `max_minutes` (None:
    `train.max_minutes`) after `started` (by `time.monotonic()`; None: now) the state is saved and the run returned.

    Raises `UsageError` if the folder holds a run already or `max_minutes` are over before the first step,
    `CodecctlError` if the prepared data or the teacher is missing or too much goes wrong, `Interrupted` after SIGINT or
    SIGTERM, when the state has been saved.
    """
    limit = TimeLimit.of(config.train, max_minutes, started)
    run = Run(folder)
    run.refuse_taken()
    crops = open_crops(config)
    ranks = launch.count_ranks(n_devices, n_nodes)
    if not ranks.are_started:
        launch.start_ranks(ranks, folder)
        return run
    with launch.reporting(ranks, folder):
        fabric = make_fabric(config, device, n_devices, n_nodes)
        training = Training(config, run, crops, fabric, callbacks, limit)
        training.check()
        if start_from is None:
            fit_codebooks(training.state, config, crops, fabric)
        elif new := take_weights(training.state, start_from):
            training.callbacks.extended(start_from, new)
        training.check_time()
        with _held(run, fabric, callbacks):
            if fabric.is_global_zero:
                run.create(config)
            launch.check_shared(fabric, run.config)
            training.go(stop_step)
    return run


def resume(
    folder: Path,
    device: torch.device,
    callbacks: TrainingCallbacks,
    stop_step: int | None = None,
    data: str | None = None,
    *,
    overrides: Sequence[str] = (),
    n_devices: int = 1,
    n_nodes: int = 1,
    max_minutes: float | None = None,
    started: float | None = None,
) -> Run:
    """Continue from the last checkpoint of a run as if it had never stopped. `data`: the prepared folder, if it has
    moved. `overrides`: `a.b=c` for keys that may change within a run; config.yaml is written anew. `max_minutes`,
    `started`: as for `train`.

    Raises `UsageError` if the run is at `stop_step` already or another process trains there, `CodecctlError` if the
    checkpoint misses a key or has a foreign one, and what `train` raises.
    """
    run = Run.at(folder)
    written = run.last_written()
    checkpoint, config = read_run_config(run)
    config, changes = change_config(config, run.config, overrides, data)
    limit = TimeLimit.of(config.train, max_minutes, started)
    if checkpoint.step >= (stop_step or config.train.n_steps):
        raise UsageError(f"{run.last}: is at step {checkpoint.step} already; give more with --steps")
    crops = open_crops(config)
    ranks = launch.count_ranks(n_devices, n_nodes)
    if not ranks.are_started:
        launch.start_ranks(ranks, folder)
        return run
    with launch.reporting(ranks, run.folder):
        fabric = make_fabric(config, device, n_devices, n_nodes)
        with _held(run, fabric, callbacks):
            if run.last_written() != written:
                raise UsageError(f"{run.last}: another process has saved it meanwhile; run the same command again")
            training = Training(config, run, crops, fabric, callbacks, limit)
            training.load(checkpoint)
            training.check()
            training.check_time()
            training.callbacks.restored(
                Restored(checkpoint, training.state, config, training.steps_per_epoch, fabric.world_size, changes)
            )
            if fabric.is_global_zero:
                run.write_config(config)
            training.go(stop_step)
    return run


def _held(run: Run, fabric: Fabric, callbacks: TrainingCallbacks) -> AbstractContextManager[None]:
    """Only the first rank writes, and keeps other processes out."""
    return run.held(callbacks.waiting) if fabric.is_global_zero else contextlib.nullcontext()
