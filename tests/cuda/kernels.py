"""The kernels of a training step on a card: `python -m tests.cuda.kernels CONFIG [--gpu PROFILE] [--set A.B=C ...]`.

Prints how long a step took, how much of that the card was busy, how many kernels ran, and which took longest: launched
one by one, and replayed as a graph. A card that is seldom busy waits for the host. `--tiny` runs the same on the CPU,
where there is no graph, to try this script itself.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from codecctl.config import Config, load_config
from codecctl.train import bench

N_SHOWN = 14
LAUNCHED, REPLAYED = 3, 12  # calls of `train_step` in `measure_steps` of one step


def profiled(config: Config, device: torch.device) -> list[tuple[float, Any]]:
    """Seconds of each step that is looked at, and its events."""
    found: list[tuple[float, Any]] = []
    train_step, n_before = bench.train_step, 0

    def step(*args: Any) -> Any:
        nonlocal n_before
        n_before += 1
        if n_before not in (LAUNCHED, REPLAYED):
            return train_step(*args)
        activities = [ProfilerActivity.CUDA if device.type == "cuda" else ProfilerActivity.CPU]
        with profile(activities=activities) as recorded:
            start = time.perf_counter()
            result = train_step(*args)
            if device.type == "cuda":
                torch.cuda.synchronize()
            seconds = time.perf_counter() - start
        found.append((seconds, recorded.key_averages()))
        return result

    bench.train_step = step  # type: ignore[assignment]
    bench.measure_steps(config, device, 1)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", nargs="?", default="production")
    parser.add_argument("--gpu", default="h100-80gb")
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    config = load_config("smoke") if args.tiny else load_config(args.config, gpu=args.gpu or None, overrides=args.set)
    for seconds, events in profiled(config, torch.device("cpu" if args.tiny else "cuda")):
        kernels = [event for event in events if args.tiny or event.device_type == DeviceType.CUDA]
        taken = {
            event.key: event.self_cpu_time_total if args.tiny else event.self_device_time_total for event in kernels
        }
        count = sum(event.count for event in kernels)
        print(f"{1000 * seconds:.0f} ms, {sum(taken.values()) / 1000:.0f} ms of kernels, {count} of them")
        for event in sorted(kernels, key=lambda event: -taken[event.key])[:N_SHOWN]:
            print(f"| {taken[event.key] / 1000:.2f} ms | {event.count} | {event.key[:110]} |")


if __name__ == "__main__":
    main()
