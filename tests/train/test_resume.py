"""A run that was stopped, or killed, and resumed is the run that was not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch.utils._pytree import tree_flatten

from codecctl.config import Config, load_config
from codecctl.errors import CodecctlError, Interrupted, UsageError
from codecctl.inference.load import read_checkpoint
from codecctl.train.loop import Watcher, resume, train
from codecctl.train.step import StepResult

CPU = torch.device("cpu")


@pytest.fixture
def config(prepared: Path) -> Config:
    """A few steps of the smoke config, smaller still, that logs, validates and saves on the way."""
    changes = [
        f"data.path={prepared}", "data.segment_seconds=0.2", "model.quantizer.codebook_sizes=[32,16,16]",
        "train.kmeans_vectors=200", "train.batch_size=2", "train.n_steps=10", "train.warmup_steps=3",
        "train.log_every_steps=1", "train.validate_every_steps=5", "train.checkpoint_every_steps=2",
        "validate.n_utterances=1",
    ]  # fmt: skip
    return load_config("smoke", overrides=changes)


def contents(path: Path) -> list[object]:
    checkpoint = read_checkpoint(path)
    return tree_flatten({key: checkpoint[key] for key in ("model", "optimizer", "step", "best_score", "fingerprint")})[
        0
    ]


def assert_equal(first: Path, second: Path) -> None:
    for a, b in zip(contents(first), contents(second), strict=True):
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def logged(run: Path) -> list[dict[str, object]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "audio_seconds_per_second"} for line in lines]


def test_ten_steps_equal_five_and_five(config: Config, tmp_path: Path) -> None:
    train(config, tmp_path / "straight", CPU, Watcher())
    train(config, tmp_path / "broken", CPU, Watcher(), stop_step=5)
    resume(tmp_path / "broken", CPU, Watcher())
    assert_equal(tmp_path / "straight" / "last.pt", tmp_path / "broken" / "last.pt")
    assert logged(tmp_path / "straight") == logged(tmp_path / "broken")


def test_a_killed_run_goes_on_from_its_last_checkpoint(config: Config, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(json.dumps(config.model_dump(mode="json", by_alias=True)))
    command = [sys.executable, "-m", "codecctl.cli.main", "train", "--config", tmp_path / "config.yaml"]
    run = tmp_path / "killed"
    process = subprocess.Popen([*command, "--run", run], env={**os.environ, "OMP_NUM_THREADS": "1"})
    while not (run / "last.pt").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 2 <= read_checkpoint(run / "last.pt")["step"] <= 10
    if read_checkpoint(run / "last.pt")["step"] < 10:
        resume(run, CPU, Watcher())
    train(config, tmp_path / "straight", CPU, Watcher())
    assert_equal(tmp_path / "straight" / "last.pt", run / "last.pt")
    assert logged(tmp_path / "straight") == logged(run)


class _InterruptAt(Watcher):
    def __init__(self, step: int) -> None:
        self.step = step

    def stepped(self, step: int, result: StepResult, audio_seconds_per_second: float) -> None:
        if step == self.step:
            signal.raise_signal(signal.SIGINT)


def test_an_interrupted_run_saves_where_it_stands(config: Config, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(Interrupted, match=r"stopped after step 3, saved; `codecctl resume .*run` goes on") as stop:
        train(config, run, CPU, _InterruptAt(3))
    assert stop.value.exit_code == 130
    assert read_checkpoint(run / "last.pt")["step"] == 3
    resume(run, CPU, Watcher())
    train(config, tmp_path / "straight", CPU, Watcher())
    assert_equal(tmp_path / "straight" / "last.pt", run / "last.pt")


def test_a_run_is_never_overwritten(config: Config, tmp_path: Path) -> None:
    train(config, tmp_path, CPU, Watcher(), stop_step=2)
    with pytest.raises(UsageError, match=r"holds a run; `codecctl resume"):
        train(config, tmp_path, CPU, Watcher())
    with pytest.raises(UsageError, match="is at step 2 already"):
        resume(tmp_path, CPU, Watcher(), stop_step=2)
    with pytest.raises(CodecctlError, match="no such file"):
        resume(tmp_path / "nothing", CPU, Watcher())


def test_a_checkpoint_without_its_optimizer_is_not_resumed(config: Config, tmp_path: Path) -> None:
    from codecctl.inference.load import write_checkpoint

    train(config, tmp_path, CPU, Watcher(), stop_step=2)
    content = read_checkpoint(tmp_path / "last.pt")
    del content["optimizer"]
    write_checkpoint(tmp_path / "last.pt", content)
    with pytest.raises(CodecctlError, match="'optimizer' is missing"):
        resume(tmp_path, CPU, Watcher())


def test_a_run_folder_holds_what_was_promised(config: Config, tmp_path: Path) -> None:
    train(config, tmp_path, CPU, Watcher(), stop_step=5)
    assert {path.name for path in tmp_path.iterdir()} == {"config.yaml", "last.pt", "best.pt", "metrics.jsonl", "tb"}
    assert load_config(tmp_path / "config.yaml") == config
    kinds = [line["kind"] for line in logged(tmp_path)]
    assert kinds == ["train"] * 5 + ["validation"]
    assert any((tmp_path / "tb").iterdir())
