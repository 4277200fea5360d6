"""What a run needs: size, memory, time, money and disk, from the config alone."""

from __future__ import annotations

import math
from dataclasses import dataclass

from codecctl.config.schema import Config, GpuConfig
from codecctl.errors import CodecctlError
from codecctl.train.memory import Costs, StepCost, measure_costs
from codecctl.train.setup import n_files, open_crops


@dataclass(frozen=True)
class Assumptions:
    """Figures of a card, measured on an H200 with torch 2.11."""

    # These three explain, within 15 %, four replayed steps of very different work, from 21 to 274 ms: docs/training.md.
    share_of_peak: float = 0.4  # of the card's operations a second, while it multiplies
    share_of_bandwidth: float = 0.4  # of the card's bytes a second, while it moves
    seconds_a_kernel: float = 4.5e-6  # of the card, for each operator besides: small kernels do not fill it
    seconds_a_launch: float = 46e-6  # of the host, for each operator that launches a kernel
    context_bytes: float = 0.83e9  # for the driver and its libraries
    fragmentation: float = 1.19  # bytes that the allocator holds for each byte in use, workspaces of kernels among them
    source: str = "shares of an H200"


ASSUMPTIONS = Assumptions()


@dataclass(frozen=True)
class Prediction:
    """One step on one card of several alike."""

    seconds_multiplying: float | None  # None: the speed of the card is unknown
    seconds_moving: float | None
    seconds_starting: float  # kernels, on the card
    peak_bytes: float  # of tensors
    card_bytes: float  # that the card must have
    audio_seconds: float  # that the step trains on
    operations: float  # floating-point ones of convolutions and matrix products
    moved_bytes: float  # read and written
    seconds_launching: float  # of the host, if it launches the kernels one by one
    is_recorded: bool  # as a graph: then the host has one launch

    @property
    def busy(self) -> dict[str, float] | None:
        """Seconds of the card, by the assumption that they follow from; None: the speed of the card is unknown."""
        if self.seconds_multiplying is None or self.seconds_moving is None:
            return None
        return {
            "share_of_peak": self.seconds_multiplying,
            "share_of_bandwidth": self.seconds_moving,
            "seconds_a_kernel": self.seconds_starting,
        }

    @property
    def seconds(self) -> float | None:
        if self.busy is None:
            return None
        busy = sum(self.busy.values())
        return busy if self.is_recorded else max(busy, self.seconds_launching)

    @property
    def throughput(self) -> float | None:
        """Seconds of audio a second."""
        return None if self.seconds is None else self.audio_seconds / self.seconds


@dataclass(frozen=True)
class Plan:
    """A run on `n_cards` alike, up to `n_steps`; all but the sizes is an estimate."""

    config: Config
    n_cards: int
    n_steps: int
    costs: Costs
    steps_per_epoch: float | None  # None: the prepared data is not there
    no_data: str  # why

    @property
    def card(self) -> GpuConfig | None:
        return self.config.train.gpu

    @property
    def step(self) -> Prediction:
        """With the discriminators, if the config has any."""
        return self._predict(self.costs.late)

    @property
    def early_step(self) -> Prediction | None:
        """Before the discriminators learn; None: the config has none."""
        return self._predict(self.costs.early) if self.costs.early else None

    @property
    def fits(self) -> bool:
        return self.card is not None and self.step.card_bytes <= self.card.memory_gb * 1e9

    @property
    def adversarial_step(self) -> int | None:
        """The first step with adversarial losses; None: never, or unknown without the data."""
        if self.costs.early is None or self.steps_per_epoch is None:
            return None
        return round(self.config.train.adversarial.start_epoch * self.steps_per_epoch)

    @property
    def hours(self) -> float | None:
        """Where the start of the discriminators is unknown, with them from the first step on. None: the speed of the
        card is unknown."""
        late, early = self.step.seconds, (self.early_step or self.step).seconds
        if late is None or early is None:
            return None
        n_early = max(0, (self.adversarial_step or 0) - self.config.train.adversarial.warmup_steps)
        n_early = min(n_early, self.n_steps)
        return (n_early * early + (self.n_steps - n_early) * late) / 3600

    @property
    def cost_usd(self) -> float | None:
        if self.hours is None or self.card is None:
            return None
        return self.hours * self.card.price_per_hour_usd * self.n_cards

    @property
    def audio_hours(self) -> float:
        """That the run trains on, repetitions included."""
        return self.n_steps * self.n_cards * self.step.audio_seconds / 3600

    @property
    def adversarial_audio_hours(self) -> float:
        """Of them with adversaries; as `hours` takes their start."""
        if self.costs.early is None:
            return 0.0
        return self.audio_hours * max(0, self.n_steps - (self.adversarial_step or 0)) / self.n_steps

    @property
    def discriminator_audio_hours(self) -> float:
        """Of these the hours that the discriminators take: a stretch of each crop."""
        stretch, crop = self.config.train.adversarial.heard_seconds, self.config.data.crop_seconds
        return self.adversarial_audio_hours * (1.0 if stretch is None else min(1.0, stretch / crop))

    @property
    def disk_bytes(self) -> int:
        """Of all checkpoints that are on the disk at once."""
        return self.costs.checkpoint_bytes * n_files(self.config.train)

    def largest_batch(self, accumulate: int) -> int | None:
        """Of the crops that fit into the card at once; 0: not even one does; None: no card was named."""
        if self.card is None:
            return None
        room = (self.card.memory_gb * 1e9 - ASSUMPTIONS.context_bytes) / ASSUMPTIONS.fragmentation
        room -= self._between_cards + self.costs.late.of(0, accumulate).peak - self.costs.late.of(0).peak
        return max(0, min(int((room - peak.fixed) // peak.per_crop) for peak in self.costs.late.peaks if peak.per_crop))

    def split_batch(self) -> tuple[int, int] | None:
        """(batch size, accumulate) of the same step in parts that fit, as large as they may be; None: none does."""
        n_crops, largest = self.config.train.n_crops, self.largest_batch(accumulate=2)
        sizes = [size for size in range(1, min(largest or 0, n_crops) + 1) if n_crops % size == 0]
        return (sizes[-1], n_crops // sizes[-1]) if sizes else None

    @property
    def shorter_crops(self) -> float | None:
        """Seconds of crops of which the configured batch would fit: what does not last grows with batch x length.
        None: none does."""
        settings = self.config.train
        largest = self.largest_batch(settings.accumulate) or 0
        return math.floor(self.config.data.crop_seconds * largest / settings.batch_size * 100) / 100 or None

    @property
    def _between_cards(self) -> int:
        """Bytes of gradients that are on their way between the cards."""
        return self.costs.late.gradients if self.n_cards > 1 else 0

    def _predict(self, cost: StepCost) -> Prediction:
        settings, card = self.config.train, self.card
        step = cost.of(settings.batch_size, settings.accumulate)
        multiplying = moving = None
        if card is not None and card.peak_tflops is not None and card.bandwidth_gb_per_second is not None:
            share = ASSUMPTIONS.share_of_peak * (1.0 if settings.precision == "bfloat16" else 0.5)  # else TF32
            multiplying = step.operations / (share * card.peak_tflops * 1e12)
            moving = step.moved / (ASSUMPTIONS.share_of_bandwidth * card.bandwidth_gb_per_second * 1e9)
        return Prediction(
            seconds_multiplying=multiplying,
            seconds_moving=moving,
            seconds_starting=step.n_launched * ASSUMPTIONS.seconds_a_kernel,
            peak_bytes=step.peak,
            card_bytes=(step.peak + self._between_cards) * ASSUMPTIONS.fragmentation + ASSUMPTIONS.context_bytes,
            audio_seconds=settings.n_crops * self.config.crop_samples / self.config.model.sample_rate,
            operations=step.operations,
            moved_bytes=step.moved,
            seconds_launching=step.n_launched * ASSUMPTIONS.seconds_a_launch,
            is_recorded=settings.cuda_graphs and self.n_cards == 1,
        )


def make_plan(config: Config, n_steps: int | None = None, n_cards: int = 1, *, costs: Costs | None = None) -> Plan:
    """The plan of a run up to `n_steps` (None: `train.n_steps`). Needs neither a card nor the data nor the teacher.
    `costs`: those of a config that differs in its batches, its card or its steps alone."""
    steps_per_epoch, no_data = None, ""
    try:
        steps_per_epoch = open_crops(config).n_samples / (config.train.n_crops * config.crop_samples * n_cards)
    except CodecctlError as error:
        no_data = str(error)
    costs = costs or measure_costs(config)
    return Plan(config, n_cards, n_steps or config.train.n_steps, costs, steps_per_epoch, no_data)
