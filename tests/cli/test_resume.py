"""`codecctl resume`: on from the last checkpoint, or a line that says why not."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from codecctl.config.load import load_config
from codecctl.data.prepare import prepare
from codecctl.inference.checkpoint import Checkpoint, write_checkpoint
from tests.cli.conftest import Finished
from tests.conftest import CLIPS
from tests.train.tiny import tiny_yaml

pytestmark = pytest.mark.slow

Program = Callable[..., Finished]


@pytest.fixture
def begun(codecctl: Program, prepared: Path, tmp_path: Path) -> Path:
    """A run that was stopped after two of six steps."""
    config, run = tiny_yaml(tmp_path, prepared), tmp_path / "run"
    done = codecctl("train", "--config", config, "--run", run, "--steps", "2", "--device", "cpu")
    assert done.code == 0, done.stderr
    return run


def test_it_goes_on_as_if_nothing_had_happened(codecctl: Program, begun: Path, tmp_path: Path) -> None:
    done = codecctl("resume", begun, "--device", "cpu")
    assert (done.code, done.stdout) == (0, b""), done.stderr
    assert "from step 2 on to step 6" in done.stderr
    straight = tmp_path / "straight"
    assert codecctl("train", "--config", begun / "config.yaml", "--run", straight, "--device", "cpu").code == 0
    first, second = (
        Checkpoint.read(run / "last.pt", with_training=True).training["codec"] for run in (begun, straight)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_steps_may_go_beyond_the_schedule(codecctl: Program, begun: Path) -> None:
    assert codecctl("resume", begun, "--steps", "8", "--device", "cpu").code == 0
    assert Checkpoint.read(begun / "last.pt").step == 8
    events = [json.loads(line) for line in (begun / "metrics.jsonl").read_text().splitlines()]
    assert [event["step"] for event in events if event["kind"] == "train"] == list(range(1, 9))


def test_a_run_that_is_there_already_wants_more_steps(codecctl: Program, begun: Path) -> None:
    done = codecctl("resume", begun, "--steps", "2", "--device", "cpu")
    assert done.code == 2
    assert "is at step 2 already; give more with --steps" in done.stderr


def test_data_may_have_moved(codecctl: Program, begun: Path, prepared: Path, tmp_path: Path) -> None:
    config = Checkpoint.read(begun / "last.pt").run["config"]
    assert config["data"]["path"] == str(prepared)
    moved = tmp_path / "moved"
    moved.symlink_to(prepared)
    assert codecctl("resume", begun, "--data", moved, "--device", "cpu").code == 0
    assert Checkpoint.read(begun / "last.pt").run["config"]["data"]["path"] == str(moved)
    lost = codecctl("resume", begun, "--data", tmp_path / "lost", "--steps", "9", "--device", "cpu")
    assert lost.code == 1
    assert f"{tmp_path / 'lost'}: holds no prepared audio" in lost.stderr


def test_moved_data_is_in_the_runs_config(codecctl: Program, begun: Path, prepared: Path, tmp_path: Path) -> None:
    moved = tmp_path / "a: b #2"
    moved.symlink_to(prepared)
    done = codecctl("resume", begun, "--data", moved, "--steps", "3", "--device", "cpu")
    assert done.code == 0, done.stderr
    assert load_config(begun / "config.yaml").data.path == str(moved)


def test_scores_on_other_validation_recordings_are_not_compared(
    codecctl: Program, begun: Path, prepared: Path, tmp_path: Path
) -> None:
    """`best.pt` would stay for ever where the old recordings were easier to code."""
    moved, other = tmp_path / "moved", tmp_path / "other"
    shutil.copytree(prepared, moved)
    prepare([CLIPS / "es-allison", CLIPS / "it-carlo"], other, load_config("smoke").data)
    last = Checkpoint.read(begun / "last.pt", with_training=True)
    before = {**last.training, "best_score": 0.001}
    write_checkpoint(last.path, last.model, last.weights, last.step, run=last.run, training=before)
    said = {}
    for n_steps, data in ((3, moved), (4, other)):
        done = codecctl("resume", begun, "--data", data, "--steps", str(n_steps), "--device", "cpu")
        assert done.code == 0, done.stderr
        said[n_steps] = re.search("best mel distance +(.*)", done.stderr)[1]
        assert Checkpoint.read(begun / "best.pt").step == (2 if data == moved else 4)
    assert said[3] == "0.001"
    assert said[4] == (
        "none yet: 0.001 was measured on other validation recordings; the next validation replaces best.pt"
    )
    lines = [json.loads(line) for line in (begun / "metrics.jsonl").read_text().splitlines()]
    scored = [line for line in lines if line["kind"] == "validation"]
    first, same, another = (line["validated_on"] for line in scored)
    assert first == same != another
    assert scored[2]["trend"] == "too early to tell"


def test_edits_of_the_config_are_listed_and_not_used(codecctl: Program, begun: Path) -> None:
    file = begun / "config.yaml"
    before = load_config(file)
    text = file.read_text()
    assert f"learning_rate: {before.train.learning_rate}" in text
    file.write_text(text.replace("seed: 0", "seed: 9").replace("n_steps: 6", "n_steps: 60"))
    done = codecctl("resume", begun, "--steps", "3", "--device", "cpu")
    assert done.code == 0, done.stderr
    assert (
        "train.n_steps  6, as in the checkpoint; 60 in config.yaml was not used: `--set train.n_steps=60` changes it"
        in re.sub(" {2,}", "  ", done.stderr)
    )
    assert "9 in config.yaml was not used: it cannot change within a run" in done.stderr
    assert load_config(file) == before


def test_an_edit_that_is_no_config_is_refused_and_kept(codecctl: Program, begun: Path) -> None:
    file = begun / "config.yaml"
    edited = file.read_text().replace("learning_rate:", "learning_rat:")
    file.write_text(edited)
    done = codecctl("resume", begun, "--steps", "3", "--device", "cpu")
    assert done.code == 2
    assert "config.yaml: unknown key" in done.stderr
    assert file.read_text() == edited


@pytest.mark.parametrize(("name", "words"), [("step-1.pt", "whose state is lost then"), ("x.wav", "not the folder")])
def test_only_a_checkpoint_can_be_gone_back_to(codecctl: Program, begun: Path, name: str, words: str) -> None:
    (begun / name).touch()
    done = codecctl("resume", begun / name, "--device", "cpu")
    assert done.code == 2
    assert words in done.stderr


def test_keys_that_may_change_within_a_run_are_set(codecctl: Program, begun: Path) -> None:
    done = codecctl("resume", begun, "--set", "train.learning_rate=1e-5", "--steps", "3", "--device", "cpu")
    assert done.code == 0, done.stderr
    assert "1e-05 instead of" in done.stderr
    assert load_config(begun / "config.yaml").train.learning_rate == 1e-5
    assert Checkpoint.read(begun / "last.pt").config().train.learning_rate == 1e-5
    events = [json.loads(line) for line in (begun / "metrics.jsonl").read_text().splitlines()]
    assert [event["learning_rate"] <= 1e-5 for event in events if event["kind"] == "train"] == [False, False, True]


@pytest.mark.parametrize(
    "change", ["train.seed=3", "model.quantizer.codebook_sizes=[4]", "train.adversarial.channels=1"]
)
def test_other_keys_are_refused_by_name(codecctl: Program, begun: Path, change: str) -> None:
    before = (begun / "config.yaml").read_text()
    done = codecctl("resume", begun, "--set", change, "--device", "cpu")
    assert (done.code, done.stdout, done.stderr.count("\n")) == (2, b"", 1)
    assert f"--set {change.split('=')[0]}: cannot change within a run" in done.stderr
    assert (begun / "config.yaml").read_text() == before


def test_what_is_no_run_is_told(codecctl: Program, tmp_path: Path) -> None:
    nothing = codecctl("resume", tmp_path / "none", "--device", "cpu")
    assert nothing.code == 1
    assert f"{tmp_path / 'none' / 'last.pt'}: no such file" in nothing.stderr
    (tmp_path / "last.pt").write_bytes(b"PK\x03\x04 half a file")
    broken = codecctl("resume", tmp_path, "--device", "cpu")
    assert broken.code == 1
    assert "last.pt: not a checkpoint that can be read" in broken.stderr
    assert broken.stderr.count("\n") == 1
