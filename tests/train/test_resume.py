"""A run that was stopped, or killed, and resumed is the run that was not."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from codecctl.config.load import load_config
from codecctl.config.schema import Config
from codecctl.errors import CodecctlError, Interrupted, UsageError
from codecctl.evaluate.rendering import Renderer
from codecctl.inference.checkpoint import Checkpoint, write_checkpoint
from codecctl.train import loop
from codecctl.train.callbacks import TrainingCallbacks
from codecctl.train.checkpoint import Run, read_run_config
from codecctl.train.loop import resume, train
from codecctl.train.step import StepResult
from codecctl.train.timer import Throughput
from tests.train.compare import assert_same_run, logged

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")


@pytest.fixture
def config(prepared: Path) -> Config:
    """A few steps of the smoke config, smaller still, that logs, validates and saves on the way."""
    changes = [
        f"data.path={prepared}", "data.crop_seconds=0.2", "model.quantizer.codebook_sizes=[32,16,16]",
        "model.quantizer.gain=true", "train.kmeans_vectors=200", "train.batch_size=2", "train.n_steps=10",
        "train.warmup_steps=3", "train.log_every_steps=1", "train.validate_every_steps=5",
        "train.checkpoint_every_steps=2", "validate.n_utterances=1", "validate.metrics=[]",
    ]  # fmt: skip
    return load_config("smoke", overrides=changes)


def test_ten_steps_equal_five_and_five(config: Config, tmp_path: Path) -> None:
    train(config, tmp_path / "straight", CPU, TrainingCallbacks())
    train(config, tmp_path / "broken", CPU, TrainingCallbacks(), stop_step=5)
    resume(tmp_path / "broken", CPU, TrainingCallbacks())
    assert_same_run(tmp_path / "straight", tmp_path / "broken")


class _InterruptAt(TrainingCallbacks):
    def __init__(self, step: int) -> None:
        self.step = step

    def stepped(self, step: int, result: StepResult, throughput: Throughput) -> None:
        if step == self.step:
            signal.raise_signal(signal.SIGINT)


def test_an_interrupted_run_saves_where_it_stands(config: Config, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(Interrupted, match=r"stopped after step 3, saved; `codecctl resume .*run` goes on") as stop:
        train(config, run, CPU, _InterruptAt(3))
    assert stop.value.exit_code == 130
    assert Checkpoint.read(run / "last.pt").step == 3
    resume(run, CPU, TrainingCallbacks())
    train(config, tmp_path / "straight", CPU, TrainingCallbacks())
    assert_same_run(tmp_path / "straight", run)


def test_the_end_given_to_the_command_is_part_of_how_to_go_on(config: Config, tmp_path: Path) -> None:
    with pytest.raises(Interrupted, match=r"saved; `codecctl resume .*run --steps 5` goes on"):
        train(config, tmp_path / "run", CPU, _InterruptAt(3), stop_step=5)


def test_a_signal_ends_a_validation_and_the_resumed_run_has_it(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may take minutes, and a machine that is taken away leaves seconds."""
    straight = train(config, tmp_path / "straight", CPU, TrainingCallbacks())
    render = Renderer.render
    monkeypatch.setattr(Renderer, "render", lambda *a: (signal.raise_signal(signal.SIGTERM), render(*a))[1])
    validation = config.validation.model_copy(update={"n_utterances": 2, "metrics": ("stoi",)})  # with processes
    config = config.model_copy(update={"validation": validation})
    with pytest.raises(Interrupted, match="stopped after step 5, saved") as stop:
        train(config, tmp_path / "run", CPU, TrainingCallbacks())
    assert stop.value.exit_code == 143
    assert all(line["kind"] == "train" for line in logged(tmp_path / "run"))
    monkeypatch.undo()
    resume(tmp_path / "run", CPU, TrainingCallbacks())
    assert [(line["step"], line["kind"]) for line in logged(tmp_path / "run")] == [
        (line["step"], line["kind"]) for line in logged(straight.folder)
    ]


def test_the_place_of_a_run_may_be_told_by_its_checkpoint(config: Config, tmp_path: Path) -> None:
    run = train(config, tmp_path / "run", CPU, TrainingCallbacks(), stop_step=5)
    with pytest.raises(UsageError, match=r"best.pt: a run goes on from its last.pt: give the folder .*run; to go back"):
        resume(run.best, CPU, TrainingCallbacks())
    assert resume(run.last, CPU, TrainingCallbacks(), stop_step=6).folder == run.folder
    assert Checkpoint.read(run.last).step == 6


def rewrite(checkpoint: Checkpoint, training: dict[str, Any]) -> None:
    """The same file with another training state."""
    write_checkpoint(
        checkpoint.path, checkpoint.model, checkpoint.weights, checkpoint.step, run=checkpoint.run, training=training
    )


@pytest.mark.parametrize("what", ["missing", "foreign"])
def test_a_key_too_few_or_too_many_stops_before_anything_is_changed(config: Config, tmp_path: Path, what: str) -> None:
    train(config, tmp_path, CPU, TrainingCallbacks(), stop_step=2)
    last = Checkpoint.read(tmp_path / "last.pt", with_training=True)
    name = "decoder.first.conv.bias"
    codec = dict(last.training["codec"])
    value = codec.pop(name)
    if what == "foreign":
        codec |= {name: value, "decoder.second_first.bias": value}
        name = "decoder.second_first.bias"
    rewrite(last, {**last.training, "codec": codec})
    before = {path: path.read_bytes() for path in tmp_path.glob("[!.]*") if path.is_file()}
    with pytest.raises(CodecctlError, match=f"last.pt: codec: weight '{name}' is {what}"):
        resume(tmp_path, CPU, TrainingCallbacks())
    assert {path: path.read_bytes() for path in tmp_path.glob("[!.]*") if path.is_file()} == before


def test_a_run_is_never_overwritten(config: Config, tmp_path: Path) -> None:
    train(config, tmp_path, CPU, TrainingCallbacks(), stop_step=2)
    with pytest.raises(UsageError, match=r"holds a run; `codecctl resume"):
        train(config, tmp_path, CPU, TrainingCallbacks())
    with pytest.raises(UsageError, match="is at step 2 already"):
        resume(tmp_path, CPU, TrainingCallbacks(), stop_step=2)
    with pytest.raises(CodecctlError, match="no such file"):
        resume(tmp_path / "nothing", CPU, TrainingCallbacks())


def test_a_checkpoint_without_its_optimizer_is_not_resumed(config: Config, tmp_path: Path) -> None:
    train(config, tmp_path, CPU, TrainingCallbacks(), stop_step=2)
    last = Checkpoint.read(tmp_path / "last.pt", with_training=True)
    rewrite(last, {name: part for name, part in last.training.items() if name != "optimizer"})
    with pytest.raises(CodecctlError, match="'optimizer' is missing"):
        resume(tmp_path, CPU, TrainingCallbacks())


def test_a_run_folder_holds_what_was_promised(config: Config, tmp_path: Path) -> None:
    train(config, tmp_path, CPU, TrainingCallbacks(), stop_step=5)
    assert {path.name for path in tmp_path.glob("[!.]*")} == {
        "config.yaml",
        "last.pt",
        "best.pt",
        "metrics.jsonl",
        "tb",
    }
    assert load_config(tmp_path / "config.yaml") == config
    kinds = [line["kind"] for line in logged(tmp_path)]
    assert kinds == ["train"] * 5 + ["validation"]
    assert any((tmp_path / "tb").iterdir())


def test_a_signal_in_the_last_validation_does_not_promise_more(config: Config, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(Interrupted, match=r"stopped after step 3, the last one, and saved$"):
        train(config, run, CPU, _InterruptAt(3), stop_step=3)
    assert Checkpoint.read(run / "last.pt").step == 3


def test_what_another_process_saves_meanwhile_is_not_overwritten(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one does that ends while this one starts."""
    run = train(config, tmp_path / "run", CPU, TrainingCallbacks(), stop_step=2)
    earlier = run.last.read_bytes()

    def read_then_overtaken(path: Run) -> Any:
        monkeypatch.setattr(loop, "read_run_config", read_run_config)
        read = read_run_config(path)
        resume(run.folder, CPU, TrainingCallbacks(), stop_step=4)
        return read

    monkeypatch.setattr(loop, "read_run_config", read_then_overtaken)
    with pytest.raises(
        UsageError, match=r"last\.pt: another process has saved it meanwhile; run the same command again"
    ):
        resume(run.folder, CPU, TrainingCallbacks(), stop_step=3)
    assert run.last.read_bytes() != earlier
    assert Checkpoint.read(run.last).step == 4
