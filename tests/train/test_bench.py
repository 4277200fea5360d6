"""The times of a training step, on random audio."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from codecctl.train.bench import StepTimes, implied_assumptions, measure_steps
from codecctl.train.plan import ASSUMPTIONS, Prediction
from tests.train.tiny import ADVERSARIAL, tiny_config

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
CARD = StepTimes(
    device="Card", n_steps=40, seconds=3.0, launched_seconds=3.0, audio_seconds=6.0, parts={}, host_wait_seconds=1.0,
    peak_bytes=10**10, reserved_bytes=13 * 10**9, context_bytes=5 * 10**8,
)  # fmt: skip
PREDICTION = Prediction(
    seconds_multiplying=0.5, seconds_moving=1.5, seconds_starting=0.1, peak_bytes=9e9, card_bytes=1.1e10,
    audio_seconds=6.0, operations=1e12, moved_bytes=1e12, seconds_launching=1.0, is_recorded=False,
)  # fmt: skip


def test_the_parts_of_a_step_add_up_to_it() -> None:
    """Without data; with discriminators from the first step on, though the config lets them start later."""
    config = tiny_config(Path("none"), *ADVERSARIAL, "train.adversarial.start_epoch=9", "train.accumulate=2")
    times = measure_steps(config, CPU, 5)
    parts = {"data", "other", "generator forward", "losses", "discriminators", "backward", "optimisers", "codebooks"}
    assert set(times.parts) == parts
    assert all(seconds > 0 for seconds in times.parts.values())
    assert 0.5 * times.seconds < sum(times.parts.values()) <= times.seconds
    assert times.audio_seconds == pytest.approx(2 * 2 * 0.2)
    assert times.peak_bytes is None


def test_a_config_without_discriminators_has_no_such_part() -> None:
    assert "discriminators" not in measure_steps(tiny_config(Path("none")), CPU, 1).parts


def test_an_assumption_that_explains_the_time_is_found() -> None:
    found = implied_assumptions(CARD, PREDICTION)
    assert found["share_of_peak"][1] == pytest.approx(ASSUMPTIONS.share_of_peak * 0.5 / 1.4)
    assert found["share_of_bandwidth"][1] == pytest.approx(ASSUMPTIONS.share_of_bandwidth * 1.5 / 2.4)
    assert found["seconds_a_kernel"][1] == pytest.approx(ASSUMPTIONS.seconds_a_kernel * 1.0 / 0.1)
    assert found["seconds_a_launch"][1] == pytest.approx(ASSUMPTIONS.seconds_a_launch * 3)
    assert found["fragmentation"] == (ASSUMPTIONS.fragmentation, 1.3)
    assert found["context_bytes"] == (ASSUMPTIONS.context_bytes, 5e8)


def test_an_assumption_that_cannot_explain_the_time_is_left_out() -> None:
    """The step is shorter than moving alone was to take: nothing else can be the reason."""
    assert implied_assumptions(replace(CARD, seconds=1.2), PREDICTION).keys() == {
        "share_of_bandwidth", "seconds_a_launch", "fragmentation", "context_bytes",
    }  # fmt: skip
    without_speed = replace(PREDICTION, seconds_moving=None)
    assert implied_assumptions(CARD, without_speed).keys() == {
        "seconds_a_launch", "fragmentation", "context_bytes",
    }  # fmt: skip
    assert implied_assumptions(replace(CARD, peak_bytes=None), PREDICTION) == {}


@pytest.mark.cuda
def test_a_card_tells_its_memory_and_how_long_the_host_waits() -> None:
    times = measure_steps(tiny_config(Path("none"), *ADVERSARIAL), torch.device("cuda"), 5)
    assert times.peak_bytes is not None
    assert times.reserved_bytes is not None
    assert times.host_wait_seconds is not None
    assert 0 < times.peak_bytes <= times.reserved_bytes
    assert 0 <= times.host_wait_seconds < times.seconds
    assert sum(times.parts.values()) <= times.seconds
