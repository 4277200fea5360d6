"""What a run adds to its training steps, and what two processes reach; `codecctl bench --train` says where the time of
a step goes. Ratios hold on a quiet machine only."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from codecctl.config.load import dump_config, load_config
from codecctl.train.bench import measure_steps
from codecctl.train.callbacks import TrainingCallbacks
from codecctl.train.loop import train

pytestmark = pytest.mark.bench

CPU = torch.device("cpu")
ADVERSARIES = [
    "loss.adversarial_weight=1", "loss.feature_weight=2",
    "train.adversarial={periods: [2, 3, 5], stft_windows: [1024, 512], channels: 8, start_epoch: 0, warmup_steps: 0, "
    "ramp_steps: 0}",
]  # fmt: skip
UNDISTURBED = [
    "train.n_steps=25", "train.log_every_steps=1", "train.validate_every_steps=9999",
    "train.checkpoint_every_steps=9999", "validate.n_utterances=1",
    "train.min_perplexity=0",  # so early, adversaries make the codebooks collapse, and that ends a run
]  # fmt: skip


def logged_throughput(run: Path) -> float:
    """Seconds of audio a second, the median after a start."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return statistics.median([line["audio_seconds_per_second"] for line in lines if line["kind"] == "train"][10:])


@pytest.mark.parametrize("name", ["smoke", "starter"])
def test_the_loop_adds_little_to_its_steps(prepared: Path, tmp_path: Path, name: str) -> None:
    """Every step is logged here, in a real run one in 50; validations and saves are not counted."""
    changes = [f"data.path={prepared}", "train.kmeans_vectors=512", "train.batch_size=4", *UNDISTURBED]
    config = load_config(name, overrides=[*changes, *(ADVERSARIES if name == "smoke" else ())])
    alone = measure_steps(config, CPU, 15).throughput
    looped = logged_throughput(train(config, tmp_path / "run", CPU, TrainingCallbacks()).folder)
    print(f"\n{name}: {alone:.1f} s of audio a second in steps alone, {looped:.1f} in a run")
    assert looped > 0.93 * alone


def throughput_of_ranks(yaml: Path, run: Path, n_ranks: int, n_threads: int) -> float:
    command = [sys.executable, "-m", "codecctl.cli.main", "train", "--config", yaml, "--run", run, "--device", "cpu"]
    settings = {**os.environ, "OMP_NUM_THREADS": str(n_threads)}
    subprocess.run([*command, "--devices", str(n_ranks)], env=settings, check=True, capture_output=True, timeout=1200)
    return logged_throughput(run)


def test_two_ranks_reach_what_two_cores_allow(prepared: Path, tmp_path: Path) -> None:
    """Two gloo processes of one thread each, half the crops each, beside one process of two threads."""
    found: dict[int, list[float]] = {1: [], 2: []}
    for attempt in range(2):
        for n_ranks in found:
            folder = tmp_path / f"{attempt}-{n_ranks}"
            folder.mkdir()
            changes = [*UNDISTURBED, *ADVERSARIES, f"data.path={prepared}", f"train.batch_size={8 // n_ranks}"]
            yaml = folder / "small.yaml"
            yaml.write_text(dump_config(load_config("smoke", overrides=changes)), encoding="utf-8")
            found[n_ranks].append(throughput_of_ranks(yaml, folder / "run", n_ranks, 2 // n_ranks))
    one, two = (statistics.median(found[n]) for n in (1, 2))
    print(f"\ntwo ranks: {two:.1f} s of audio a second, one rank with both cores: {one:.1f}, ratio {two / one:.2f}")
    assert two > 0.9 * one
