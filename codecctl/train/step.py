"""One update of the codec and, when their time has come, of the discriminators."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from lightning_fabric import Fabric
from lightning_fabric.wrappers import _FabricModule, _FabricOptimizer
from torch import Tensor, nn

from codecctl.config.schema import Config
from codecctl.errors import ConfigError
from codecctl.model.codec import Codec
from codecctl.model.fronts import FRONTS
from codecctl.model.transformer import TransformerLayer
from codecctl.train.agreement import largest_on_device
from codecctl.train.device import check_compiler, pinned, sent
from codecctl.train.discriminators import (
    Discriminators,
    Judgement,
    adversarial_loss,
    discriminator_loss,
    feature_loss,
    frozen,
)
from codecctl.train.generator import Generated
from codecctl.train.losses import ReconstructionLosses
from codecctl.train.state import TrainState, follow, host_generator, learn, schedule, step_generator
from codecctl.train.teacher import Teacher, semantic_loss
from codecctl.train.timer import BACKWARD, DISCRIMINATORS, backward_part, part

_DROPOUT, _REVIVAL, _STRETCH = range(3)  # purposes of a step's randomness
_ADVERSARIAL = {"adversarial", "feature"}
_N_PARTS = 256  # that may be compiled of one class: each width and dilation is one of its own
_THEIR_OWN = "discriminator"  # what the discriminators minimise, without a weight


@dataclass(frozen=True)
class Adversary:
    """The discriminators as they learn and, unwrapped, as the codec hears them."""

    discriminators: Discriminators
    wrapped: _FabricModule
    optimizer: _FabricOptimizer


@dataclass(frozen=True)
class Machinery:
    """What carries a `TrainState` over the devices, and what judges it; nothing here is saved."""

    fabric: Fabric
    generator: _FabricModule
    optimizer: _FabricOptimizer
    adversary: Adversary | None
    losses: ReconstructionLosses
    teacher: Teacher | None


def assemble(state: TrainState, config: Config, fabric: Fabric, teacher: Teacher | None) -> Machinery:
    """The state's networks and optimisers, which lie on the device already, wrapped for the devices of `fabric`.

    Raises `CodecctlError` if something is to be compiled and this machine has no compiler.
    """
    if config.train.compile:
        compile_parts(state.codec)
    if config.train.compile or fabric.device.type == "cuda":
        check_compiler(fabric.device)
    generator, optimizer = fabric.setup(state.generator, state.optimizer, move_to_device=False)
    adversary = None
    if state.discriminators is not None and state.discriminator_optimizer is not None:
        wrapped = fabric.setup(state.discriminators, state.discriminator_optimizer, move_to_device=False)
        adversary = Adversary(state.discriminators, *wrapped)
    losses = ReconstructionLosses(config.loss, config.model.sample_rate, config.model.hop_length).to(fabric.device)
    return Machinery(fabric, generator, optimizer, adversary, losses, teacher and teacher.to(fabric.device))


def compile_parts(codec: Codec) -> None:
    """Compile each unit of the front and each transformer layer in place, when it is first called.

    Never whole networks: torch has faults in the backward pass of weight-normed `Conv2d` above 64 channels
    (pytorch#165749) and in padding before an STFT (pytorch#179807).
    """
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _N_PARTS)
    compiled = (*FRONTS[codec.config.front.kind].compiled, TransformerLayer)
    for module in codec.modules():
        if isinstance(module, compiled):
            module.compile(dynamic=False)  # crops have one length


@dataclass(frozen=True)
class StepResult:
    losses: dict[str, Tensor]  # unweighted, by name, detached; the discriminators' own is `discriminator`
    weights: dict[str, float]  # in force at this step, of the losses that the codec minimises
    gradient_norm: Tensor  # before clipping
    discriminator_gradient_norm: Tensor | None
    learning_rate: float
    codes: Tensor  # [B, K, T]
    skipped: Tensor  # [] 1.0 if the gradient was not finite and nothing has learned, else 0.0

    @property
    def total(self) -> Tensor:
        """What the codec minimises."""
        return torch.stack([self.losses[name] * weight for name, weight in self.weights.items()]).sum()


@dataclass(frozen=True)
class Gradients:
    """What a step is about to learn."""

    outputs: list[Generated]  # of each batch
    losses: dict[str, Tensor]  # as in `StepResult`
    weights: dict[str, float]
    n_quantizers: Tensor  # [B] of all batches, on the device
    norm: Tensor  # before clipping
    discriminator_norm: Tensor | None  # None in a step in which they do not learn

    @property
    def finite(self) -> Tensor:
        """[] bool. After the ranks have shared their gradients the norms are the same on all."""
        norms = [norm for norm in (self.norm, self.discriminator_norm) if norm is not None]
        return torch.stack(norms).isfinite().all()


@part("other")
def train_step(state: TrainState, batches: Sequence[Tensor], machine: Machinery, config: Config) -> StepResult:
    """One update from crops, each [B, 1, L] on the device; their gradients add up. `state` moves one step on.

    The host reads no value from the device: whether to skip the step is decided there.
    """
    rate = _set_rates(state, config)
    found = gradients(state, batches, machine, config)
    codes = torch.cat([output.codes for output in found.outputs])
    skipped = largest_on_device(machine.fabric, (~found.finite).float())
    with part("optimisers"):
        learn(state.optimizer, machine.optimizer.step, skipped)
        if machine.adversary is not None and found.discriminator_norm is not None:
            assert state.discriminator_optimizer is not None
            learn(state.discriminator_optimizer, machine.adversary.optimizer.step, skipped)
    if "quantizer" not in config.train.freeze:
        latents = torch.cat([output.latents.detach() for output in found.outputs])
        revival = step_generator(config.train.seed, state.step, _REVIVAL)
        with part("codebooks"):
            state.codec.quantizer.update(latents, codes, found.n_quantizers, revival, skipped)
    with part("optimisers"):
        follow(state, config.train.ema_decay, skipped)
    state.step += 1
    return StepResult(found.losses, found.weights, found.norm, found.discriminator_norm, rate, codes, skipped)


def gradients(state: TrainState, batches: Sequence[Tensor], machine: Machinery, config: Config) -> Gradients:
    """The gradients of one step, clipped, in place of any that were there. Nothing else of `state` changes."""
    weights = loss_weights(config, state.step, state.adversarial_step)
    device = batches[0].device
    drawn = draw_n_quantizers(config, state.step, len(batches) * len(batches[0]), machine.fabric)
    n_quantizers = sent(pinned(drawn, device), device)
    outputs, values = [], []
    n_taught = state.step - first_discriminator_step(state, config)
    adversary = machine.adversary if n_taught >= 0 else None
    teaches = n_taught % config.train.adversarial.teach_every == 0
    heard = draw_heard(config, state.step, batches[0].shape[-1])
    machine.optimizer.zero_grad()
    if adversary is not None:
        adversary.optimizer.zero_grad()
    for i, (audio, n) in enumerate(zip(batches, n_quantizers.chunk(len(batches)), strict=True)):
        is_last = i + 1 == len(batches)
        output, losses = _backward(
            audio, n, weights, machine, adversary, teaches, heard, config, 1 / len(batches), is_last
        )
        outputs.append(output)
        values.append(losses)

    norm = _clip(state.generator, config)
    discriminator_norm = _clip(adversary.discriminators, config) if adversary is not None and teaches else None
    mean = {name: torch.stack([losses[name].detach() for losses in values]).mean() for name in values[0]}
    return Gradients(outputs, mean, weights, n_quantizers, norm, discriminator_norm)


def fully_on(state: TrainState, config: Config) -> TrainState:
    """The same networks at a time when the codec hears the discriminators, if there are any, at full weight."""
    return replace(state, adversarial_step=state.step - config.train.adversarial.ramp_steps)


@part("optimisers")
def _clip(module: nn.Module, config: Config) -> Tensor:
    """The norm of the gradient before it was clipped."""
    return nn.utils.clip_grad_norm_(module.parameters(), config.train.gradient_clip)


def loss_weights(config: Config, step: int, adversarial_step: int) -> dict[str, float]:
    """The weight of each loss that counts at this step; the adversaries' rise along their ramp."""
    weights = {name: value for name, value in config.loss.weights.items() if value}
    ramp = (step + 1 - adversarial_step) / max(1, config.train.adversarial.ramp_steps)
    for name in _ADVERSARIAL & weights.keys():
        weights[name] *= min(1.0, ramp)
    return {name: weight for name, weight in weights.items() if weight > 0}


def draw_n_quantizers(config: Config, step: int, batch_size: int, fabric: Fabric) -> Tensor:
    """[B] for this rank: all books; for a share `quantizer_dropout` of the crops 1 to all, evenly drawn (Kumar et al.
    2023, 3.2). Drawn for all ranks at once: two ranks of half the crops see what one rank would."""
    generator = step_generator(config.train.seed, step, _DROPOUT)
    n_codebooks, n_crops = config.model.n_codebooks, batch_size * fabric.world_size
    drawn = torch.randint(1, n_codebooks + 1, (n_crops,), generator=generator)
    dropped = torch.rand(n_crops, generator=generator) < config.model.quantizer.quantizer_dropout
    return torch.where(dropped, drawn, n_codebooks).chunk(fabric.world_size)[fabric.global_rank]


def draw_heard(config: Config, step: int, n_samples: int) -> slice:
    """What the discriminators hear of crops of `n_samples`, a stretch that may begin anywhere: transformers want long
    crops, discriminators see tenths of a second at a time, and those of a small codec cost more than it does."""
    seconds = config.train.adversarial.heard_seconds
    if seconds is None:
        return slice(0, n_samples)
    n_heard = min(round(seconds * config.model.sample_rate), n_samples)
    start = int(host_generator(config.train.seed, step, _STRETCH).integers(n_samples - n_heard + 1))
    return slice(start, start + n_heard)


def _set_rates(state: TrainState, config: Config) -> float:
    """Both learning rates of this step; returns the generator's."""
    share = schedule(config.train, state.step) * state.rate_factor
    rate = config.train.learning_rate * share
    for group in state.optimizer.param_groups:
        group["lr"] = rate
    if state.discriminator_optimizer is not None:
        for group in state.discriminator_optimizer.param_groups:
            group["lr"] = config.train.adversarial.learning_rate * share
    return rate


def _backward(
    audio: Tensor,
    n_quantizers: Tensor,
    weights: dict[str, float],
    machine: Machinery,
    adversary: Adversary | None,
    teaches: bool,
    heard: slice,
    config: Config,
    share: float,
    is_last: bool,
) -> tuple[Generated, dict[str, Tensor]]:
    """Add the gradients of some crops, times `share`, to both networks; the losses are unweighted. Ranks share their
    gradients when `is_last`."""
    fabric = machine.fabric
    with fabric.no_backward_sync(machine.generator, enabled=not is_last):
        with part("generator forward"):
            output = Generated(*machine.generator(audio, n_quantizers))
        losses = judge(audio, output, machine, config)
        if adversary is not None:
            real, decoded = audio[..., heard], output.audio[..., heard]
            judged = None
            if teaches:
                with fabric.no_backward_sync(adversary.wrapped, enabled=not is_last):
                    losses[_THEIR_OWN], judged = _teach(real, decoded, adversary.wrapped, fabric, share)
            if _ADVERSARIAL & weights.keys():
                losses |= hear(real, decoded, adversary.discriminators, fabric, judged)
        check_weights(losses, weights, config)
        total = torch.stack([losses[name] * weight for name, weight in weights.items()]).sum()
        with part(BACKWARD):
            fabric.backward(total * share)
    return output, losses


@part("losses")
def judge(audio: Tensor, output: Generated, machine: Machinery, config: Config) -> dict[str, Tensor]:
    """The unweighted losses by name, but for those that need the discriminators."""
    losses = {**machine.losses(audio, output.audio), "commitment": output.commitment_loss.mean()}
    if machine.teacher is not None and output.semantics is not None:
        with machine.fabric.autocast():
            target = machine.teacher(audio)
        losses["semantic"] = semantic_loss(output.semantics, target)
    return losses


def check_weights(losses: Iterable[str], weights: Iterable[str], config: Config) -> None:
    """Raises `ConfigError` for a loss that the config has no weight for, and for a weight in force that has no loss."""
    for name in set(losses) - config.loss.weights.keys() - {_THEIR_OWN}:
        raise ConfigError(f"loss.{name}_weight: there is no such key, so the loss '{name}' would teach nothing; add it")
    for name in set(weights) - set(losses):
        raise ConfigError(f"loss.{name}_weight: {config.loss.weights[name]:g}, but nothing here computes that loss")


def first_discriminator_step(state: TrainState, config: Config) -> int:
    """Where the discriminators begin to learn: `warmup_steps` before the codec hears them."""
    return state.adversarial_step - config.train.adversarial.warmup_steps


@part(DISCRIMINATORS)
def _teach(
    audio: Tensor, decoded: Tensor, discriminators: nn.Module, fabric: Fabric, share: float
) -> tuple[Tensor, list[Judgement]]:
    """Add their gradient, from decoded audio that hands none on to the codec. Returns their loss, and what they make of
    the real audio: the same for `hear`, since their optimiser steps later."""
    real = discriminators(audio)
    loss = discriminator_loss(real, discriminators(decoded.detach()))
    fabric.backward(loss * share)
    return loss, real


@part(DISCRIMINATORS)
def hear(
    audio: Tensor,
    decoded: Tensor,
    discriminators: Discriminators,
    fabric: Fabric,
    real: list[Judgement] | None = None,
) -> dict[str, Tensor]:
    """The unweighted losses that need the discriminators, whose parameters are frozen meanwhile: nothing of the codec's
    gradient stays in them. `real`: what they make of the real audio; None: computed here."""
    with frozen(discriminators), fabric.autocast():
        if real is None:
            with torch.no_grad():
                real = discriminators(audio)
        fake = discriminators(decoded)
    losses = {"adversarial": adversarial_loss(fake), "feature": feature_loss(real, fake)}
    backward_part(DISCRIMINATORS, decoded, losses.values())
    return losses
