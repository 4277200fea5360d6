"""Before the first step: what would fail is told before anything is written, and nothing is changed by looking."""

from __future__ import annotations

import copy
import shutil
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from codecctl.cli.watch import describe_preflight
from codecctl.config.schema import Config
from codecctl.errors import CodecctlError, ConfigError
from codecctl.train.callbacks import TrainingCallbacks
from codecctl.train.loop import resume, train
from codecctl.train.preflight import Preflight, preflight
from codecctl.train.setup import checkpoint_bytes, open_crops, start_state
from codecctl.train.state import TrainState
from codecctl.train.step import train_step
from tests.train.tiny import ADVERSARIAL, tiny_config, tiny_context

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")


class Heard(TrainingCallbacks):
    findings: Preflight

    def checked(self, findings: Preflight) -> None:
        self.findings = findings


class Usage(NamedTuple):
    free: int


@pytest.fixture
def config(prepared: Path) -> Config:
    """Discriminators that begin to learn long after the first step."""
    return tiny_config(prepared, *ADVERSARIAL, "train.adversarial.start_epoch=5", "train.n_steps=100")


def bits(state: TrainState) -> list[torch.Tensor]:
    assert state.discriminators is not None
    parts = (state.generator, state.ema, state.discriminators)
    return [value for part in parts for value in part.state_dict().values()]


def test_preflight_has_no_effect(config: Config, tmp_path: Path) -> None:
    state = start_state(config, CPU, steps_per_epoch=10)
    context = tiny_context(state, config)
    before, random = copy.deepcopy(bits(state)), torch.get_rng_state()
    found = preflight(state, context, config, open_crops(config), tmp_path / "run")
    assert all(torch.equal(a, b) for a, b in zip(before, bits(state), strict=True))
    assert torch.equal(random, torch.get_rng_state())
    assert (state.step, state.adversarial_step) == (0, 50)
    assert all(parameter.grad is None for parameter in state.generator.parameters())
    assert not list(tmp_path.iterdir())
    assert found.losses.keys() >= {"mel", "adversarial", "discriminator"}


def test_preflight_computes_adversarial_losses(config: Config, tmp_path: Path) -> None:
    state = start_state(config, CPU, steps_per_epoch=10)
    assert state.discriminators is not None
    with torch.no_grad():
        next(state.discriminators.parameters()).fill_(torch.nan)
    with pytest.raises(CodecctlError, match=r"step 1: the gradient of its batch is not finite .*adversarial nan"):
        preflight(state, tiny_context(state, config), config, open_crops(config), tmp_path)


def test_the_first_step_is_the_same_after_preflight(config: Config, tmp_path: Path) -> None:
    states = [start_state(config, CPU, steps_per_epoch=10) for _ in range(2)]
    crops = open_crops(config)
    for state, looked in zip(states, (True, False), strict=True):
        context = tiny_context(state, config)
        if looked:
            preflight(state, context, config, crops, tmp_path)
        train_step(state, [crops.batch(0, 2)], context, config)
    assert all(torch.equal(a, b) for a, b in zip(*map(bits, states), strict=True))


def test_train_and_resume_report_the_findings(config: Config, tmp_path: Path) -> None:
    first, second = Heard(), Heard()
    train(config, tmp_path / "run", CPU, first, stop_step=1)
    resume(tmp_path / "run", CPU, second, stop_step=2)
    for heard in (first, second):
        lines = describe_preflight(heard.findings)
        assert lines["first batch"].startswith("all finite: waveform ")
        assert "discriminator" in lines["first batch"]
        assert "s to cut" in lines["loader"]
    assert first.findings.needed_bytes == 3 * checkpoint_bytes(start_state(config, CPU, steps_per_epoch=10))
    assert "MB more" in describe_preflight(first.findings)["disk"]


@pytest.mark.parametrize("begun", [False, True])
def test_no_room_for_checkpoints_stops_before_the_folder_changes(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begun: bool
) -> None:
    """A disk cannot be made smaller for a test: what is said of it can."""
    run = tmp_path / "run"
    if begun:
        train(config, run, CPU, TrainingCallbacks(), stop_step=1)
    before = {path: path.read_bytes() for path in run.rglob("[!.]*") if path.is_file()}
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(free=1000))
    with pytest.raises(CodecctlError, match=r"run: 3 checkpoints of .* MB are free; make room"):
        resume(run, CPU, TrainingCallbacks()) if begun else train(config, run, CPU, TrainingCallbacks())
    assert {path: path.read_bytes() for path in run.rglob("[!.]*") if path.is_file()} == before
    assert run.exists() is begun


def test_too_few_loader_threads_are_reported() -> None:
    few = Preflight({}, False, step_seconds=0.5, cut_seconds=0.9, n_workers=1, needed_bytes=3_000_000, free_bytes=0)
    enough, none = replace(few, n_workers=2), replace(few, n_workers=0)
    few_line, enough_line, none_line = (describe_preflight(found)["loader"] for found in (few, enough, none))
    assert few_line.endswith("data.n_workers=1 is too few; raise it, or use a faster disk")
    assert enough_line.endswith("data.n_workers=2 keeps up")
    assert none_line == "a batch takes 0.900 s to cut and 0.50 s to learn from, one after the other: data.n_workers=0"


def test_another_sample_rate_than_that_of_prepared_audio_is_refused(prepared: Path, tmp_path: Path) -> None:
    config = tiny_config(prepared, "model.sample_rate=24000")
    with pytest.raises(ConfigError, match=r"model\.sample_rate: 24000, but prepared audio has 16000 Hz; set it to"):
        train(config, tmp_path / "run", CPU, TrainingCallbacks())
    assert not (tmp_path / "run").exists()


def test_a_run_without_a_loss_at_its_first_step_is_refused(prepared: Path, tmp_path: Path) -> None:
    names = ("waveform", "spectral", "mel", "commitment")
    without = [f"loss.{name}_weight=0" for name in names]
    config = tiny_config(prepared, *ADVERSARIAL, *without, "train.adversarial.start_epoch=5")
    with pytest.raises(ConfigError, match="loss: all weights are 0 before the discriminators start"):
        train(config, tmp_path / "run", CPU, TrainingCallbacks())
    assert not (tmp_path / "run").exists()
