"""What the tests of a card share: the devices, a model, and steps of a training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from lightning_fabric import Fabric
from torch import Tensor

from codecctl.config.schema import Config
from codecctl.train.device import make_fabric, sent
from codecctl.train.setup import start_state, wrap
from codecctl.train.step import StepResult, train_step
from tests.train.tiny import ADVERSARIAL, tiny_config

CARD, CPU = torch.device("cuda"), torch.device("cpu")
Record = Callable[[str], None]
# Wide enough for the kernels that the production model uses; long enough to fill them.
MODEL = (
    "model.front={strides: [4,8,10], base_channels: 16, kernel_size: 7, dilations: [1,3]}",
    "model.transformer={width: 128, n_layers: 2, n_heads: 4, feedforward_width: 256, look_back_frames: 50}",
    "model.quantizer.codebook_sizes=[256,128,128]", "train.batch_size=4", "data.crop_seconds=1",
)  # fmt: skip


def config_of(*changes: str) -> Config:
    return tiny_config(Path("unused"), *ADVERSARIAL, *MODEL, *changes)


def run_steps(
    config: Config, device: torch.device, crops: Tensor, n_steps: int = 3, fabric: Fabric | None = None
) -> list[StepResult]:
    """The first steps of a training on the same crops [B, 1, L]."""
    fabric = fabric or make_fabric(config, device)
    state = start_state(config, fabric.device, steps_per_epoch=100)
    context = wrap(state, None, config, fabric, _fail)
    results = [train_step(state, [sent(crops, fabric.device)], context, config) for _ in range(n_steps)]
    assert {value.dtype for value in state.codec.state_dict().values()} == {torch.float32}
    return results


def _fail(message: str) -> None:
    raise AssertionError(message)


def largest_difference(first: list[StepResult], second: list[StepResult]) -> float:
    """The largest relative difference of any loss in any step."""
    pairs = [(a.losses[name], b.losses[name]) for a, b in zip(first, second, strict=True) for name in a.losses]
    assert all(bool(x.isfinite()) and bool(y.isfinite()) for x, y in pairs)
    return max(abs(float(x) - float(y)) / max(1e-6, abs(float(x))) for x, y in pairs)
