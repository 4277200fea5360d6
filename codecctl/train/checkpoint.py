"""Saving and loading the state of a training, and the folder of a run."""

from __future__ import annotations

import copy
import json
import os
import platform
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer

import codecctl
from codecctl.config.load import dump_config
from codecctl.config.model import ModelConfig
from codecctl.config.schema import Config
from codecctl.errors import CodecctlError, UsageError
from codecctl.files import replacing, write_lines
from codecctl.inference.checkpoint import Checkpoint, check_finite, compare_shapes, load_weights, write_checkpoint
from codecctl.lock import Lease, LeaseHeld, is_taken, living_holder
from codecctl.train.changes import Change
from codecctl.train.state import TrainState

_LATENT_KEYS = ("first_band", "level_prediction")  # of a front: they change latents, but no shape of a weight
_LATER = ("validated_on",)  # fields of `TrainState` that files of version 1 may lack
_OF_MODEL = ("ema", "step")  # fields of `TrainState` that are the model's weights and steps in a checkpoint


class Run:
    """The folder of one training."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config, self.metrics, self.tensorboard = folder / "config.yaml", folder / "metrics.jsonl", folder / "tb"
        self.last, self.best = folder / "last.pt", folder / "best.pt"

    def older(self, last_step: int | None = None) -> list[Path]:
        """The checkpoints before `last`, oldest first. Those beyond `last_step`, of a way that the run has left, come
        before the others."""
        newest = self.at_step(last_step).name if last_step is not None else "~"
        return sorted(self.folder.glob("step-*.pt"), key=lambda path: (path.name <= newest, path.name))

    def at_step(self, step: int) -> Path:
        return self.folder / f"step-{step:09d}.pt"

    def last_written(self) -> tuple[int, int] | None:
        """Differs if another `last` has been written meanwhile; None: there is none."""
        if not self.last.exists():
            return None
        found = self.last.stat()
        return found.st_ino, found.st_mtime_ns

    @classmethod
    def at(cls, path: Path) -> Run:
        """The run of this folder, or of the `last.pt` in it. Raises `UsageError` for another checkpoint."""
        if path.name == "last.pt":
            return cls(path.parent)
        if path.is_file() and path.suffix == ".pt":
            raise UsageError(
                f"{path}: a run goes on from its last.pt: give the folder {path.parent}; to go back to this file, copy "
                f"it over {path.with_name('last.pt')} first, whose state is lost then"
            )
        if path.is_file():
            raise UsageError(f"{path}: not the folder of a run")
        return cls(path)

    @contextmanager
    def held(self, on_wait: Callable[[str], None] = lambda holder: None) -> Iterator[None]:
        """Within: no other process writes here, and temporary files of killed ones are removed.

        Raises `UsageError` if another process trains here. After a process on another machine died, this waits for its
        lease to become stale; `on_wait` is called with its name.
        """
        try:
            with Lease(self.folder, wait=False, on_wait=on_wait):
                for partial in self.folder.glob(".*.partial"):
                    partial.unlink(missing_ok=True)
                yield
        except LeaseHeld as holder:
            raise self._in_use(str(holder)) from None

    def refuse_running(self) -> None:
        """Raises `UsageError` if another process of this machine trains here; writes nothing."""
        if holder := living_holder(self.folder):
            raise self._in_use(holder)

    def _in_use(self, holder: str) -> UsageError:
        return UsageError(
            f"{self.folder}: another process trains there ({holder}); wait until it ends, or use another folder"
        )

    def create(self, config: Config) -> None:
        """Make the folder, with its config. Raises `UsageError` if it holds a training already."""
        self.refuse_taken()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.write_config(config)

    def write_config(self, config: Config) -> None:
        write_lines(self.config, [dump_config(config)])

    def refuse_taken(self) -> None:
        """Raises `UsageError` if the folder holds a training already, or anything of one."""
        self.refuse_running()  # before its first checkpoint it would look like what is left of another run
        if self.last.exists():
            raise UsageError(
                f"{self.folder}: holds a run; `codecctl resume {self.folder}` goes on, --run names another"
            )
        for path in (*self.older(), self.best, self.metrics, self.tensorboard, self.config):
            if path.exists():
                raise UsageError(
                    f"{path}: is of another run, which has no last.pt; remove what is left of it, or name another "
                    "folder with --run"
                )


def save_last(run: Run, state: TrainState, config: Config, n_ranks: int, last_step: int) -> None:
    """Write `last.pt`; the one before, of `last_step`, stays as step-N.pt while it is among the newest
    `keep_checkpoints`.

    Raises `CodecctlError` if another process took over the run while this one was suspended.
    """
    if is_taken(run.folder):
        raise CodecctlError(f"{run.folder}: another process took over this run; nothing more is written")
    if config.train.keep_checkpoints > 1 and run.last.exists():
        before = run.at_step(last_step)
        if not (before.exists() and before.samefile(run.last)):  # one of that name is of a run that went back
            before.unlink(missing_ok=True)
            _keep(run.last, before)
    save_state(state, config, run.last, n_ranks)
    for path in run.older(last_step)[: -(config.train.keep_checkpoints - 1) or None]:
        path.unlink()


def save_state(state: TrainState, config: Config, path: Path, n_ranks: int) -> None:
    """Write everything that a resumed run needs; the old file stays until the new one is complete.

    The model in the file is the running average. All fields of `TrainState` are saved.
    """
    run = {
        "config": config.model_dump(mode="json", by_alias=True),
        "versions": {
            "codecctl": codecctl.__version__,
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "numpy": np.__version__,
        },
        "n_ranks": n_ranks,
    }
    training = {
        name: value.state_dict() if isinstance(value, (nn.Module, Optimizer)) else value
        for name, value in _resumed(state).items()
    }
    write_checkpoint(path, config.model, state.ema.state_dict(), state.step, run=run, training=training)


def load_state(state: TrainState, checkpoint: Checkpoint) -> None:
    """Fill a new state from a checkpoint that was read `with_training`.

    Raises `CodecctlError` that names the first part or key which is missing or foreign.
    """
    content, path = training_of(checkpoint), checkpoint.path
    for name, value in _resumed(state).items():
        if name not in content and name in _LATER:
            continue
        if name not in content:
            raise CodecctlError(f"{path}: '{name}' is missing; this file can be used, but not resumed with its config")
        saved, where = content[name], f"{path}: {name}"
        if isinstance(value, nn.Module):
            compare_shapes(value.state_dict(), saved, where)
            check_finite(saved, path)
            value.load_state_dict(saved)
        elif isinstance(value, Optimizer):
            if _group_sizes(saved) != _group_sizes(value.state_dict()):
                raise CodecctlError(f"{where}: is of other parameters than the config describes")
            # An optimiser keeps the tensors it is given: those of the file would change with the file.
            value.load_state_dict(copy.deepcopy(saved))
        else:
            setattr(state, name, saved)
    checkpoint.fill(state.ema)
    state.step = checkpoint.step


def training_of(checkpoint: Checkpoint) -> Mapping[str, Any]:
    """What a run resumes from. Raises `CodecctlError` for a model without it."""
    if checkpoint.training is None or checkpoint.run is None:
        raise CodecctlError(f"{checkpoint.path}: holds a model alone; use it, or start from it with --from")
    return checkpoint.training


def take_weights(state: TrainState, path: Path) -> list[str]:
    """Start with the weights and codebooks of a checkpoint's model, and with nothing else of it.

    Returns the parts that it does not have, which start anew: a front may have layers behind the decoder of another
    with the same encoder. Raises `CodecctlError` if the weights do not fit the codec, or the latents have another
    meaning.
    """
    checkpoint = Checkpoint.read(path)
    theirs, ours = checkpoint.model.front, state.codec.config.front
    _check_latents(checkpoint.model, state.codec.config, path)
    weights, own = dict(checkpoint.weights), state.codec.state_dict()
    missing: set[str] = set()
    if theirs.kind != ours.kind and theirs.encoder.kind == ours.encoder.kind:
        if weights.keys() - own.keys():
            raise CodecctlError(
                f"{path}: its front is {theirs.kind}, which has layers that model.front.kind={ours.kind} lacks; "
                f"try --set model.front.kind={theirs.kind}"
            )
        missing = own.keys() - weights.keys()
        weights = own | weights
    for codec in (state.codec, state.ema):
        load_weights(codec, weights, path)
    return sorted({".".join(name.split(".")[:2]) for name in missing})


def read_run_config(run: Run) -> tuple[Checkpoint, Config]:
    """The last checkpoint of a run and its config. Raises `CodecctlError` if there is none that can be resumed."""
    if not run.last.exists():
        run.refuse_running()
        raise CodecctlError(f"{run.last}: no such file: no run has been saved there; `codecctl train` starts one")
    checkpoint = Checkpoint.read(run.last, with_training=True)
    training_of(checkpoint)
    return checkpoint, checkpoint.config()


@dataclass(frozen=True)
class Restored:
    """What a resumed run restores, and what has changed."""

    checkpoint: Checkpoint
    state: TrainState  # loaded from it
    config: Config
    steps_per_epoch: float
    n_ranks: int
    changes: Mapping[str, Change]  # by key of the config


def _resumed(state: TrainState) -> dict[str, Any]:
    """The fields of the state that are saved under `training`; parts that the config does not have are left out."""
    values = {field.name: getattr(state, field.name) for field in fields(state)}
    return {name: value for name, value in values.items() if name not in _OF_MODEL and value is not None}


def _group_sizes(optimizer: dict[str, Any]) -> list[int]:
    return [len(group["params"]) for group in optimizer["param_groups"]]


def _check_latents(theirs: ModelConfig, ours: ModelConfig, path: Path) -> None:
    for name in _LATENT_KEYS if theirs.front.encoder.kind == ours.front.encoder.kind else ():
        there, here = (json.dumps(getattr(config.front, name, None)) for config in (theirs, ours))
        if there != here:
            raise CodecctlError(
                f"{path}: model.front.{name} is {there} there, {here} in the config; --set model.front.{name}={there}"
            )


def _keep(path: Path, target: Path) -> None:
    """Hard-link the file; copy it where hard links are unsupported."""
    try:
        os.link(path, target)
    except OSError:
        with replacing(target) as partial:
            shutil.copyfile(path, partial)
