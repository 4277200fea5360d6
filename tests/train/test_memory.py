"""The step without content: what it counts is what a real step on the CPU takes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from codecctl.config.schema import Config
from codecctl.train.memory import Costs, Footprint, measure_costs
from codecctl.train.setup import start_state
from codecctl.train.step import at_full_weight, train_step
from tests.train.tiny import ADVERSARIAL, tiny_config, tiny_context

pytestmark = pytest.mark.slow

SMALL = tiny_config(Path("unused"), *ADVERSARIAL, "train.batch_size=4")
LARGER = tiny_config(
    Path("unused"), "model.front.base_channels=8", "data.crop_seconds=0.8", "train.batch_size=6",
    "model.transformer={width: 64, n_layers: 2, n_heads: 4, feedforward_width: 128, look_back_frames: 50}",
)  # fmt: skip


def measured_peak(config: Config) -> int:
    """Bytes that the allocator had given out at most, from before the weights were made to after a second step."""
    cpu = torch.device("cpu")
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as recorded:
        state = start_state(config, cpu, steps_per_epoch=1)
        context = tiny_context(state, config)
        state = at_full_weight(state, config)
        audio = 0.1 * torch.randn(config.train.batch_size * config.train.accumulate, 1, config.crop_samples)
        for _ in range(2):
            train_step(state, audio.chunk(config.train.accumulate), context, config)
    events = [event for event in recorded.profiler.kineto_results.events() if event.name() == "[memory]"]  # type: ignore[union-attr]
    alive = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        alive += event.nbytes()
        peak = max(peak, alive)
    return peak


@pytest.fixture(scope="module")
def costs() -> Costs:
    return measure_costs(SMALL)


def step_of(config: Config, costs: Costs) -> Footprint:
    return costs.late.of(config.train.batch_size, config.train.accumulate)


@pytest.mark.parametrize("config", [SMALL, LARGER], ids=["small", "larger"])
def test_predicted_peak_is_that_of_the_allocator(config: Config, costs: Costs) -> None:
    costs = costs if config is SMALL else measure_costs(config)
    assert step_of(config, costs).peak == pytest.approx(measured_peak(config), rel=0.15)


def test_accumulated_batches_keep_gradients_between_them() -> None:
    config = tiny_config(Path("unused"), "train.accumulate=3")
    cost = measure_costs(config).late
    one, three = cost.of(2), cost.of(2, accumulate=3)
    assert three.peak == one.peak + cost.gradients == pytest.approx(measured_peak(config), rel=0.15)
    assert three.operations == 3 * one.operations


@pytest.mark.parametrize("n_crops", [4, 9])
def test_one_step_gives_the_costs_of_every_batch(n_crops: int, costs: Costs) -> None:
    full = measure_costs(SMALL, n_crops)
    assert costs.early
    assert full.early
    assert costs.early.of(n_crops) == full.early.of(n_crops)
    assert costs.late.of(n_crops) == full.late.of(n_crops)


def test_a_beam_search_in_chunks_grows_with_the_batch() -> None:
    config = tiny_config(Path("unused"), "model.quantizer.beam_width=3")
    predicted, full = measure_costs(config).late.of(5), measure_costs(config, 5).late.of(5)
    assert predicted.operations == pytest.approx(full.operations, rel=0.01)
    assert predicted.moved == pytest.approx(full.moved, rel=0.01)
    assert predicted.peak == pytest.approx(full.peak, rel=0.01)


def test_lasting_bytes_are_those_of_the_networks(costs: Costs) -> None:
    state = start_state(SMALL, torch.device("cpu"), steps_per_epoch=1)
    assert state.discriminators is not None
    codec = sum(value.nbytes for value in state.codec.state_dict().values())
    learning = [*state.codec.parameters(), *state.discriminators.parameters()]
    assert (costs.lasting["codec"], costs.lasting["its average"]) == (codec, codec)
    assert costs.late.gradients == sum(parameter.nbytes for parameter in learning)
    assert costs.lasting["moments"] == pytest.approx(2 * costs.late.gradients, rel=0.05)  # and a count of steps each


def test_discriminators_cost_memory_and_work(costs: Costs) -> None:
    assert costs.early is not None
    early, late = costs.early.of(4), costs.late.of(4)
    assert early.peak < late.peak
    assert early.moved < late.moved
    assert early.operations < late.operations


def test_operations_of_known_layers() -> None:
    """A matrix product of a linear layer, forward and both ways back: 6 x frames x width x width each."""
    layer = "model.transformer={{width: 8, n_layers: 1, n_heads: 2, feedforward_width: {}, look_back_frames: 5}}"
    narrow, wide = (measure_costs(tiny_config(Path("unused"), layer.format(width))).late.of(2) for width in (8, 108))
    n_frames = 2 * SMALL.crop_samples // SMALL.model.hop_length
    assert wide.operations - narrow.operations == 2 * 6 * n_frames * 8 * (3 * 100)  # encoder and decoder


MEASURED_BY_THE_SYSTEM = """
import sys
from pathlib import Path
import torch
from codecctl.config.load import load_config
from codecctl.train.setup import start_state
from codecctl.train.step import train_step
from tests.train.tiny import tiny_context
def of_system(key):
    return int(Path("/proc/self/status").read_text().split(key + ":")[1].split()[0]) * 1024
config = load_config("starter", overrides=["loss.adversarial_weight=0", "loss.feature_weight=0"])
torch.nn.functional.conv1d(torch.ones(1, 1, 9, requires_grad=True), torch.ones(1, 1, 3)).sum().backward()
import torch._dynamo
before = of_system("VmRSS")
state = start_state(config, torch.device("cpu"))
context = tiny_context(state, config)
for _ in range(2):
    train_step(state, [0.1 * torch.randn(config.train.batch_size, 1, config.crop_samples)], context, config)
print(of_system("VmHWM") - before)
"""


@pytest.mark.bench
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells the peak of a process")
def test_predicted_peak_is_that_of_the_system(capsys: pytest.CaptureFixture[str]) -> None:
    """The resident memory of a fresh process, whose allocator hands back what it does not need."""
    from codecctl.config.load import load_config

    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", MEASURED_BY_THE_SYSTEM]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    off = ["loss.adversarial_weight=0", "loss.feature_weight=0"]
    config = load_config("starter", overrides=off)
    predicted, measured = step_of(config, measure_costs(config)).peak, int(done.stdout)
    with capsys.disabled():
        print(f"\nstarter, one step: predicted {predicted / 1e6:.0f} MB, measured {measured / 1e6:.0f} MB")
    assert predicted == pytest.approx(measured, rel=0.15)
