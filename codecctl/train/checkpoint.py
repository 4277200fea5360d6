"""A training state to one file and back, and the folder of a run."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

import codecctl
from codecctl.config import Config, dump_config
from codecctl.errors import CodecctlError, UsageError
from codecctl.inference.load import fingerprint, load_weights, read_checkpoint, read_config, write_checkpoint
from codecctl.model.codec import Codec
from codecctl.train.state import TrainState, make_optimizer


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

    def create(self, config: Config) -> None:
        """Make the folder, with its config. Raises `UsageError` if a training already lies there."""
        if self.last.exists():
            raise UsageError(
                f"{self.folder}: holds a run; `codecctl resume {self.folder}` goes on, --run names another"
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        self.config.write_text(dump_config(config), encoding="utf-8")


def save_state(state: TrainState, config: Config, path: Path) -> None:
    """Write everything that a resumed run needs; the old file stays until the new one is whole."""
    content = state.to_checkpoint()
    about = {
        "config": config.model_dump(mode="json", by_alias=True),
        "fingerprint": fingerprint(config.model, content["model"]),
        "versions": {
            "codecctl": codecctl.__version__,
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "numpy": np.__version__,
        },
    }
    write_checkpoint(path, {**about, **content})


def load_state(path: Path, device: torch.device) -> tuple[TrainState, Config]:
    """What `save_state` wrote, on `device`. Raises `CodecctlError` if the file holds no training state."""
    content = read_checkpoint(path)
    missing = [key for key in ("optimizer", "best_score") if key not in content]
    if missing:
        raise CodecctlError(f"{path}: '{missing[0]}' is missing: the file holds a codec without its training state")
    config = read_config(content, path)
    codec = Codec(config.model)
    load_weights(codec, content["model"], path)
    codec.to(device).train()
    optimizer = make_optimizer(codec, config.train)
    optimizer.load_state_dict(content["optimizer"])
    return TrainState(codec, optimizer, content["step"], content["best_score"]), config
