"""Checks before the first step: the losses and gradients of one batch, the loader's speed, the room on the disk."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from codecctl.config import Config
from codecctl.config.schema import TrainConfig
from codecctl.data.crops import Crops
from codecctl.errors import CodecctlError
from codecctl.train.device import cannot_compile, does_not_fit, sent
from codecctl.train.state import TrainState
from codecctl.train.step import StepContext, at_full_weight, gradients, plan_step, zero_gradients

_N_CUT = 3  # batches, to time the loader


def preflight(state: TrainState, context: StepContext, config: Config, crops: Crops, folder: Path) -> dict[str, str]:
    """The findings, in words, by subject. Changes neither `state` nor any randomness, and writes nothing.

    Raises `CodecctlError`, on all ranks, if the losses or gradients of a batch are not finite, a card's memory does not
    hold it, or the disk of `folder` has no room for the checkpoints.
    """
    disk = _room(state, config, folder, context)
    audio, cut_seconds = _first_crops(state.step, context, config, crops)
    batch, step_seconds = _one_batch(state, context, config, audio)
    return {"first batch": batch, "loader": _loader(cut_seconds, step_seconds, config.data.n_workers), "disk": disk}


def checkpoint_bytes(state: TrainState) -> int:
    """Of a checkpoint with both moments of all that learns."""
    kept: int = sum(tensor.nbytes for module in state.modules for tensor in module.state_dict().values())
    groups = [group for optimizer in state.optimizers for group in optimizer.param_groups]
    moments: int = 2 * sum(parameter.nbytes for group in groups for parameter in group["params"])
    return kept + moments


def n_files(settings: TrainConfig) -> int:
    """Checkpoints that are on the disk at once: the newest, the best, and one that is being written."""
    return settings.keep_checkpoints + 2


def _room(state: TrainState, config: Config, folder: Path, context: StepContext) -> str:
    """Measured by the first rank for all."""
    size = checkpoint_bytes(state)
    wanted = size * n_files(config.train)
    there = sum(path.stat().st_size for path in folder.glob("*.pt"))
    disk = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free: int = context.fabric.broadcast(shutil.disk_usage(disk).free)
    need: int = context.fabric.broadcast(max(0, wanted - there))
    words = (
        f"{n_files(config.train)} checkpoints of {size / 1e6:,.1f} MB need {need / 1e6:,.1f} MB more, "
        f"{free / 1e6:,.1f} MB are free"
    )
    if free < need:
        raise CodecctlError(f"{folder}: {words}; make room, or name a folder on another disk with --run")
    return words


def _first_crops(step: int, context: StepContext, config: Config, crops: Crops) -> tuple[Tensor, float]:
    """This rank's crops of the next step, [B, 1, L], and the seconds that one thread takes to cut a batch."""
    n_crops, fabric = config.train.n_crops, context.fabric
    start = time.perf_counter()
    cut = [crops.batch(step + i, n_crops, fabric.global_rank, fabric.world_size) for i in range(_N_CUT)]
    return cut[0], (time.perf_counter() - start) / _N_CUT


def _one_batch(state: TrainState, context: StepContext, config: Config, audio: Tensor) -> tuple[str, float]:
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
    words = in_words(losses)
    if result.skipped:
        raise CodecctlError(f"step {state.step + 1}: the gradient of its batch is not finite ({words}); check the data")
    teacher = "teacher there, " if context.teacher is not None else ""
    return f"{teacher}all finite: {words}", seconds


def in_words(losses: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.3g}" for name, value in losses.items())


def _loader(cut_seconds: float, step_seconds: float, n_workers: int) -> str:
    """Whether the loader keeps up."""
    words = f"a batch takes {cut_seconds:.3f} s to cut and {step_seconds:.2f} s to learn from"
    if n_workers == 0:
        return f"{words}, one after the other: data.n_workers=0"
    slow = cut_seconds / n_workers > step_seconds
    return f"{words}: data.n_workers={n_workers} {'is too few; raise it, or use a faster disk' if slow else 'keeps up'}"
