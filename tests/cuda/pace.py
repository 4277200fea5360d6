"""The options of `codecctl train` for as many steps of a config as fit into some seconds on this machine.

`python -m tests.cuda.pace CONFIG SECONDS` prints them. Discriminators that the config starts later start at half of the
steps.
"""

from __future__ import annotations

import argparse
import time
from functools import partial

import torch

from codecctl.config.load import load_config
from codecctl.config.schema import Config
from codecctl.data.crops import prefetch
from codecctl.train.bench import measure_steps
from codecctl.train.setup import open_crops

_N_STEPS = 10  # that are timed
_LOADED_SECONDS = 3.0
_SHARE = 0.85  # of the time: the rest is for the start, checkpoints, validation, and what runs slower than measured


def seconds_a_batch(config: Config) -> float:
    """Of the loader, while nothing else runs."""
    crops, n_workers = open_crops(config), config.data.n_workers
    cut = partial(crops.array, batch_size=config.train.batch_size)
    in_processes = crops.are_augmented and n_workers > 1  # as in training
    with prefetch(cut, 0, n_workers, in_processes=in_processes) as batches:
        next(batches)  # processes have started
        start = time.perf_counter()
        for step, _ in batches:
            if (passed := time.perf_counter() - start) > _LOADED_SECONDS:
                return passed / step
    raise AssertionError("batches have no end")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config")
    parser.add_argument("seconds", type=float)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--data")
    parser.add_argument("--set", action="append", default=[])
    args = parser.parse_args()
    started = time.perf_counter()
    config = load_config(args.config, overrides=[*args.set, f"data.path={args.data}"])
    alone = load_config(args.config, overrides=[*args.set, "loss.adversarial_weight=0", "loss.feature_weight=0"])
    device, loading = torch.device(args.device), seconds_a_batch(config)
    n_steps = _N_STEPS if device.type == "cuda" else 1
    with_discriminators = max(loading, measure_steps(config, device, n_steps).seconds)
    seconds = (args.seconds - time.perf_counter() + started) * _SHARE
    if not config.train.adversarial.start_epoch:
        n, options = round(seconds / with_discriminators), ""
    else:
        without = max(loading, measure_steps(alone, device, n_steps).seconds)
        n = round(2 * seconds / (with_discriminators + without))
        steps_per_epoch = open_crops(config).n_samples / (
            config.train.batch_size * config.data.crop_seconds * config.model.sample_rate
        )
        options = f" --set train.adversarial.start_epoch={round(n / 2 / steps_per_epoch)}"
    print(f"--set train.n_steps={max(n, 2)}{options}")


if __name__ == "__main__":
    main()
