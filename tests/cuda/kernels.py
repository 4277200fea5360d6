"""The kernels of a training step on a card: `python -m tests.cuda.kernels CONFIG [--gpu PROFILE] [--set A.B=C ...]`.

Prints how long a step took, how much of that the card was busy, how many kernels ran, and which took longest: launched
one by one, and replayed as a graph; between these two, the operators and shapes that took longest. A card that is
seldom busy waits for the host. `--tiny` runs the same on the CPU, where there is no graph, to try this script itself.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from codecctl.config.load import load_config
from codecctl.config.schema import Config
from codecctl.train import bench

N_SHOWN = 14
LAUNCHED, BY_SHAPE, REPLAYED = 3, 5, 12  # calls of `train_step` in `measure_steps` of one step


def profiled(config: Config, device: torch.device) -> dict[int, tuple[float, Any]]:
    """Seconds of each call that is looked at, and what was recorded."""
    found: dict[int, tuple[float, Any]] = {}
    train_step, n_calls = bench.train_step, 0
    on_card = device.type == "cuda"

    def step(*args: Any) -> Any:
        nonlocal n_calls
        n_calls += 1
        if n_calls not in (LAUNCHED, BY_SHAPE, REPLAYED):
            return train_step(*args)
        activities = [ProfilerActivity.CUDA] if on_card else [ProfilerActivity.CPU]
        if n_calls == BY_SHAPE:
            activities.append(ProfilerActivity.CPU)  # only the host knows operators and shapes
        with profile(activities=activities, record_shapes=n_calls == BY_SHAPE) as recorded:
            start = time.perf_counter()
            result = train_step(*args)
            if on_card:
                torch.cuda.synchronize()
            seconds = time.perf_counter() - start
        found[n_calls] = seconds, recorded
        return result

    bench.train_step = step  # type: ignore[assignment]
    bench.measure_steps(config, device, 1)
    return found


def show(lines: list[tuple[float, int, str]]) -> None:
    """Microseconds, calls and name, the longest first."""
    for microseconds, count, name in sorted(lines, reverse=True)[:N_SHOWN]:
        print(f"| {microseconds / 1000:.2f} ms | {count} | {name[:110]} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", nargs="?", default="production")
    parser.add_argument("--gpu", default="h100-80gb")
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    config = load_config("smoke") if args.tiny else load_config(args.config, gpu=args.gpu or None, overrides=args.set)
    duration = "self_cpu_time_total" if args.tiny else "self_device_time_total"
    for call, (seconds, recorded) in profiled(config, torch.device("cpu" if args.tiny else "cuda")).items():
        events = recorded.key_averages(group_by_input_shape=call == BY_SHAPE)
        if call == BY_SHAPE:
            events = [event for event in events if event.device_type == DeviceType.CPU]
            show([(getattr(event, duration), event.count, f"{event.key} {event.input_shapes}") for event in events])
            continue
        kernels = [event for event in events if args.tiny or event.device_type == DeviceType.CUDA]
        lines = [(getattr(event, duration), event.count, event.key) for event in kernels]
        busy, count = sum(line[0] for line in lines), sum(line[1] for line in lines)
        print(f"{1000 * seconds:.0f} ms, {busy / 1000:.0f} ms of kernels, {count} of them")
        show(lines)


if __name__ == "__main__":
    main()
