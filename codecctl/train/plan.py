"""What a run will take, before anything is rented: size, memory, time, money and disk, from the config alone."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from codecctl.config import Config
from codecctl.config.schema import GpuConfig, TrainConfig
from codecctl.errors import CodecctlError
from codecctl.train.loop import crop_samples, open_crops
from codecctl.train.memory import Footprint, footprint
from codecctl.train.preflight import checkpoint_bytes, n_files
from codecctl.train.state import TrainState, start_state
from codecctl.train.teacher import SemanticHead, Teacher

# Assumptions, each of which only a card can prove wrong.
_CONTEXT = 1e9  # bytes for the driver and its libraries
_PATCHY = 1.1  # what the allocator holds for each byte in use, workspaces of kernels among it
_SHARE_OF_OPERATIONS = 0.5  # of the card's peak, while it multiplies
_SHARE_OF_BANDWIDTH = 0.8  # of the card's peak, while it moves


@dataclass(frozen=True)
class Plan:
    """A run of `n_cards` alike, up to `n_steps`; all but the sizes is an estimate."""

    config: Config
    n_cards: int
    n_steps: int
    n_parameters: dict[str, int]  # by part
    teacher: str  # what its size was taken from; empty without one
    step: Footprint  # with the discriminators, if the config has any
    early_step: Footprint | None  # before them
    largest_batch: int | None  # that fits into the card; 0: not even one crop does; None: no card was named
    steps_per_epoch: float | None  # None: the prepared data is not there
    no_data: str  # why
    checkpoint_bytes: int

    @property
    def card(self) -> GpuConfig | None:
        return self.config.train.gpu

    @property
    def memory(self) -> float:
        """Bytes that a card must have for the configured batch."""
        return _needed(self.step, self.n_cards)

    @property
    def fits(self) -> bool:
        return self.card is not None and self.memory <= self.card.memory_gb * 1e9

    @property
    def adversarial_step(self) -> int | None:
        """Where the codec begins to hear the discriminators; None: never, or unknown without the data."""
        if self.early_step is None or self.steps_per_epoch is None:
            return None
        return round(min(self.config.train.adversarial.start_epoch * self.steps_per_epoch, self.config.train.n_steps))

    @property
    def hours(self) -> float | None:
        """None: the card's speed is not in its profile."""
        late, early = self.seconds(self.step), self.seconds(self.early_step or self.step)
        if late is None or early is None:
            return None
        n_early = max(0, (self.adversarial_step or 0) - self.config.train.adversarial.warmup_steps)
        n_early = min(n_early, self.n_steps)
        return (n_early * sum(early) + (self.n_steps - n_early) * sum(late)) / 3600

    @property
    def cost_usd(self) -> float | None:
        return (
            None
            if self.hours is None or self.card is None
            else self.hours * self.card.price_per_hour_usd * self.n_cards
        )

    def seconds(self, step: Footprint) -> tuple[float, float] | None:
        """Of one step on the card: multiplying, and moving."""
        card, precision = self.card, self.config.train.precision
        if card is None or card.peak_tflops is None or card.bandwidth_gb_per_second is None:
            return None
        operations_per_second = card.peak_tflops * 1e12 * (1.0 if precision == "bfloat16" else 0.5)  # else TF32
        bytes_per_second = card.bandwidth_gb_per_second * 1e9
        return (
            step.operations / (operations_per_second * _SHARE_OF_OPERATIONS),
            step.moved / (bytes_per_second * _SHARE_OF_BANDWIDTH),
        )


def make_plan(config: Config, n_steps: int | None = None, n_cards: int = 1) -> Plan:
    """The plan of a run up to `n_steps` (None: `train.n_steps`). Needs neither a card nor the data nor the teacher."""
    with torch.device("meta"):
        teacher = Teacher.without_weights(config.train.semantic) if config.loss.semantic_weight else None
        head = SemanticHead(config.model.latent_width, teacher.width) if teacher else None
        state = start_state(config, torch.device("meta"), head, steps_per_epoch=1)
    steps_per_epoch, no_data = _steps_per_epoch(config, n_cards)
    step = footprint(config)
    return Plan(
        config=config,
        n_cards=n_cards,
        n_steps=n_steps or config.train.n_steps,
        n_parameters=_n_parameters(state, teacher),
        teacher=teacher.origin if teacher else "",
        step=step,
        early_step=footprint(config, adversarial=False) if config.loss.is_adversarial else None,
        largest_batch=_largest_batch(config, step, n_cards) if config.train.gpu else None,
        steps_per_epoch=steps_per_epoch,
        no_data=no_data,
        checkpoint_bytes=checkpoint_bytes(state),
    )


def describe(plan: Plan) -> dict[str, str]:
    """The plan in words, a line for each subject."""
    return {
        **_size_in_words(plan),
        **_step_in_words(plan),
        **_memory_in_words(plan),
        **_fit_in_words(plan),
        "epoch": f"{plan.steps_per_epoch:,.0f} steps" if plan.steps_per_epoch else f"unknown: {plan.no_data}",
        "adversaries": _adversaries_in_words(plan),
        **_time_in_words(plan),
        "disk": _disk_in_words(plan),
    }


def _needed(step: Footprint, n_cards: int) -> float:
    shared = step.gradients if n_cards > 1 else 0  # what is on its way between the cards
    return (step.peak + shared) * _PATCHY + _CONTEXT


def _largest_batch(config: Config, first: Footprint, n_cards: int) -> int:
    """Of crops that fit into the card at once; 0 if not even one does.

    What lasts does not grow with the batch, and the rest nearly in proportion: the step is run again with the batch
    that this gives, and the line through both is followed to the card's memory.
    """
    assert config.train.gpu is not None
    memory, batch = config.train.gpu.memory_gb * 1e9, config.train.batch_size
    fixed = (first.lasting + first.gradients) * _PATCHY + _CONTEXT
    needed = _needed(first, n_cards)
    guess = max(1, int((memory - fixed) * batch / (needed - fixed)))
    if guess == batch:
        guess = batch + 1
    second = _needed(footprint(_with_batch(config, guess)), n_cards)
    slope = (second - needed) / (guess - batch)
    return max(0, int(guess + (memory - second) / slope))


def _with_batch(config: Config, batch_size: int) -> Config:
    return config.model_copy(update={"train": config.train.model_copy(update={"batch_size": batch_size})})


def _steps_per_epoch(config: Config, n_cards: int) -> tuple[float | None, str]:
    """..., and if the prepared data is not there, why."""
    try:
        n_samples = open_crops(config).n_samples
    except CodecctlError as error:
        return None, str(error)
    return n_samples / (_n_crops(config.train) * n_cards * crop_samples(config)), ""


def _n_crops(settings: TrainConfig) -> int:
    """Of a step on one card."""
    return settings.batch_size * settings.accumulate


def _n_parameters(state: TrainState, teacher: Teacher | None) -> dict[str, int]:
    parts: dict[str, nn.Module | None] = {
        "encoder": state.codec.encoder,
        "decoder": state.codec.decoder,
        "discriminators": state.discriminators,
        "projection to the teacher": state.generator.semantic_head,
        "teacher": teacher.module if teacher else None,
    }
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items() if part is not None}
    codebooks = sum(codebook.codewords.numel() for codebook in state.codec.quantizer.codebooks)
    return {"codec": counts["encoder"] + counts["decoder"], **counts, "codebooks": codebooks}


def _size_in_words(plan: Plan) -> dict[str, str]:
    counts = {name: f"{n / 1e6:.3g} M" for name, n in plan.n_parameters.items()}
    size = {"parameters": ", ".join(f"{name} {count}" for name, count in counts.items() if name != "teacher")}
    return {**size, "teacher": f"{counts['teacher']}, frozen; {plan.teacher}"} if plan.teacher else size


def _step_in_words(plan: Plan) -> dict[str, str]:
    settings, data = plan.config.train, plan.config.data
    batches = f"{settings.accumulate} x " if settings.accumulate > 1 else ""
    cards = f" on each of {plan.n_cards} cards" if plan.n_cards > 1 else ""
    early = f"; {_work(plan.early_step)} before the discriminators" if plan.early_step else ""
    return {
        "step": f"{batches}{settings.batch_size} crops of {data.crop_seconds:g} s{cards}, {settings.precision}",
        "work of a step": f"{_work(plan.step)}{early}",
    }


def _work(step: Footprint) -> str:
    return f"{step.operations / 1e12:.3g} TFLOP, {_size(step.moved)} moved"


def _memory_in_words(plan: Plan) -> dict[str, str]:
    step = plan.step
    parts = {
        "codec": step.codec,
        "its average": step.average,
        "moments": step.moments,
        "discriminators": step.discriminators,
        "teacher": step.teacher,
    }
    compiled = "; train.compile will need less, and is left out here" if plan.config.train.compile else ""
    lasting = ", ".join(f"{name} {_size(size)}" for name, size in parts.items() if size)
    return {
        "memory": f"{_size(step.peak)} at the peak of a step{compiled}",
        "of it lasting": f"{_size(step.lasting)}: {lasting}; gradients {_size(step.gradients)}",
    }


def _fit_in_words(plan: Plan) -> dict[str, str]:
    """Whether the batch fits, and if not, what does."""
    card, settings = plan.card, plan.config.train
    if card is None or plan.largest_batch is None:
        return {}
    room = f"{_size(plan.memory)} of {card.memory_gb:g} GB ({card.name}; driver, workspaces and gaps among it)"
    if plan.fits:
        return {"fits": f"yes: {room}; the largest batch that does is {plan.largest_batch}"}
    if not plan.largest_batch:
        return {"fits": f"no: {room}; not even one crop does: lower data.crop_seconds"}
    batch_size, accumulate = split_batch(_n_crops(settings), plan.largest_batch)
    return {
        "fits": f"no: {room}; the largest batch that does is {plan.largest_batch}",
        "instead": f"--set train.batch_size={batch_size} --set train.accumulate={accumulate}, the same step in parts; "
        f"or --set data.crop_seconds={_shorter(plan):g}",
    }


def split_batch(n_crops: int, largest: int) -> tuple[int, int]:
    """(batch size, accumulate) whose product is `n_crops`, the batch as large as it may be."""
    batch_size = max(size for size in range(1, min(largest, n_crops) + 1) if n_crops % size == 0)
    return batch_size, n_crops // batch_size


def _shorter(plan: Plan) -> float:
    """Seconds of crops of which the configured batch would fit: what does not last grows with batch x length."""
    assert plan.largest_batch is not None
    seconds = plan.config.data.crop_seconds * plan.largest_batch / plan.config.train.batch_size
    return math.floor(seconds * 10) / 10


def _adversaries_in_words(plan: Plan) -> str:
    settings = plan.config.train.adversarial
    if plan.early_step is None:
        return "none in this config"
    where = f"epoch {settings.start_epoch}"
    if plan.adversarial_step is None:
        return f"heard from {where} on; its step is unknown without the data"
    heard = f"heard from step {plan.adversarial_step:,} on ({where}), after {settings.warmup_steps:,} alone"
    return heard if plan.adversarial_step < plan.n_steps else f"never heard: {where} lies behind step {plan.n_steps:,}"


def _time_in_words(plan: Plan) -> dict[str, str]:
    card, hours, cost, seconds = plan.card, plan.hours, plan.cost_usd, plan.seconds(plan.step)
    if card is None:
        return {"time and cost": "unknown without --gpu"}
    if hours is None or cost is None or seconds is None:
        return {"time and cost": "unknown: its profile lacks train.gpu.peak_tflops or bandwidth_gb_per_second"}
    late = ", all with discriminators" if plan.early_step and plan.adversarial_step is None else ""
    cards = f" of {plan.n_cards} cards" if plan.n_cards > 1 else ""
    return {
        "time and cost": f"about {hours:,.0f} h{cards} and {cost:,.0f} USD at {card.price_per_hour_usd:g} USD/h: "
        f"{plan.n_steps:,} steps of {sum(seconds):.2f} s{late}",
        "presuming": f"{seconds[0]:.2f} s of multiplying at {_SHARE_OF_OPERATIONS:.0%} of {card.peak_tflops:g} TFLOPS, "
        f"then {seconds[1]:.2f} s of moving at {_SHARE_OF_BANDWIDTH:.0%} of {card.bandwidth_gb_per_second:g} GB/s; "
        "nothing was measured on a card",
    }


def _disk_in_words(plan: Plan) -> str:
    settings, size = plan.config.train, plan.checkpoint_bytes
    return (
        f"{_size(size * n_files(settings))}: {n_files(settings)} checkpoints of {_size(size)}, the newest "
        f"{settings.keep_checkpoints}, the best, and one being written"
    )


def _size(n_bytes: float) -> str:
    """In decimal units."""
    unit, scale = next(
        (u, s) for u, s in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)) if n_bytes >= s or u == "kB"
    )
    return f"{n_bytes / scale:.3g} {unit}"
