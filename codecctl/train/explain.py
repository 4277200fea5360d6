"""The value and the gradient of each loss for a first batch: for setting the weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from codecctl.config.schema import Config
from codecctl.train.checkpoint import take_weights
from codecctl.train.device import make_fabric, sent
from codecctl.train.setup import assemble, fit_codebooks, open_crops
from codecctl.train.step import adversarial_losses, at_full_weight, codec_losses, plan_step


@dataclass(frozen=True)
class Explained:
    """One loss of one batch."""

    name: str
    value: float
    weight: float  # in full: that of an adversarial loss as at the end of its ramp
    share: float  # of the sum of the weighted values
    gradient_at_audio: float  # norm of the weighted loss's gradient at the decoded audio; 0: independent of it
    gradient_at_latents: float  # and at the encoder's output

    @property
    def weighted(self) -> float:
        return self.value * self.weight


def explain(config: Config, device: torch.device, start_from: Path | None = None) -> list[Explained]:
    """Each loss that has a weight, on the first batch of the run that `train` would start with the same arguments.

    Raises what `train` raises before its first step.
    """
    crops = open_crops(config)
    fabric = make_fabric(config, device)
    state, context = assemble(config, fabric)
    if start_from is None:
        fit_codebooks(state, config, crops, fabric)
    else:
        take_weights(state, start_from)
    audio = sent(crops.batch(0, config.train.batch_size), fabric.device)
    plan = plan_step(at_full_weight(state, config), [audio], context, config)
    output, semantics = context.generator(audio, plan.n_quantizers)
    losses = codec_losses(audio, output, semantics, context)
    if context.adversary is not None:
        real, decoded = audio[..., plan.stretch], output.audio[..., plan.stretch]
        losses |= adversarial_losses(real, decoded, context.adversary.discriminators, fabric)
    values = {name: float(loss.detach()) for name, loss in losses.items()}
    total = sum(values[name] * weight for name, weight in plan.weights.items())
    return [
        Explained(
            name,
            values[name],
            float(weight),
            float(values[name] * weight / total),
            _gradient_norm(losses[name] * weight, output.audio),
            _gradient_norm(losses[name] * weight, output.latents),
        )
        for name, weight in plan.weights.items()
    ]


def _gradient_norm(loss: Tensor, place: Tensor) -> float:
    """Of a loss's gradient at a place."""
    if not (loss.requires_grad and place.requires_grad):  # a part is frozen
        return 0.0
    (gradient,) = torch.autograd.grad(loss, place, retain_graph=True, allow_unused=True)
    return 0.0 if gradient is None else float(gradient.norm())
