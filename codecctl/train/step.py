"""One update of the codec and, from their start on, of the discriminators."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

import torch
from lightning_fabric import Fabric
from lightning_fabric.wrappers import _FabricModule, _FabricOptimizer
from torch import Tensor, nn

from codecctl.config.schema import Config
from codecctl.train.device import pinned, sent
from codecctl.train.discriminators import (
    Discriminators,
    Judgement,
    adversarial_loss,
    discriminator_loss,
    feature_loss,
    frozen,
)
from codecctl.train.launch import largest_on_device
from codecctl.train.state import (
    Number,
    TrainState,
    average_decay,
    follow,
    host_generator,
    learn,
    schedule,
    step_generator,
)
from codecctl.train.teacher import Teacher, semantic_loss
from codecctl.train.timer import BACKWARD, DISCRIMINATORS, backward_part, part

if TYPE_CHECKING:
    from codecctl.model.codec import CodecOutput
    from codecctl.train.graphs import StepGraphs
    from codecctl.train.losses import ReconstructionLosses

_DROPOUT, _REVIVAL, _STRETCH = range(3)  # purposes of a step's randomness
_ADVERSARIAL = {"adversarial", "feature"}
_DISCRIMINATOR_LOSS = "discriminator"  # minimised by the discriminators, without a weight


@dataclass(frozen=True)
class Adversary:
    """The discriminators, plain for the codec's losses and wrapped for their own update."""

    discriminators: Discriminators
    wrapped: _FabricModule
    optimizer: _FabricOptimizer


@dataclass(frozen=True)
class StepContext:
    """Fabric's wrappers, the losses and the teacher that steps use. Not saved in checkpoints."""

    fabric: Fabric
    generator: _FabricModule
    optimizer: _FabricOptimizer
    adversary: Adversary | None
    losses: ReconstructionLosses
    teacher: Teacher | None
    graphs: StepGraphs | None = None  # None: each step is launched kernel by kernel


@dataclass(frozen=True)
class StepPlan:
    """What is decided and drawn before a step: a function of the config, the seed and the step."""

    weights: Mapping[str, Number]  # of the losses that the codec minimises
    learning_rate: Number
    discriminator_learning_rate: Number
    decay: Number  # of the average of the weights
    n_quantizers: Tensor  # [B] of this rank's crops, on the device
    adversary: Adversary | None  # None before the discriminators' first step
    updates_discriminators: bool
    stretch: slice | Tensor  # samples of each crop that the discriminators get; a tensor has the index [n] of each
    orders: Sequence[Tensor] = ()  # for the codebooks' update, on the device; empty: they are frozen


@dataclass(frozen=True)
class StepResult:
    losses: dict[str, Tensor]  # unweighted, by name, detached; the discriminators' own is `discriminator`
    weights: Mapping[str, float]  # in force at this step, of the losses that the codec minimises
    gradient_norm: Tensor  # before clipping
    discriminator_gradient_norm: Tensor | None  # None in a step that does not update them
    learning_rate: float
    codes: Tensor  # [B, K, T]
    skipped: Tensor  # [] 1.0 if the gradient of any rank was not finite: nothing is updated; else 0.0

    @property
    def total(self) -> Tensor:
        """What the codec minimises."""
        return _total(self.losses, self.weights)


def train_step(state: TrainState, batches: Sequence[Tensor], context: StepContext, config: Config) -> StepResult:
    """One update from crops, each [B, 1, L] on the device; their gradients add up. `state` moves one step on.

    The host reads no value from the device: whether to skip the step is decided there.
    """
    plan = plan_step(state, batches, context, config)
    if "quantizer" not in config.train.freeze:
        n_vectors = sum(len(batch) for batch in batches) * state.codec.n_frames(batches[0].shape[-1])
        generator = step_generator(config.train.seed, state.step, _REVIVAL)
        plan = replace(plan, orders=state.codec.quantizer.draw_orders(n_vectors, generator, batches[0].device))
    if context.graphs is None:
        result = update(state, plan, batches, context, config)
    else:
        result = context.graphs.step(
            state, plan, batches, lambda plan, batches: update(state, plan, batches, context, config)
        )
    state.step += 1
    return result


@part("other")
def update(
    state: TrainState, plan: StepPlan, batches: Sequence[Tensor], context: StepContext, config: Config
) -> StepResult:
    """What the device does in a step. All that differs from step to step is in `plan` and `batches`."""
    rates = (plan.learning_rate, plan.discriminator_learning_rate)
    for optimizer, rate in zip(state.optimizers, rates, strict=False):
        for group in optimizer.param_groups:
            group["lr"] = rate
    outputs, result = gradients(plan, batches, context, config)
    with part("optimisers"):
        learn(state.optimizer, context.optimizer.step, result.skipped)
        if plan.adversary is not None and plan.updates_discriminators:
            assert state.discriminator_optimizer is not None
            learn(state.discriminator_optimizer, plan.adversary.optimizer.step, result.skipped)
    if plan.orders:
        latents = torch.cat([output.latents.detach() for output in outputs])
        with part("codebooks"):
            state.codec.quantizer.update(latents, result.codes, plan.n_quantizers, plan.orders, result.skipped)
    with part("optimisers"):
        follow(state, plan.decay, result.skipped)
    return result


def plan_step(state: TrainState, batches: Sequence[Tensor], context: StepContext, config: Config) -> StepPlan:
    """The plan of the state's next step, from batches [B, 1, L]."""
    settings, device = config.train, batches[0].device
    drawn = draw_n_quantizers(config, state.step, len(batches) * len(batches[0]), context.fabric)
    n_updates = state.step - (state.adversarial_step - settings.adversarial.warmup_steps)  # of the discriminators
    share = schedule(settings, state.step) * state.rate_factor
    return StepPlan(
        weights=loss_weights(config, state.step, state.adversarial_step),
        learning_rate=settings.learning_rate * share,
        discriminator_learning_rate=settings.adversarial.learning_rate * share,
        decay=average_decay(settings, state.step),
        n_quantizers=sent(pinned(drawn, device), device),
        adversary=context.adversary if n_updates >= 0 else None,
        updates_discriminators=n_updates % settings.adversarial.teach_every == 0,
        stretch=draw_stretch(config, state.step, batches[0].shape[-1]),
    )


def gradients(
    plan: StepPlan, batches: Sequence[Tensor], context: StepContext, config: Config
) -> tuple[list[CodecOutput], StepResult]:
    """Compute the clipped gradients of one step, in place of any that were there; nothing else changes.

    Returns the output for each batch and the step's result.
    """
    outputs, losses = [], []
    zero_gradients(context)
    for i, (audio, n) in enumerate(zip(batches, plan.n_quantizers.chunk(len(batches)), strict=True)):
        output, values = _backward(audio, n, plan, context, 1 / len(batches), is_last=i + 1 == len(batches))
        outputs.append(output)
        losses.append(values)
    norms = [_clip(context.generator, config)]
    if plan.adversary is not None and plan.updates_discriminators:
        norms.append(_clip(plan.adversary.discriminators, config))
    # After the ranks have shared their gradients the norms are the same on all; not so where one rank has no finite
    # loss.
    is_finite = torch.stack(norms).isfinite().all()
    return outputs, StepResult(
        losses={name: torch.stack([each[name].detach() for each in losses]).mean() for name in losses[0]},
        weights=cast(Mapping[str, float], plan.weights),  # tensors only in a recorded step, see `StepGraphs`
        gradient_norm=norms[0],
        discriminator_gradient_norm=norms[1] if len(norms) > 1 else None,
        learning_rate=cast(float, plan.learning_rate),
        codes=torch.cat([output.codes for output in outputs]),
        skipped=largest_on_device(context.fabric, (~is_finite).float()),
    )


def zero_gradients(context: StepContext) -> None:
    context.optimizer.zero_grad()
    if context.adversary is not None:
        context.adversary.optimizer.zero_grad()


def at_full_weight(state: TrainState, config: Config) -> TrainState:
    """The same networks in a step that updates the discriminators, if there are any, when their losses have their full
    weight."""
    settings = config.train.adversarial
    n_updates = math.ceil((settings.ramp_steps + settings.warmup_steps) / settings.teach_every) * settings.teach_every
    return replace(state, adversarial_step=state.step + settings.warmup_steps - n_updates)


def loss_weights(config: Config, step: int, adversarial_step: int) -> dict[str, float]:
    """The weight of each loss that counts at this step; the adversarial ones rise along their ramp."""
    weights = {name: value for name, value in config.loss.weights.items() if value}
    ramp = (step + 1 - adversarial_step) / max(1, config.train.adversarial.ramp_steps)
    for name in _ADVERSARIAL & weights.keys():
        weights[name] *= min(1.0, ramp)
    return {name: weight for name, weight in weights.items() if weight > 0}


def draw_n_quantizers(config: Config, step: int, batch_size: int, fabric: Fabric) -> Tensor:
    """[B] for this rank: all codebooks; for a share `quantizer_dropout` of the crops 1 to all, evenly drawn (Kumar et
    al. 2023, 3.2). Drawn for all ranks at once: two ranks of half the crops draw what one rank would."""
    generator = step_generator(config.train.seed, step, _DROPOUT)
    n_codebooks, n_crops = config.model.n_codebooks, batch_size * fabric.world_size
    drawn = torch.randint(1, n_codebooks + 1, (n_crops,), generator=generator)
    dropped = torch.rand(n_crops, generator=generator) < config.model.quantizer.quantizer_dropout
    return torch.where(dropped, drawn, n_codebooks).chunk(fabric.world_size)[fabric.global_rank]


def draw_stretch(config: Config, step: int, n_samples: int) -> slice:
    """The samples of crops of `n_samples` that the discriminators get; may begin anywhere. Transformers need long
    crops; discriminators see tenths of a second at a time and cost more than a small codec."""
    seconds = config.train.adversarial.heard_seconds
    if seconds is None:
        return slice(0, n_samples)
    n_stretch = min(round(seconds * config.model.sample_rate), n_samples)
    start = int(host_generator(config.train.seed, step, _STRETCH).integers(n_samples - n_stretch + 1))
    return slice(start, start + n_stretch)


@part("losses")
def codec_losses(
    audio: Tensor, output: CodecOutput, semantics: Tensor | None, context: StepContext
) -> dict[str, Tensor]:
    """The unweighted losses by name, but for those that need the discriminators."""
    losses = {**context.losses(audio, output.audio), "commitment": output.commitment_loss.mean()}
    if context.teacher is not None and semantics is not None:
        with context.fabric.autocast():
            target = context.teacher(audio)
        losses["semantic"] = semantic_loss(semantics, target)
    return losses


@part(DISCRIMINATORS)
def adversarial_losses(
    audio: Tensor,
    decoded: Tensor,
    discriminators: Discriminators,
    fabric: Fabric,
    real: list[Judgement] | None = None,
) -> dict[str, Tensor]:
    """The unweighted losses that need the discriminators. Their parameters are frozen meanwhile and get no gradient.
    `real`: the judgements of the real audio; None: computed here."""
    with frozen(discriminators), fabric.autocast():
        if real is None:
            with torch.no_grad():
                real = discriminators(audio)
        fake = discriminators(decoded)
    losses = {"adversarial": adversarial_loss(fake), "feature": feature_loss(real, fake)}
    backward_part(DISCRIMINATORS, decoded, losses.values())
    return losses


def _backward(
    audio: Tensor, n_quantizers: Tensor, plan: StepPlan, context: StepContext, share: float, *, is_last: bool
) -> tuple[CodecOutput, dict[str, Tensor]]:
    """Add the gradients of some crops, times `share`, to both networks; the losses are unweighted. Ranks share their
    gradients when `is_last`."""
    fabric, adversary = context.fabric, plan.adversary
    with fabric.no_backward_sync(context.generator, enabled=not is_last):
        with part("generator forward"):
            output, semantics = context.generator(audio, n_quantizers)
        losses = codec_losses(audio, output, semantics, context)
        if adversary is not None:
            real, decoded, judged = _cut(audio, plan.stretch), _cut(output.audio, plan.stretch), None
            if plan.updates_discriminators:
                with fabric.no_backward_sync(adversary.wrapped, enabled=not is_last):
                    losses[_DISCRIMINATOR_LOSS], judged = _backward_discriminators(
                        real, decoded, adversary.wrapped, fabric, share
                    )
            if _ADVERSARIAL & plan.weights.keys():
                losses |= adversarial_losses(real, decoded, adversary.discriminators, fabric, judged)
        with part(BACKWARD):
            fabric.backward(_total(losses, plan.weights) * share)
    return output, losses


@part(DISCRIMINATORS)
def _backward_discriminators(
    audio: Tensor, decoded: Tensor, discriminators: nn.Module, fabric: Fabric, share: float
) -> tuple[Tensor, list[Judgement]]:
    """Add the discriminators' gradient; the decoded audio is detached. Returns their loss, and the judgements of the
    real audio: `adversarial_losses` can use them, as the discriminators are updated after it."""
    # Both at once: the host launches half of the kernels.
    judged = [both.halves() for both in discriminators(torch.cat([audio, decoded.detach()]))]
    real = [first for first, _ in judged]
    loss = discriminator_loss(real, [second for _, second in judged])
    fabric.backward(loss * share)
    return loss, real


def _cut(audio: Tensor, stretch: slice | Tensor) -> Tensor:
    return audio.index_select(-1, stretch) if isinstance(stretch, Tensor) else audio[..., stretch]


def _total(losses: Mapping[str, Tensor], weights: Mapping[str, Number]) -> Tensor:
    return torch.stack([losses[name] * weight for name, weight in weights.items()]).sum()


@part("optimisers")
def _clip(module: nn.Module, config: Config) -> Tensor:
    """Clip the gradient; returns its norm before."""
    return nn.utils.clip_grad_norm_(module.parameters(), config.train.gradient_clip)
