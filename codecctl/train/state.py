"""Everything that changes during a training, in one place: the content of a checkpoint."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from codecctl.config.schema import TrainConfig
from codecctl.train.teacher import Generator

if TYPE_CHECKING:
    from codecctl.model.codec import Codec
    from codecctl.train.discriminators import Discriminators

Number = float | Tensor  # a tensor [] on the device: a recorded step can read another value at each replay

_EMA_START = 10  # after n updates the average covers about the last n / 10 + 10: the first weights soon vanish


@dataclass
class TrainState:
    """Checkpoints hold every field. Randomness and the place in the data follow from (seed, step) and need no state."""

    codec: Codec
    semantic_head: nn.Module | None  # None without a teacher
    ema: Codec  # the running average of the codec: it is validated and exported
    optimizer: torch.optim.Optimizer
    discriminators: Discriminators | None
    discriminator_optimizer: torch.optim.Optimizer | None
    adversarial_step: int  # the first with adversarial losses
    n_alarms: list[int]  # of each codebook, lines of the log in a row
    code_counts: list[Tensor]  # [V] of each codebook, on all ranks since the last line
    step: int = 0  # updates done, skipped ones included
    best_score: float = math.inf  # lowest mel distance of a validation so far
    validated_on: str = ""  # the digest of the recordings on which `best_score` was measured; "": not known
    rate_factor: float = 1.0  # of the learning rates, halved by each roll-back
    n_rollbacks: int = 0
    validated_step: int = 0  # of the last validation
    n_skipped: int = 0  # steps in a row whose gradient was not finite

    @property
    def generator(self) -> Generator:
        """All that the codec's optimiser trains, as one module."""
        return Generator(self.codec, self.semantic_head)

    @property
    def modules(self) -> list[nn.Module]:
        return [module for module in (self.generator, self.ema, self.discriminators) if module is not None]

    @property
    def optimizers(self) -> list[torch.optim.Optimizer]:
        return [each for each in (self.optimizer, self.discriminator_optimizer) if each is not None]

    @property
    def device(self) -> torch.device:
        return next(self.codec.parameters()).device


def validate_on(state: TrainState, digest: str) -> None:
    """Scores of other recordings than before cannot be compared: the best one starts anew."""
    if state.validated_on not in ("", digest):
        state.best_score = math.inf
    state.validated_on = digest


def make_optimizer(module: nn.Module, config: TrainConfig, rate: float) -> torch.optim.Optimizer:
    """AdamW over the parameters that are not frozen; weight decay on matrices and kernels, not on scales, biases and
    Snake's frequencies. Fused: only that kernel can skip a step by a tensor's value; see `learn`."""
    learning = [p for p in module.parameters() if p.requires_grad]
    matrices = [p for p in learning if p.numel() > p.shape[0]]
    others = [p for p in learning if p.numel() == p.shape[0]]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=rate, betas=config.betas, fused=True)


def learn(optimizer: torch.optim.Optimizer, step: Callable[[], object], skipped: Tensor) -> None:
    """Call `step` of a fused `optimizer` or of its wrapper; where `skipped` [] is 1, weights and moments stay as they
    are. The host does not wait for its value."""
    optimizer.found_inf = skipped  # type: ignore[attr-defined]
    step()


def average_decay(config: TrainConfig, step: int) -> float:
    """What the average of the weights keeps of itself at update `step`, from 0."""
    return min(config.ema_decay, (1 + step) / (_EMA_START + step))


@torch.no_grad()
def follow(state: TrainState, decay: Number, skipped: Number = 0.0) -> None:
    """Move the average of weights and codebooks towards the codec; where `skipped` is 1, it stays. `decay`: see
    `average_decay`."""
    average, current = [*state.ema.state_dict().values()], [*state.codec.state_dict().values()]
    # In this order what does not change stays as it is to the sign of a zero, which the fingerprint sees.
    changes = torch._foreach_sub(average, current)
    torch._foreach_mul_(changes, (decay - 1) * (1 - skipped))
    torch._foreach_add_(average, changes)


def schedule(config: TrainConfig, step: int) -> float:
    """The share of the peak learning rate at update `step`, from 0: a linear rise, then half a cosine down to
    `final_rate_share` at `n_steps`."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    done = min(1.0, (step - config.warmup_steps) / max(1, config.n_steps - config.warmup_steps))
    return config.final_rate_share + (1 - config.final_rate_share) * 0.5 * (1 + math.cos(math.pi * done))


def step_generator(seed: int, step: int, purpose: int) -> torch.Generator:
    """The random numbers of one purpose within one step: a function of these three."""
    return torch.Generator().manual_seed(_mixed(seed, step, purpose))


def host_generator(seed: int, step: int, purpose: int) -> np.random.Generator:
    """As `step_generator`, for numbers that Python needs: tensors have no values in a dry run."""
    return np.random.default_rng(_mixed(seed, step, purpose))


def _mixed(seed: int, step: int, purpose: int) -> int:
    return ((seed * 1_000_003 + step) * 7 + purpose) % 2**63
