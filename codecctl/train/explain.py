"""What each loss says of a first batch, and how hard it pulls: for whoever sets the weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from codecctl.config import Config
from codecctl.train.checkpoint import take_weights
from codecctl.train.device import make_fabric, sent
from codecctl.train.generator import Generated
from codecctl.train.loop import open_crops, start_codebooks
from codecctl.train.state import TrainState, start_state
from codecctl.train.step import (
    Machinery,
    assemble,
    check_weights,
    draw_heard,
    draw_n_quantizers,
    fully_on,
    hear,
    judge,
    loss_weights,
)
from codecctl.train.teacher import SemanticHead, Teacher


@dataclass(frozen=True)
class Explained:
    """One loss of one batch."""

    name: str
    value: float
    weight: float  # in full: that of an adversarial loss as at the end of its ramp
    share: float  # of the sum of the weighted values
    gradient_at_audio: float  # norm of the weighted loss's gradient at the decoded audio; 0: it does not look there
    gradient_at_latents: float  # and at the encoder's output

    @property
    def weighted(self) -> float:
        return self.value * self.weight


def explain(config: Config, device: torch.device, start_from: Path | None = None) -> list[Explained]:
    """Each loss that has a weight, on the first batch of the run that `train` would start with the same arguments.

    Raises what `train` raises before its first step; `ConfigError` if a loss has no weight or a weight no loss.
    """
    crops = open_crops(config)
    fabric = make_fabric(config, device)
    teacher = Teacher.load(config.train.semantic, config.model) if config.loss.semantic_weight else None
    head = SemanticHead(config.model.latent_width, teacher.width) if teacher else None
    state = start_state(config, fabric.device, head, steps_per_epoch=1)
    machine = assemble(state, config, fabric, teacher)
    if start_from is None:
        start_codebooks(state, config, crops, fabric)
    else:
        take_weights(state, start_from, config.train.freeze)
    audio = sent(crops.batch(0, config.train.batch_size), fabric.device)
    return explain_batch(fully_on(state, config), machine, config, audio)


def explain_batch(state: TrainState, machine: Machinery, config: Config, audio: Tensor) -> list[Explained]:
    """The same for any crops [B, 1, L] and any state; nothing learns."""
    n_quantizers = draw_n_quantizers(config, state.step, len(audio), machine.fabric).to(audio.device)
    output = Generated(*machine.generator(audio, n_quantizers))
    losses = judge(audio, output, machine, config)
    if machine.adversary is not None:
        heard = draw_heard(config, state.step, audio.shape[-1])
        losses |= hear(audio[..., heard], output.audio[..., heard], machine.adversary.discriminators, machine.fabric)
    weights = loss_weights(config, state.step, state.adversarial_step)
    check_weights(losses, weights, config)
    values = {name: float(loss.detach()) for name, loss in losses.items()}
    total = sum(values[name] * weight for name, weight in weights.items())
    return [
        Explained(name, values[name], weight, values[name] * weight / total, *_pull(losses[name] * weight, output))
        for name, weight in weights.items()
    ]


def _pull(loss: Tensor, output: Generated) -> list[float]:
    """Norms of a loss's gradients at the decoded audio and at the latents."""
    return [_gradient_norm(loss, place) for place in (output.audio, output.latents)]


def _gradient_norm(loss: Tensor, place: Tensor) -> float:
    if not (loss.requires_grad and place.requires_grad):  # a part is frozen
        return 0.0
    (gradient,) = torch.autograd.grad(loss, place, retain_graph=True, allow_unused=True)
    return 0.0 if gradient is None else float(gradient.norm())
