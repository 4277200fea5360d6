"""A training so small that a step takes milliseconds, as the tests of this folder and of the commands use it."""

from __future__ import annotations

from pathlib import Path

import torch

from codecctl.config.load import dump_config, load_config
from codecctl.config.schema import Config
from codecctl.train.device import make_fabric
from codecctl.train.setup import wrap
from codecctl.train.state import TrainState
from codecctl.train.step import StepContext

CHANGES = [
    "data.crop_seconds=0.2", "data.n_workers=0",
    "model.front={strides: [4, 8], base_channels: 4, kernel_size: 3, dilations: [1]}",
    "model.transformer={width: 8, n_layers: 1, n_heads: 2, feedforward_width: 8, look_back_frames: 5}",
    "model.quantizer.codebook_sizes=[32,16,16]",
    "loss.spectral_windows=[64]", "loss.mel_windows=[64]", "loss.n_mels=[8]",
    "train.kmeans_vectors=200", "train.batch_size=2", "train.n_steps=6", "train.warmup_steps=2",
    "train.log_every_steps=1", "train.validate_every_steps=100", "train.checkpoint_every_steps=100",
    "validate.n_utterances=1", "validate.metrics=[]",
]  # fmt: skip

FEW_FRAMES = ("model.front.strides=[8,16]", "model.transformer.look_back_frames=200")
"""Less to compute where recordings are validated: a quarter of the frames, and longer parts of them at a time."""

ADVERSARIAL = (
    "loss.adversarial_weight=1", "loss.feature_weight=2",
    "train.adversarial={periods: [2], stft_windows: [64], channels: 2, start_epoch: 0, warmup_steps: 0, ramp_steps: 4}",
)  # fmt: skip
"""Discriminators from the first step on."""


def tiny_config(prepared: Path, *changes: str) -> Config:
    """Six steps of a tiny codec on a prepared folder."""
    return load_config("smoke", overrides=[*CHANGES, f"data.path={prepared}", *changes])


def tiny_context(state: TrainState, config: Config) -> StepContext:
    """The state on the CPU, ready for steps."""
    return wrap(state, None, config, make_fabric(config, torch.device("cpu")))


def tiny_yaml(folder: Path, prepared: Path, *changes: str) -> Path:
    """The same, as a file `tiny.yaml`."""
    path = folder / "tiny.yaml"
    path.write_text(dump_config(tiny_config(prepared, *changes)), encoding="utf-8")
    return path
