"""Everything that a resumed run needs, in one place."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from codecctl.config.schema import Config, TrainConfig
from codecctl.model.codec import Codec


@dataclass
class TrainState:
    """What changes while a run goes on. Randomness and the place in the data follow from (seed, step)."""

    codec: Codec
    optimizer: torch.optim.Optimizer
    step: int = 0  # updates done
    best_score: float = math.inf  # lowest mel distance of a validation so far

    def to_checkpoint(self) -> dict[str, Any]:
        return {
            "model": self.codec.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "best_score": self.best_score,
        }


def start_state(config: Config, device: torch.device) -> TrainState:
    """A new codec, its weights drawn from the seed, on `device`."""
    with torch.random.fork_rng(devices=[]):  # drawn on the CPU: the same start on every device
        torch.manual_seed(config.train.seed)
        codec = Codec(config.model)
    codec.to(device).train()
    return TrainState(codec, make_optimizer(codec, config.train))


def make_optimizer(module: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW; weight decay on matrices and kernels, not on scales, biases and Snake's frequencies."""
    is_matrix = {name: parameter.numel() > parameter.shape[0] for name, parameter in module.named_parameters()}
    groups = [
        {
            "params": [p for name, p in module.named_parameters() if is_matrix[name]],
            "weight_decay": config.weight_decay,
        },
        {"params": [p for name, p in module.named_parameters() if not is_matrix[name]], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas)


def learning_rate(config: TrainConfig, step: int) -> float:
    """At update `step`, from 0: a linear rise, then half a cosine down to `final_learning_rate` at `n_steps`."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    done = min(1.0, (step - config.warmup_steps) / max(1, config.n_steps - config.warmup_steps))
    cosine = 0.5 * (1 + math.cos(math.pi * done))
    return config.final_learning_rate + (config.learning_rate - config.final_learning_rate) * cosine


def step_generator(seed: int, step: int, purpose: int) -> torch.Generator:
    """The randomness of one purpose within one step: a function of its three numbers, the same wherever it is asked."""
    mixed = (seed * 1_000_003 + step) * 7 + purpose
    return torch.Generator().manual_seed(mixed % 2**63)
