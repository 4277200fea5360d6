"""Memory and work of a training step on a card, without one: the step runs on tensors without content, and live bytes,
moved bytes and operations are counted."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace

import torch
from torch import nn

from codecctl.config.schema import Config
from codecctl.train.counting import Amount, Counter
from codecctl.train.device import make_fabric
from codecctl.train.setup import checkpoint_bytes, make_teacher, start_state, wrap
from codecctl.train.state import TrainState, follow, make_optimizer
from codecctl.train.step import StepContext, at_full_weight, gradients, plan_step
from codecctl.train.teacher import Teacher

_CPU, _META = torch.device("cpu"), torch.device("meta")
_N_CROPS = (17, 23, 29, 31, 37, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97, 101, 103)  # primes


@dataclass(frozen=True)
class Footprint:
    """What a step takes of one card, in bytes but for the operations."""

    peak: int  # all that is alive at once: what lasts, gradients, activations
    moved: int  # read and written by all operations, each by itself
    operations: int  # floating-point ones of convolutions and matrix products, backward included
    n_launched: int  # operators that launch a kernel


@dataclass(frozen=True)
class StepCost:
    """What a step takes, for whatever batch: every amount has a part for each crop."""

    peaks: list[Amount]  # bytes alive at moments, one of which has the most for whatever number of crops
    gradients: int  # bytes; from the second batch of a step on they are there from its beginning
    moved: Amount  # by a batch
    moved_after: Amount  # by the optimisers and the average, once
    operations: Amount  # of a batch
    n_launched: int  # operators of a batch, of whatever size, that launch a kernel
    n_launched_after: int

    def of(self, batch_size: int, accumulate: int = 1) -> Footprint:
        """Of a step of `accumulate` batches."""
        kept = self.gradients if accumulate > 1 else 0
        return Footprint(
            peak=max(amount.of(batch_size) for amount in self.peaks) + kept,
            moved=self.moved.of(batch_size) * accumulate + self.moved_after.of(batch_size),
            operations=self.operations.of(batch_size) * accumulate,
            n_launched=self.n_launched * accumulate + self.n_launched_after,
        )


@dataclass(frozen=True)
class Costs:
    """What the training of a config takes, whatever its batches and its card."""

    n_parameters: dict[str, int]  # by part
    teacher: str  # the source of its size; empty without one
    lasting: dict[str, int]  # bytes that stay from step to step, by part
    checkpoint_bytes: int
    early: StepCost | None  # before the discriminators learn; None: the config has none
    late: StepCost  # with adversarial losses


def measure_costs(config: Config, n_crops: int | None = None) -> Costs:
    """The costs of a config. `n_crops`: run the step with this batch; the costs then hold for it alone.

    The tensors stand for ones on the CPU: their sizes and types are those of a card, but what a kernel takes for itself
    while it runs, such as a workspace of cuDNN, is not counted.
    """
    config = config.model_copy(update={"train": config.train.model_copy(update={"compile": False})})
    with torch.device(_META):
        teacher = make_teacher(config, load=False)
        state = start_state(config, _META, teacher, steps_per_epoch=1.0)
    n_crops, n_bytes, early = n_crops or _indivisible(state), checkpoint_bytes(state), None
    with warnings.catch_warnings(), Counter(n_crops) as counter:
        warnings.filterwarnings("ignore", "Mismatch dtype between input and weight")  # which kernel a norm takes
        context = _fill(state, config, teacher)
        parts = {"codec": state.codec, "its average": state.ema, "discriminators": state.discriminators}
        lasting = {name: _bytes(module) for name, module in parts.items()}
        lasting["teacher"] = _bytes(state.semantic_head) + _bytes(teacher.module if teacher else None)
        without_moments = counter.alive.fixed
        _make_moments(state)
        lasting["moments"] = counter.alive.fixed - without_moments
        if state.discriminators is not None:
            before = replace(state, adversarial_step=state.step + config.train.adversarial.warmup_steps + 1)
            early = _step_cost(before, n_crops, context, config, counter)
        late = _step_cost(at_full_weight(state, config), n_crops, context, config, counter)
    return Costs(_n_parameters(state, teacher), teacher.origin if teacher else "", lasting, n_bytes, early, late)


def _indivisible(state: TrainState) -> int:
    """A number of crops that divides the size of no weight."""
    sizes = {tensor.numel() for module in state.modules for tensor in (*module.parameters(), *module.buffers())}
    return next(n for n in _N_CROPS if not any(size % n == 0 for size in sizes))


def _step_cost(state: TrainState, n_crops: int, context: StepContext, config: Config, counter: Counter) -> StepCost:
    once = _run_step(state, n_crops, context, config, counter)
    if not once.operations.fixed:
        return once
    # Some matrix product's size does not follow the batch: a part of the step, such as a beam search, works through the
    # batch in pieces of fixed size. Their number does follow it.
    twice = _run_step(state, 2 * n_crops, context, config, counter)
    return replace(
        once,
        moved=_line(once.moved.of(n_crops), twice.moved.of(n_crops), n_crops),
        operations=_line(once.operations.of(n_crops), twice.operations.of(n_crops), n_crops),
        n_launched=_line(once.n_launched, twice.n_launched, n_crops).fixed,  # a card takes few pieces
    )


def _line(once: int, twice: int, n_crops: int) -> Amount:
    """Through the amounts of a batch of `n_crops` and of twice as many."""
    per_crop = round((twice - once) / n_crops)
    return Amount(once - n_crops * per_crop, per_crop)


def _run_step(state: TrainState, n_crops: int, context: StepContext, config: Config, counter: Counter) -> StepCost:
    """As `train_step` with one batch, without what depends on values and is small: the codebooks' update."""
    audio = torch.zeros(n_crops, 1, config.crop_samples)
    counter.start_again()
    plan = plan_step(state, [audio], context, config)
    outputs, result = gradients(plan, [audio], context, config)
    moved, operations, n_launched = counter.moved, counter.operations, counter.n_launched
    context.optimizer.step()
    if plan.adversary is not None and plan.updates_discriminators:
        plan.adversary.optimizer.step()
    follow(state, plan.decay)
    del outputs, result
    kept = sum(p.nbytes for module in state.modules for p in module.parameters() if p.grad is not None)
    n_after = counter.n_launched - n_launched
    return StepCost(counter.peaks, kept, moved, counter.moved - moved, operations, n_launched, n_after)


def _fill(state: TrainState, config: Config, teacher: Teacher | None) -> StepContext:
    """Give the state of the meta device tensors that count, and the optimisers that a card has."""
    for module in (*state.modules, *([teacher.module] if teacher else [])):
        module.to_empty(device=_CPU)
    settings = config.train
    state.optimizer = make_optimizer(state.generator, settings, settings.learning_rate)
    if state.discriminators is not None:
        rate = settings.adversarial.learning_rate
        state.discriminator_optimizer = make_optimizer(state.discriminators, settings, rate)
    return wrap(state, teacher, config, make_fabric(config, _CPU))


def _make_moments(state: TrainState) -> None:
    """As after a first step: AdamW makes its moments when it is asked for one."""
    for optimizer in state.optimizers:
        for parameter in (p for group in optimizer.param_groups for p in group["params"]):
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        optimizer.zero_grad()


def _bytes(module: nn.Module | None) -> int:
    return sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers())) if module is not None else 0


def _n_parameters(state: TrainState, teacher: Teacher | None) -> dict[str, int]:
    parts: dict[str, nn.Module | None] = {
        "encoder": state.codec.encoder,
        "decoder": state.codec.decoder,
        "discriminators": state.discriminators,
        "projection to the teacher": state.semantic_head,
        "teacher": teacher.module if teacher else None,
    }
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items() if part is not None}
    model = state.codec.config
    codebooks = sum(model.quantizer.codebook_sizes) * model.latent_width
    return {"codec": counts["encoder"] + counts["decoder"], **counts, "codebooks": codebooks}
