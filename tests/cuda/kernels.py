"""The kernels of a training step on a card: `python -m tests.cuda.kernels CONFIG [--gpu PROFILE] [--set A.B=C ...]`.

Prints how long a step took, how much of that the card was busy, how many kernels ran, and which took longest: launched
one by one, and replayed as a graph; between these two, the operators and shapes that took longest. A card that is
seldom busy waits for the host. `--tiny` runs the same on the CPU, where there is no graph, to try this script itself.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from codecctl.config.load import load_config
from codecctl.config.schema import Config
from codecctl.train import bench

N_SHOWN = 16


def measure_and_show(config: Config, device: torch.device, n_steps: int) -> bench.StepTimes:
    """What `measure_steps` returns; the kernels of further steps between those that it times are printed."""
    on_card = device.type == "cuda"
    seconds_a_step, seconds_waited, is_shown = bench._seconds_a_step, bench._seconds_waited, False

    def timed(step: Callable[[], None], *rest: Any) -> float:
        seconds = seconds_a_step(step, *rest)
        if is_shown or not on_card:  # a graph is replayed by now
            show("replayed" if on_card else "step", step, device)
        return seconds

    def waited(step: Callable[[], None], *rest: Any) -> float:
        nonlocal is_shown
        if not is_shown:
            is_shown = True
            show("launched", step, device)
            show("launched, by shape", step, device, by_shape=True)
        return seconds_waited(step, *rest)

    bench._seconds_a_step, bench._seconds_waited = timed, waited
    try:
        return bench.measure_steps(config, device, n_steps)
    finally:
        bench._seconds_a_step, bench._seconds_waited = seconds_a_step, seconds_waited


def show(name: str, step: Callable[[], None], device: torch.device, *, by_shape: bool = False) -> None:
    """Profile one step and print what took longest."""
    on_card = device.type == "cuda"
    activities = [ProfilerActivity.CUDA] if on_card else [ProfilerActivity.CPU]
    if by_shape:
        activities.append(ProfilerActivity.CPU)  # only the host knows operators and shapes
    with profile(activities=activities, record_shapes=by_shape) as recorded:
        start = time.perf_counter()
        step()
        if on_card:
            torch.cuda.synchronize()
        seconds = time.perf_counter() - start
    duration = "self_device_time_total" if on_card else "self_cpu_time_total"
    kind = DeviceType.CUDA if on_card and not by_shape else DeviceType.CPU
    events = [e for e in recorded.key_averages(group_by_input_shape=by_shape) if e.device_type == kind]
    lines = [(getattr(e, duration), e.count, f"{e.key} {e.input_shapes}" if by_shape else e.key) for e in events]
    busy, count = sum(line[0] for line in lines), sum(line[1] for line in lines)
    print(f"{name}: {1000 * seconds:.0f} ms, {busy / 1000:.0f} ms of kernels, {count} of them")
    for microseconds, n, what in sorted(lines, reverse=True)[:N_SHOWN]:
        print(f"  {microseconds / 1000:7.2f} ms {n:5} {what[:120]}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", nargs="?", default="production")
    parser.add_argument("--gpu", default="h100-80gb")
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    config = load_config("smoke") if args.tiny else load_config(args.config, gpu=args.gpu or None, overrides=args.set)
    times = measure_and_show(config, torch.device("cpu" if args.tiny else "cuda"), 1 if args.tiny else 10)
    print(f"{1000 * times.seconds:.1f} ms a step, {times.throughput:.0f} seconds of audio a second")


if __name__ == "__main__":
    main()
