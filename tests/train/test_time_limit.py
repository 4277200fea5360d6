"""`max_minutes`: the run ends as a signal would end it, and goes on from there."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from codecctl.config.schema import Config
from codecctl.errors import UsageError
from codecctl.evaluate.rendering import Renderer
from codecctl.inference.checkpoint import Checkpoint
from codecctl.train import signals
from codecctl.train.callbacks import TrainingCallbacks
from codecctl.train.loop import resume, train
from codecctl.train.signals import TimeLimit
from codecctl.train.step import StepResult
from codecctl.train.timer import Throughput
from tests.train.tiny import tiny_config

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")


class Minutes(TrainingCallbacks):
    """A clock of `signals` that is one minute on after each step."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.ended_at = 0.0, 0
        monkeypatch.setattr(signals, "time", SimpleNamespace(monotonic=lambda: 60 * self.now))

    def stepped(self, step: int, result: StepResult, throughput: Throughput) -> None:
        self.now += 1

    def time_over(self, step: int, command: str) -> None:
        self.ended_at = step


@pytest.fixture
def minutes(monkeypatch: pytest.MonkeyPatch) -> Minutes:
    return Minutes(monkeypatch)


@pytest.fixture
def config(prepared: Path) -> Config:
    return tiny_config(prepared)


@pytest.mark.parametrize("key", ["train.max_minutes=2", "train.max_minutes=null"])
def test_the_step_is_finished_and_the_state_saved(prepared: Path, tmp_path: Path, minutes: Minutes, key: str) -> None:
    """The limit is the config's, or the argument's where there is one."""
    given = None if key == "train.max_minutes=2" else 2.0
    run = train(tiny_config(prepared, key), tmp_path / "run", CPU, minutes, max_minutes=given, started=0.0)
    assert minutes.ended_at == Checkpoint.read(run.last).step == 2
    resume(run.folder, CPU, minutes, max_minutes=1.0, started=60 * minutes.now)
    assert minutes.ended_at == Checkpoint.read(run.last).step == 3


def test_time_that_ends_with_the_last_step_ends_nothing(config: Config, tmp_path: Path, minutes: Minutes) -> None:
    run = train(config, tmp_path / "run", CPU, minutes, 4, max_minutes=4.0, started=0.0)
    assert (minutes.ended_at, Checkpoint.read(run.last).step) == (0, 4)


def test_time_that_is_over_ends_a_validation(
    prepared: Path, tmp_path: Path, minutes: Minutes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The resumed run validates again."""

    def render_for_a_minute(*arguments: Any) -> Any:
        minutes.now += 1
        return render(*arguments)

    render = Renderer.render
    monkeypatch.setattr(Renderer, "render", render_for_a_minute)
    config = tiny_config(prepared, "train.validate_every_steps=3", "validate.n_utterances=2")
    run = train(config, tmp_path / "run", CPU, minutes, max_minutes=3.5, started=0.0)
    assert minutes.ended_at == 3
    assert '"kind": "validation"' not in run.metrics.read_text()
    resume(run.folder, CPU, TrainingCallbacks(), 4)
    assert '"step": 3, "kind": "validation"' in run.metrics.read_text()


def test_time_that_is_over_before_the_first_step_is_refused(config: Config, tmp_path: Path, minutes: Minutes) -> None:
    """No run is begun, and one that is there stays as it is."""
    there = train(config, tmp_path / "there", CPU, TrainingCallbacks(), 2)
    minutes.now = 5
    said = "^--max-minutes 4: preparing the first step took 5 minutes; nothing was trained; give more$"
    with pytest.raises(UsageError, match=said):
        train(config, tmp_path / "new", CPU, minutes, max_minutes=4.0, started=0.0)
    with pytest.raises(UsageError, match=said):
        resume(there.folder, CPU, minutes, max_minutes=4.0, started=0.0)
    assert not (tmp_path / "new").exists()
    assert Checkpoint.read(there.last).step == 2


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan")])
def test_a_limit_that_is_none_is_refused(value: float) -> None:
    with pytest.raises(UsageError, match=re.escape(f"--max-minutes {value:g}: must be above 0")):
        TimeLimit(value, 0.0)


def test_the_last_validation_is_not_cut_short(prepared: Path, tmp_path: Path, minutes: Minutes) -> None:
    config = tiny_config(prepared, "train.n_steps=2")
    run = train(config, tmp_path / "run", CPU, minutes, max_minutes=2.0, started=0.0)
    assert '"step": 2, "kind": "validation"' in run.metrics.read_text()
    assert Checkpoint.read(run.best).step == 2
