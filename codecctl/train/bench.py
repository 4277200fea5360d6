"""Time of a training step on this machine, part by part. Audio and the teacher's weights are random: neither data nor
downloads are needed."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from codecctl.config.schema import Config
from codecctl.data.crops import prefetch
from codecctl.train.device import does_not_fit, make_fabric, pinned, sent
from codecctl.train.graphs import N_PLAIN
from codecctl.train.plan import ASSUMPTIONS, Prediction
from codecctl.train.setup import assemble
from codecctl.train.state import TrainState
from codecctl.train.step import StepContext, at_full_weight, train_step
from codecctl.train.timer import PartTimer, part

_N_WARMUP = 3  # steps: kernels are chosen and compiled, memory is allocated
_N_WAITED = 3  # further steps after each of which the host waits
_LEVEL = 0.1  # RMS of the random audio


@dataclass(frozen=True)
class StepTimes:
    """Means over `n_steps` steps on one device, all with discriminators if the config has any."""

    device: str
    n_steps: int
    seconds: float  # a step
    audio_seconds: float  # that a step trains on
    launched_seconds: float  # a step whose kernels are launched one by one: the same, unless a graph is replayed
    parts: dict[str, float]  # seconds of such a step; time between parts is left out
    host_wait_seconds: float | None  # from the launch of its last operation to its end; None: on the CPU
    peak_bytes: int | None  # of tensors during a step; None: on the CPU, where it is not measured
    reserved_bytes: int | None  # that the allocator took from the card
    context_bytes: int | None  # of the card's memory that is in use beside

    @property
    def throughput(self) -> float:
        """Seconds of audio a second."""
        return self.audio_seconds / self.seconds


def measure_steps(config: Config, device: torch.device, n_steps: int) -> StepTimes:
    """Time `n_steps` training steps after a few to warm up.

    Raises `CodecctlError` if the batch does not fit into the card's memory.
    """
    try:
        return _measure(config, device, n_steps)
    except torch.OutOfMemoryError:
        raise does_not_fit(config) from None


def implied_assumptions(times: StepTimes, prediction: Prediction) -> dict[str, tuple[float, float]]:
    """The plan's assumptions by name: as assumed, and as a card's times imply them; none from times of a CPU. Each of
    the card's speeds is the one that explains the time of a step if the others hold, and the time of a launch if the
    card waits for the host when kernels are launched one by one; one that cannot explain it is left out."""
    if times.peak_bytes is None or times.reserved_bytes is None or times.context_bytes is None:
        return {}
    slower: dict[str, float] = {}  # times as long as predicted
    if prediction.busy is not None:
        for name, own in prediction.busy.items():
            slower[name] = (times.seconds - sum(prediction.busy.values()) + own) / own
    slower["seconds_a_launch"] = times.launched_seconds / prediction.seconds_launching
    found = {}
    for name, factor in slower.items():
        if factor > 0:
            assumed = getattr(ASSUMPTIONS, name)
            found[name] = (assumed, assumed / factor if name.startswith("share") else assumed * factor)
    return {
        **found,
        "fragmentation": (ASSUMPTIONS.fragmentation, times.reserved_bytes / times.peak_bytes),
        "context_bytes": (ASSUMPTIONS.context_bytes, times.context_bytes),
    }


def _measure(config: Config, device: torch.device, n_steps: int) -> StepTimes:
    state, context = _start(config, device)
    device = context.fabric.device
    on_card = device.type == "cuda"
    with closing(_random_batches(config, device)) as batches, PartTimer(device) as timer:

        def step(context: StepContext) -> None:
            train_step(state, next(batches), context, config)
            timer.end_step()

        launched = partial(step, replace(context, graphs=None))
        seconds = launched_seconds = _seconds_a_step(launched, device, _N_WARMUP, n_steps)
        steps = timer.finished()[_N_WARMUP:]
        memory = _memory(device)
        waits = [_seconds_waited(launched, device) for _ in range(_N_WAITED)] if on_card else None
        if context.graphs is not None:
            seconds = _seconds_a_step(partial(step, context), device, N_PLAIN + 1, n_steps)
            memory["reserved_bytes"] = _memory(device)["reserved_bytes"]  # a graph has memory of its own
    names = dict.fromkeys(name for found in steps for name in found)
    return StepTimes(
        device=torch.cuda.get_device_name(device) if on_card else f"CPU, {torch.get_num_threads()} thread(s)",
        n_steps=n_steps,
        seconds=seconds,
        launched_seconds=launched_seconds,
        audio_seconds=config.train.n_crops * config.crop_samples / config.model.sample_rate,
        parts={name: sum(found.get(name, 0.0) for found in steps) / n_steps for name in names},
        host_wait_seconds=None if waits is None else statistics.median(waits),
        **memory,
    )


def _seconds_a_step(step: Callable[[], None], device: torch.device, n_warmup: int, n_steps: int) -> float:
    for _ in range(n_warmup):
        step()
    _synchronize(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    start = time.perf_counter()
    for _ in range(n_steps):
        step()
    _synchronize(device)
    return (time.perf_counter() - start) / n_steps


def _start(config: Config, device: torch.device) -> tuple[TrainState, StepContext]:
    """A training as at its first step, but with its discriminators at full weight and codebooks of random audio."""
    fabric = make_fabric(config, device)
    state, context = assemble(config, fabric, load_teacher=False)
    audio = _random_audio(config, 0)[: config.train.batch_size].to(fabric.device)
    with torch.no_grad():
        state.codec.fit_front(audio)
        latents = state.codec.encoder(audio).mT.flatten(0, 1)  # [B x T, D]
    state.codec.quantizer.fit(latents, torch.Generator().manual_seed(config.train.seed))
    return at_full_weight(state, config), context


def _random_batches(config: Config, device: torch.device) -> Generator[list[Tensor]]:
    """Each step's batches [B, 1, L] on the device, drawn by the loader's threads, without end."""
    with prefetch(lambda step: pinned(_random_audio(config, step), device), 0, config.data.n_workers) as prefetched:
        while True:
            with part("data"):
                _, audio = next(prefetched)
                batches = [sent(batch, device) for batch in audio.chunk(config.train.accumulate)]
            yield batches


def _random_audio(config: Config, step: int) -> Tensor:
    """The crops of a step, [B, 1, L]."""
    generator = torch.Generator().manual_seed(step)
    return _LEVEL * torch.randn(config.train.n_crops, 1, config.crop_samples, generator=generator)


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _seconds_waited(step: Callable[[], None], device: torch.device) -> float:
    step()
    start = time.perf_counter()
    _synchronize(device)
    return time.perf_counter() - start


def _memory(device: torch.device) -> dict[str, int | None]:
    """The fields of `StepTimes` about memory."""
    if device.type != "cuda":
        return dict.fromkeys(("peak_bytes", "reserved_bytes", "context_bytes"))
    free, total = torch.cuda.mem_get_info(device)
    return {
        "peak_bytes": torch.cuda.max_memory_allocated(device),
        "reserved_bytes": torch.cuda.max_memory_reserved(device),
        "context_bytes": total - free - torch.cuda.memory_reserved(device),
    }
