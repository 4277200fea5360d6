"""A training state to one file and back, and the folder of a run."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import codecctl
from codecctl.config import Config, dump_config
from codecctl.errors import CodecctlError, UsageError
from codecctl.inference.load import (
    fingerprint,
    load_weights,
    read_checkpoint,
    read_config,
    weights_in_use,
    write_checkpoint,
)
from codecctl.train.state import TrainState

_COUNTERS = ("step", "adversarial_step", "best_score", "rate_factor", "n_rollbacks")


@dataclass(frozen=True)
class Run:
    """The folder of one training."""

    folder: Path

    @property
    def config(self) -> Path:
        return self.folder / "config.yaml"

    @property
    def last(self) -> Path:
        return self.folder / "last.pt"

    @property
    def best(self) -> Path:
        return self.folder / "best.pt"

    @property
    def metrics(self) -> Path:
        return self.folder / "metrics.jsonl"

    @property
    def tensorboard(self) -> Path:
        return self.folder / "tb"

    def older(self) -> list[Path]:
        """The checkpoints before `last`, oldest first."""
        return sorted(self.folder.glob("step-*.pt"))

    def create(self, config: Config) -> None:
        """Make the folder, with its config. Raises `UsageError` if a training already lies there."""
        self.refuse_taken()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.config.write_text(dump_config(config), encoding="utf-8")

    def refuse_taken(self) -> None:
        """Raises `UsageError` if a training already lies there."""
        if self.last.exists():
            raise UsageError(
                f"{self.folder}: holds a run; `codecctl resume {self.folder}` goes on, --run names another"
            )


def save_last(run: Run, state: TrainState, config: Config, n_ranks: int) -> None:
    """Write `last.pt`; the one before stays as step-N.pt while it is among the newest `keep_checkpoints`."""
    if config.train.keep_checkpoints > 1 and run.last.exists():
        before = run.folder / f"step-{read_checkpoint(run.last)['step']:09d}.pt"
        if not before.exists():
            os.link(run.last, before)  # a second name for the old file: it costs nothing and is never half there
    save_state(state, config, run.last, n_ranks)
    for path in run.older()[: -(config.train.keep_checkpoints - 1) or None]:
        path.unlink()


def save_state(state: TrainState, config: Config, path: Path, n_ranks: int) -> None:
    """Write everything that a resumed run needs; the old file stays until the new one is whole."""
    ema = state.ema.state_dict()
    content: dict[str, Any] = {
        "config": config.model_dump(mode="json", by_alias=True),
        "fingerprint": fingerprint(config.model, ema),
        "versions": {
            "codecctl": codecctl.__version__,
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "numpy": np.__version__,
        },
        "n_ranks": n_ranks,
        "model": state.codec.state_dict(),
        "ema": ema,
        **{name: part.state_dict() for name, part in _other_parts(state).items()},
        **{name: getattr(state, name) for name in _COUNTERS},
    }
    write_checkpoint(path, content)


def load_state(state: TrainState, content: Mapping[str, Any], path: Path) -> None:
    """Fill a new state from what `save_state` wrote.

    Raises `CodecctlError` that names the first part or key which is missing or foreign.
    """
    parts = _other_parts(state)
    _check_parts(content, ("model", "ema", *parts, *_COUNTERS), path)
    load_weights(state.codec, content["model"], path)
    load_weights(state.ema, content["ema"], path)
    for name, part in parts.items():
        if isinstance(part, nn.Module):
            _check_keys(part.state_dict(), content[name], f"{path}: {name}")
        elif len(content[name]["param_groups"]) != len(part.param_groups) or [
            len(group["params"]) for group in content[name]["param_groups"]
        ] != [len(group["params"]) for group in part.param_groups]:
            raise CodecctlError(f"{path}: {name}: is of other parameters than the config describes")
        part.load_state_dict(content[name])
    for name in _COUNTERS:
        setattr(state, name, content[name])


def take_weights(state: TrainState, path: Path) -> None:
    """Begin with the weights and codebooks that are used of a checkpoint, and with nothing else of it."""
    weights = weights_in_use(read_checkpoint(path))
    load_weights(state.codec, weights, path)
    load_weights(state.ema, weights, path)


def read_run_config(run: Run) -> tuple[dict[str, Any], Config]:
    """The last checkpoint of a run and its config. Raises `CodecctlError` if there is none that can be resumed."""
    if not run.last.exists():
        raise CodecctlError(f"{run.last}: no such file; start the run with `codecctl train --run {run.folder}`")
    content = read_checkpoint(run.last)
    _check_parts(content, ("model", "ema", "optimizer", *_COUNTERS), run.last)
    return content, read_config(content, run.last)


def restored(state: TrainState, content: Mapping[str, Any], steps_per_epoch: float) -> dict[str, str]:
    """What a resumed run takes up again, in words."""
    mode = "on" if state.step >= state.adversarial_step else f"from step {state.adversarial_step} on"
    return {
        "step": f"{state.step}, epoch {state.step / steps_per_epoch:.2f}",
        "place in the data": f"crops of step {state.step}, a function of the seed and the step",
        "randomness": "a function of the seed and the step: nothing to restore",
        "codec and its average": f"{len(content['model'])} tensors each, codebooks and their sums among them",
        "optimiser": f"AdamW, {len(content['optimizer']['state'])} moments",
        "discriminators": f"{len(content['discriminators'])} tensors and their AdamW, {mode}"
        if state.discriminators is not None
        else "none in this config",
        "best mel distance": f"{state.best_score:.3f}",
        "learning rates": f"x {state.rate_factor:g} after {state.n_rollbacks} roll-backs",
        "written by": ", ".join(f"{name} {version}" for name, version in content["versions"].items()),
    }


def _other_parts(state: TrainState) -> dict[str, Any]:
    parts = {
        "semantic_head": state.generator.semantic_head,
        "optimizer": state.optimizer,
        "discriminators": state.discriminators,
        "discriminator_optimizer": state.discriminator_optimizer,
    }
    return {name: part for name, part in parts.items() if part is not None}


def _check_parts(content: Mapping[str, Any], names: Iterable[str], path: Path) -> None:
    for name in names:
        if name not in content:
            raise CodecctlError(f"{path}: '{name}' is missing; this file can be used, but not resumed with its config")


def _check_keys(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor], where: str) -> None:
    for name in sorted(ours.keys() ^ theirs.keys()):
        raise CodecctlError(f"{where}: weight '{name}' is {'missing' if name in ours else 'foreign'}")
