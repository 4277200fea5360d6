"""Time training steps on a card in several variants: `python -m tests.cuda.measure` prints a markdown row for each, and
which kernels take longest in the steps as they are.

`--variant NAME` times that one alone; it may be given more than once. `--compile` only compiles what that variant
needs, into the compiler's cache. `--tiny` runs the same on the CPU with small configs, to try this script itself.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection

import torch
import transformers
from torch import Tensor
from torch.nn import functional as F

from codecctl.config.load import load_config
from codecctl.config.schema import Config
from codecctl.model import causal
from codecctl.model.snake import Snake
from codecctl.train import step
from codecctl.train.bench import StepTimes, implied_assumptions, measure_steps
from codecctl.train.discriminators import Layers
from codecctl.train.plan import Prediction, make_plan
from tests.cuda.kernels import measure_and_show

SECONDS = 280.0  # for all variants
COMPILE_SECONDS = 105.0
PARTS = ("generator forward", "losses", "teacher", "discriminators", "backward", "optimisers", "codebooks")
COLUMNS = (
    "config",
    "variant",
    "ms a step",
    "kernel by kernel",
    "audio s/s",
    "peak GB",
    "reserved GB",
    "host waits ms",
    *PARTS,
)


@dataclass(frozen=True)
class Subject:
    """What is measured: a config under a card's profile, and how many steps."""

    config: str
    gpu: str | None
    n_steps: int
    changes: tuple[str, ...] = ()

    def load(self, *changes: str) -> Config:
        return load_config(self.config, gpu=self.gpu, overrides=[*self.changes, *changes])


@dataclass(frozen=True)
class Variant:
    name: str
    changes: tuple[Callable[[], None], ...]  # of the code, in the process that measures
    compiled: bool
    seconds: float  # at most
    production_alone: bool = False  # a process chooses its kernels anew, for half a minute
    is_shown: bool = False  # its kernels


def without_fused_snake() -> None:
    """The formula in plain torch: float32 where its alpha is, whatever the input."""
    Snake.forward = lambda snake, x: x + (snake.alpha * x).sin().square() / (snake.alpha + 1e-9)  # type: ignore[method-assign]


def without_shared_features() -> None:
    """Features of real audio are computed anew for the codec's losses."""
    losses = step.adversarial_losses
    step.adversarial_losses = lambda real, decoded, networks, fabric, *_: losses(real, decoded, networks, fabric)  # type: ignore[assignment]


def without_channels_last() -> None:
    def forward(layers: Layers, x: Tensor) -> list[Tensor]:
        features = []
        for layer in layers:
            x = F.leaky_relu(layer(x), 0.1)
            features.append(x)
        return features

    Layers.forward = forward  # type: ignore[method-assign]


def with_codec_channels_last() -> None:
    """The codec's convolutions get and return channels that are next to each other in memory. Not in the product: it
    may spare the changes of layout around them, which no card has shown yet."""
    causal.prepend_past = lambda _, x, n_past, __: F.pad(x.mT, (0, 0, n_past, 0)).mT if n_past else x  # type: ignore[assignment]


DISCRIMINATORS_AS_BEFORE = (without_shared_features, without_channels_last)
COMPILED = Variant("compiled parts", (), compiled=True, seconds=100)
VARIANTS = (  # from the one that matters most; the first step takes a minute where no kernel was chosen before
    Variant("as it is", (), compiled=False, seconds=120, is_shown=True),
    Variant(
        "eager Snake, separate features, channels first",
        (without_fused_snake, *DISCRIMINATORS_AS_BEFORE),
        compiled=False,
        seconds=75,
        production_alone=True,
    ),
    COMPILED,
    Variant("codec channels last", (with_codec_channels_last,), compiled=False, seconds=75, production_alone=True),
    Variant(
        "separate features, channels first", DISCRIMINATORS_AS_BEFORE, compiled=False, seconds=75, production_alone=True
    ),
)
TINY = (
    "data.crop_seconds=0.2", "data.n_workers=0", "train.batch_size=2", "loss.adversarial_weight=1",
    "loss.feature_weight=2", "train.adversarial={periods: [2], stft_windows: [64], channels: 2}",
)  # fmt: skip


def subjects(*, tiny: bool) -> list[Subject]:
    if tiny:
        return [Subject("smoke", None, 2, TINY)]
    return [Subject("production", "h100-80gb", 10), Subject("starter", "h100-80gb", 20)]


def measure(subject: Subject, variant: Variant, device: torch.device, results: Connection) -> None:
    """In a process of its own: what a variant patches, compiles, breaks or allocates ends with it."""
    try:
        for change in variant.changes:
            change()
        config = subject.load(f"train.compile={str(variant.compiled).lower()}")
        timed = measure_and_show if variant.is_shown else measure_steps
        results.send(timed(config, device, subject.n_steps))
    except Exception as error:
        traceback.print_exc()
        results.send(f"{type(error).__name__}: {error}".splitlines()[0])


def start_method(device: torch.device) -> str:
    """Fork keeps what has been imported; but a process cannot be forked once an import has touched the card."""
    probe = multiprocessing.get_context("fork").Process(target=torch.cuda.init if device.type == "cuda" else None)
    probe.start()
    probe.join()
    return "spawn" if probe.exitcode else "fork"


def in_process(
    method: str, subject: Subject, variant: Variant, device: torch.device, seconds: float
) -> StepTimes | str:
    """The times, or what went wrong."""
    context = multiprocessing.get_context(method)
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=measure, args=(subject, variant, device, sender))
    process.start()
    sender.close()
    try:
        result: StepTimes | str = receiver.recv() if receiver.poll(seconds) else f"not done in {seconds:.0f} s"
    except EOFError:
        process.join()
        result = f"its process ended with {process.exitcode}"
    process.kill()
    process.join()
    return result


def row(subject: Subject, variant: Variant, found: StepTimes | str) -> str:
    if isinstance(found, str):
        return f"| {subject.config} | {variant.name} | {found} |"
    memory = [f"{size / 1e9:.2f}" if size is not None else "" for size in (found.peak_bytes, found.reserved_bytes)]
    wait = "" if found.host_wait_seconds is None else f"{1000 * found.host_wait_seconds:.1f}"
    parts = [f"{1000 * found.parts.get(name, 0.0):.1f}" for name in PARTS]
    numbers = [
        f"{1000 * found.seconds:.1f}",
        f"{1000 * found.launched_seconds:.1f}",
        f"{found.throughput:.0f}",
        *memory,
        wait,
        *parts,
    ]
    return f"| {' | '.join([subject.config, variant.name, *numbers])} |"


def planned(subject: Subject, prediction: Prediction) -> str:
    seconds, throughput = prediction.seconds, prediction.throughput
    numbers = [
        "" if seconds is None else f"{1000 * seconds:.1f}",
        f"{1000 * prediction.seconds_launching:.1f}",
        "" if throughput is None else f"{throughput:.0f}",
        f"{prediction.peak_bytes / 1e9:.2f}",
        f"{prediction.card_bytes / 1e9:.2f}",
    ]
    return f"| {' | '.join([subject.config, 'the plan', *numbers])} |"


def compile_only(*, tiny: bool, device: torch.device) -> None:
    """A step of each subject, side by side: kernels then come from the cache when they are timed."""

    def compiled(subject: Subject) -> None:
        in_process("spawn", replace(subject, n_steps=1), COMPILED, device, COMPILE_SECONDS)

    with ThreadPoolExecutor() as pool:
        list(pool.map(compiled, subjects(tiny=tiny)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--variant", action="append", choices=[variant.name for variant in VARIANTS])
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for all variants")
    arguments = parser.parse_args()
    device = torch.device("cpu" if arguments.tiny else "cuda")
    if arguments.compile:
        return compile_only(tiny=arguments.tiny, device=device)
    assert transformers.WavLMModel  # imported here, once for all processes
    end = time.monotonic() + arguments.seconds
    method = start_method(device)
    measured: dict[Subject, StepTimes] = {}  # of the first variant
    print(f"| {' | '.join(COLUMNS)} |", f"|{'---|' * len(COLUMNS)}", sep="\n", flush=True)
    for variant in VARIANTS:
        if arguments.variant and variant.name not in arguments.variant:
            continue
        for subject in subjects(tiny=arguments.tiny)[: 1 if variant.production_alone else None]:
            left = end - time.monotonic()
            found: StepTimes | str = "no time was left"
            if left > 5:
                found = in_process(method, subject, variant, device, min(variant.seconds, left))
            if isinstance(found, StepTimes) and variant is VARIANTS[0]:
                measured[subject] = found
            print(row(subject, variant, found), flush=True)
    for subject in subjects(tiny=arguments.tiny):  # last: a process that has gone backward cannot be forked
        prediction = make_plan(subject.load()).step
        print(planned(subject, prediction))
        times = measured.get(subject)
        for name, (assumed, implied) in (implied_assumptions(times, prediction) if times else {}).items():
            print(f"| {subject.config} | {name}: {assumed:.3g} assumed, {implied:.3g} measured |", flush=True)


if __name__ == "__main__":
    main()
