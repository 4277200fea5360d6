"""Where the time of a training step goes: what the loop adds to the passes of learning, what the codebooks take, what
two processes reach, and a profile. Medians of interleaved runs; ratios hold on a quiet machine alone."""

from __future__ import annotations

import copy
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from codecctl.config import Config, dump_config, load_config
from codecctl.train.discriminators import adversarial_loss, discriminator_loss, feature_loss, frozen
from codecctl.train.generator import Generated
from codecctl.train.loop import Watcher, open_crops, start_codebooks, train
from codecctl.train.losses import ReconstructionLosses
from codecctl.train.pace import Pace
from codecctl.train.state import TrainState, start_state, step_generator
from codecctl.train.step import StepResult, train_step
from tests.train.tiny import tiny_machine

pytestmark = pytest.mark.bench

CPU = torch.device("cpu")
ADVERSARIES = [
    "loss.adversarial_weight=1", "loss.feature_weight=2",
    "train.adversarial={periods: [2, 3, 5], stft_windows: [1024, 512], channels: 8, start_epoch: 0, warmup_steps: 0, "
    "ramp_steps: 0}",
]  # fmt: skip
SMALL = {"smoke, adversaries": ("smoke", ADVERSARIES), "starter": ("starter", ["train.batch_size=4"])}


def seconds_of(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def config_of(prepared: Path, name: str, changes: list[str]) -> Config:
    return load_config(name, overrides=[f"data.path={prepared}", "train.kmeans_vectors=512", *changes])


class Bare:
    """The passes of a step and nothing else: plain torch, one batch of the same size that lies there, no guards, no
    averages of weights, no counting. The codebooks' move counts as learning: it is their optimiser."""

    def __init__(self, config: Config) -> None:
        self.config, self.state = config, start_state(config, CPU, steps_per_epoch=1)
        crops = open_crops(config)
        start_codebooks(self.state, config, crops, tiny_machine(self.state, config).fabric)
        self.audio = crops.batch(0, config.train.batch_size)
        self.losses = ReconstructionLosses(config.loss, config.model.sample_rate, config.model.hop_length)
        self.n_quantizers = torch.full((len(self.audio),), config.model.n_codebooks)
        self.weights = {name: weight for name, weight in config.loss.weights.items() if weight}

    def step(self) -> Generated:
        state = self.state
        state.optimizer.zero_grad()
        output = Generated(*state.generator(self.audio, self.n_quantizers))
        losses = {**self.losses(self.audio, output.audio), "commitment": output.commitment_loss.mean()}
        if state.discriminators is not None and state.discriminator_optimizer is not None:
            losses |= self.judge(output.audio)
        torch.stack([losses[name] * weight for name, weight in self.weights.items()]).sum().backward()
        state.optimizer.step()
        revival = step_generator(0, state.step, 1)
        state.codec.quantizer.update(output.latents.detach(), output.codes, self.n_quantizers, revival)
        return output

    def judge(self, decoded: Tensor) -> dict[str, Tensor]:
        networks, optimizer = self.state.discriminators, self.state.discriminator_optimizer
        assert networks is not None
        assert optimizer is not None
        optimizer.zero_grad()
        discriminator_loss(networks(self.audio), networks(decoded.detach())).backward()
        optimizer.step()
        with frozen(networks):
            with torch.no_grad():
                real = networks(self.audio)
            fake = networks(decoded)
        return {"adversarial": adversarial_loss(fake), "feature": feature_loss(real, fake)}


class Interleaved(Watcher):
    """After each step of a loop a bare one: both meet the same machine."""

    def __init__(self, bare: Bare) -> None:
        self.bare = bare
        self.whole: list[float] = []
        self.passes: list[float] = []
        self.last: float | None = None

    def stepped(self, step: int, result: StepResult, pace: Pace) -> None:
        now = time.perf_counter()
        if self.last is not None:  # the first step is for warming up
            self.whole.append(now - self.last)
        self.passes.append(seconds_of(self.bare.step))
        self.last = time.perf_counter()


@pytest.mark.parametrize("name", SMALL)
def test_the_loop_adds_little_to_the_passes(prepared: Path, tmp_path: Path, name: str) -> None:
    """Every step is logged here, in a real run one in 50; validations and saves are not counted."""
    far = ["train.log_every_steps=1", "train.validate_every_steps=9999", "train.checkpoint_every_steps=9999"]
    config = config_of(prepared, SMALL[name][0], [*SMALL[name][1], *far, "validate.n_utterances=1"])
    both = Interleaved(Bare(config))
    train(config, tmp_path / "run", CPU, both, 13)
    whole, passes = statistics.median(both.whole), statistics.median(both.passes[1:])
    print(f"\n{name}: a step of the loop {whole:.3f} s, its passes alone {passes:.3f} s, ratio {whole / passes:.3f}")
    assert whole < 1.05 * passes


def search_and_move(state: TrainState, output: Generated, n_quantizers: Tensor) -> None:
    """What the codebooks do in a step: search, moving averages, revival."""
    quantizer, latents = state.codec.quantizer, output.latents.detach()
    codes = quantizer.encode(latents)
    quantizer.update(latents, codes, n_quantizers, torch.Generator())


PRODUCTION = ["train.batch_size=1", "data.crop_seconds=1", "loss.semantic_weight=0"]
PRODUCTION += ["loss.adversarial_weight=0", "loss.feature_weight=0"]


@pytest.mark.parametrize(
    ("name", "preset", "changes", "n_steps"),
    [*((name, *SMALL[name], 11) for name in SMALL), ("production's codec alone", "production", PRODUCTION, 3)],
)
def test_codebooks_take_a_small_part(prepared: Path, name: str, preset: str, changes: list[str], n_steps: int) -> None:
    """Under a tenth where it counts; adversaries and teacher would make production's part smaller still. The small
    networks around as many books are told, and held to less."""
    bare = Bare(config_of(prepared, preset, changes))
    machine, books, steps = tiny_machine(bare.state, bare.config), [], []
    output = bare.step()
    for _ in range(n_steps):
        steps.append(seconds_of(lambda: train_step(bare.state, [bare.audio], machine, bare.config)))
        other = copy.deepcopy(bare.state.codec.quantizer.state_dict())
        books.append(seconds_of(lambda: search_and_move(bare.state, output, bare.n_quantizers)))
        bare.state.codec.quantizer.load_state_dict(other)
    part = statistics.median(books) / statistics.median(steps)
    print(f"\n{name}: search, averages and revival {statistics.median(books):.4f} s, {part:.1%} of a step")
    assert part < (0.1 if preset == "production" else 0.4)


def speed(yaml: Path, run: Path, n_ranks: int, n_threads: int) -> float:
    """Seconds of audio a second, by the run's own log."""
    command = [sys.executable, "-m", "codecctl.cli.main", "train", "--config", yaml, "--run", run, "--device", "cpu"]
    settings = {**os.environ, "OMP_NUM_THREADS": str(n_threads)}
    subprocess.run([*command, "--devices", str(n_ranks)], env=settings, check=True, capture_output=True, timeout=1200)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return statistics.median([line["audio_seconds_per_second"] for line in lines if line["kind"] == "train"][10:])


def test_two_ranks_reach_what_two_cores_allow(prepared: Path, tmp_path: Path) -> None:
    """Two gloo processes of one thread each, half the crops each, beside one process of two threads."""
    changes = ["train.n_steps=25", "train.log_every_steps=1", "train.validate_every_steps=9999"]
    changes += ["train.checkpoint_every_steps=9999", "validate.n_utterances=1", *ADVERSARIES, f"data.path={prepared}"]
    changes += ["train.min_perplexity=0"]  # so early, adversaries make the books collapse, and that ends a run
    speeds: dict[int, list[float]] = {1: [], 2: []}
    for attempt in range(2):
        for n_ranks in speeds:
            folder = tmp_path / f"{attempt}-{n_ranks}"
            folder.mkdir()
            yaml = folder / "small.yaml"
            config = load_config("smoke", overrides=[*changes, f"train.batch_size={8 // n_ranks}"])
            yaml.write_text(dump_config(config), encoding="utf-8")
            speeds[n_ranks].append(speed(yaml, folder / "run", n_ranks, 2 // n_ranks))
    one, two = (statistics.median(speeds[n]) for n in (1, 2))
    print(f"\ntwo ranks: {two:.1f} s of audio/s, one rank with both cores: {one:.1f}, ratio {two / one:.2f}")
    assert two > 0.9 * one


def test_where_the_time_goes(prepared: Path) -> None:
    """Into the maths of the networks; nowhere does a step wait to read a number."""
    config = config_of(prepared, "smoke", ADVERSARIES)
    state = start_state(config, CPU, steps_per_epoch=1)
    machine, audio = tiny_machine(state, config), open_crops(config).batch(0, config.train.batch_size)
    train_step(state, [audio], machine, config)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        for _ in range(3):
            train_step(state, [audio], machine, config)
    table = profile.key_averages()
    total = sum(row.self_cpu_time_total for row in table)
    first = sorted(table, key=lambda row: -row.self_cpu_time_total)[:3]
    print("\n" + table.table(sort_by="self_cpu_time_total", row_limit=12, max_name_column_width=40))
    print("top three: " + ", ".join(f"{row.key} {row.self_cpu_time_total / total:.0%}" for row in first))
    assert not {row.key for row in first} & {"aten::item", "aten::_local_scalar_dense"}
