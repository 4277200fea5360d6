"""One update of the codec."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from codecctl.config.schema import Config
from codecctl.train.losses import ReconstructionLosses, weight_of
from codecctl.train.state import TrainState, learning_rate, step_generator

_DROPOUT, _REVIVAL = 0, 1  # purposes of a step's randomness


@dataclass(frozen=True)
class StepResult:
    losses: dict[str, Tensor]  # unweighted, by name, detached
    total: Tensor  # their weighted sum
    gradient_norm: Tensor  # before clipping
    learning_rate: float
    codes: Tensor  # [B, K, T]


def train_step(state: TrainState, audio: Tensor, losses: ReconstructionLosses, config: Config) -> StepResult:
    """One update from crops [B, 1, L] on the codec's device; `state` moves one step on."""
    rate = learning_rate(config.train, state.step)
    for group in state.optimizer.param_groups:
        group["lr"] = rate
    n_quantizers = draw_n_quantizers(config, state.step, len(audio)).to(audio.device)

    with torch.autocast(audio.device.type, torch.bfloat16, enabled=config.train.precision == "bfloat16"):
        output = state.codec(audio, n_quantizers)
    values = {**losses(audio, output.audio), "commitment": output.commitment_loss.mean()}
    total = torch.stack([weight_of(config.loss, name) * value for name, value in values.items()]).sum()

    state.optimizer.zero_grad(set_to_none=True)
    total.backward()  # type: ignore[no-untyped-call]
    norm = torch.nn.utils.clip_grad_norm_(state.codec.parameters(), config.train.gradient_clip)
    state.optimizer.step()
    revival = step_generator(config.train.seed, state.step, _REVIVAL)
    state.codec.quantizer.update(output.latents.detach(), output.codes, n_quantizers, revival)
    state.step += 1
    detached = {name: value.detach() for name, value in values.items()}
    return StepResult(detached, total.detach(), norm, rate, output.codes)


def draw_n_quantizers(config: Config, step: int, batch_size: int) -> Tensor:
    """[B]: all books; for a share `quantizer_dropout` of the crops 1 to all, evenly drawn (Kumar et al. 2023, 3.2)."""
    generator = step_generator(config.train.seed, step, _DROPOUT)
    n_codebooks = config.model.n_codebooks
    drawn = torch.randint(1, n_codebooks + 1, (batch_size,), generator=generator)
    dropped = torch.rand(batch_size, generator=generator) < config.model.quantizer.quantizer_dropout
    return torch.where(dropped, drawn, n_codebooks)
