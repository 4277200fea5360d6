"""Checks before the first step: the losses and gradients of one batch, the loader's speed, the room on the disk."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from codecctl.config.schema import Config
from codecctl.data.crops import Crops
from codecctl.data.download.disk import free_bytes
from codecctl.errors import CodecctlError, ConfigError
from codecctl.train.device import cannot_compile, does_not_fit, sent
from codecctl.train.setup import checkpoint_bytes, n_files
from codecctl.train.state import TrainState
from codecctl.train.step import StepContext, at_full_weight, gradients, loss_weights, plan_step, zero_gradients

_N_CUT = 3  # batches, to time the loader


@dataclass(frozen=True)
class Preflight:
    """The findings of the checks."""

    losses: Mapping[str, float]  # of one batch, all that the config has; finite
    has_teacher: bool
    step_seconds: float  # that the gradients of the batch took
    cut_seconds: float  # that one thread takes for this rank's crops of a step
    n_workers: int  # threads or processes that cut crops; 0: none
    needed_bytes: int  # for checkpoints, beyond those of the run that are there
    free_bytes: int

    @property
    def keeps_up(self) -> bool:
        """Whether the loader's workers cut crops as fast as steps take them."""
        return self.cut_seconds <= self.step_seconds * self.n_workers


def preflight(state: TrainState, context: StepContext, config: Config, crops: Crops, folder: Path) -> Preflight:
    """Changes neither `state` nor any randomness, and writes nothing.

    Raises `CodecctlError`, on all ranks, if no loss counts at the next step, if the losses or gradients of a batch are
    not finite, a card's memory does not hold it, or the disk of `folder` has no room for the checkpoints.
    """
    if not loss_weights(config, state.step, state.adversarial_step):
        raise ConfigError("loss: all weights are 0 before the discriminators start; set one, such as loss.mel_weight")
    needed, free = _room(state, config, folder, context)
    n_crops, fabric, start = config.train.n_crops, context.fabric, time.perf_counter()
    cut = [crops.batch(state.step + i, n_crops, fabric.global_rank, fabric.world_size) for i in range(_N_CUT)]
    cut_seconds = (time.perf_counter() - start) / _N_CUT
    losses, step_seconds = _one_batch(state, context, config, cut[0])
    n_workers = config.data.n_workers
    return Preflight(losses, context.teacher is not None, step_seconds, cut_seconds, n_workers, needed, free)


def _room(state: TrainState, config: Config, folder: Path, context: StepContext) -> tuple[int, int]:
    """Bytes needed and free, measured by the first rank for all. Raises `CodecctlError` if they are too few."""
    n, size = n_files(config.train), checkpoint_bytes(state)
    there = sum(path.stat().st_size for path in folder.glob("*.pt"))
    needed, free = context.fabric.broadcast((max(0, n * size - there), free_bytes(folder)))
    if free < needed:
        raise CodecctlError(
            f"{folder}: {n} checkpoints of {size / 1e6:,.1f} MB need {needed / 1e6:,.1f} MB more, {free / 1e6:,.1f} MB "
            "are free; make room, or name a folder on another disk with --run"
        )
    return needed, free


def _one_batch(
    state: TrainState, context: StepContext, config: Config, audio: Tensor
) -> tuple[dict[str, float], float]:
    """The losses of one batch, all that the config has, and the seconds that its gradients took."""
    batches = [sent(part, context.fabric.device) for part in audio.chunk(config.train.accumulate)]
    start = time.perf_counter()
    try:
        plan = plan_step(at_full_weight(state, config), batches, context, config)
        _, result = gradients(plan, batches, context, config)
        losses = {name: float(value) for name, value in result.losses.items()}
    except torch.OutOfMemoryError:
        raise does_not_fit(config) from None
    except torch._dynamo.exc.TorchDynamoException as error:  # only where something is compiled
        raise cannot_compile(error) from None
    seconds = time.perf_counter() - start
    zero_gradients(context)
    if result.skipped:
        words = ", ".join(f"{name} {value:.3g}" for name, value in losses.items())
        raise CodecctlError(f"step {state.step + 1}: the gradient of its batch is not finite ({words}); check the data")
    return losses, seconds
