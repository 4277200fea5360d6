"""`codecctl train`: a run folder, told on stderr, stopped in good order."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from codecctl.config.load import load_config
from codecctl.inference.checkpoint import Checkpoint
from codecctl.inference.load import Codec
from codecctl.train import signals
from tests.cli.conftest import Finished
from tests.train.tiny import tiny_yaml

pytestmark = pytest.mark.slow

Program = Callable[..., Finished]


def test_a_training_leaves_a_run_that_can_be_used(codecctl: Program, prepared: Path, tmp_path: Path, wav: Path) -> None:
    run = tmp_path / "run"
    config = tiny_yaml(tmp_path, prepared, "train.validate_every_steps=3")
    done = codecctl("train", "--config", config, "--run", run, "--steps", "4", "--device", "cpu")
    assert (done.code, done.stdout) == (0, b""), done.stderr
    assert {path.name for path in run.glob("[!.]*")} == {"config.yaml", "last.pt", "best.pt", "metrics.jsonl", "tb"}
    assert Checkpoint.read(run / "last.pt").step == 4
    assert "from the start to step 4" in done.stderr
    assert "step 3: validation" in done.stderr
    assert "mel_distance" in done.stderr
    codes = codecctl("encode", wav, "--checkpoint", run / "best.pt", "-o", tmp_path / "codes.npy", "--device", "cpu")
    assert codes.code == 0, codes.stderr


def test_the_log_is_what_was_trained(codecctl: Program, prepared: Path, tmp_path: Path) -> None:
    codecctl("train", "--config", tiny_yaml(tmp_path, prepared), "--run", tmp_path / "run", "--device", "cpu")
    events = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    events = [event for event in events if event["kind"] != "checkpoint"]
    assert [event["step"] for event in events] == [1, 2, 3, 4, 5, 6, 6]
    assert [event["kind"] for event in events] == ["train"] * 6 + ["validation"]
    assert len(events[0]["perplexity"]) == 3
    assert all(event["total_loss"] > 0 for event in events[:6])


def test_options_lie_over_the_file(
    codecctl: Program, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """--data, --gpu and --set end up in the run's config; the run is named after the config."""
    monkeypatch.chdir(tmp_path)
    config = tiny_yaml(tmp_path, Path("elsewhere"))
    changes = ["--set", "train.seed=7", "--set", "train.batch_size=3"]
    done = codecctl(
        "train", "--config", config, "--data", prepared, "--gpu", "rtx4090", "--device", "cpu", "--steps", "1", *changes
    )
    assert done.code == 0, done.stderr
    written = load_config(tmp_path / "runs" / "tiny" / "config.yaml")
    assert written.data.path == str(prepared)
    assert (written.train.seed, written.train.batch_size, written.train.precision) == (7, 3, "bfloat16")
    assert Checkpoint.read("runs/tiny/last.pt").run["config"] == written.model_dump(mode="json", by_alias=True)


def test_a_run_is_not_overwritten(codecctl: Program, prepared: Path, tmp_path: Path) -> None:
    command = ["train", "--config", tiny_yaml(tmp_path, prepared), "--run", tmp_path / "run", "--device", "cpu"]
    assert codecctl(*command, "--steps", "1").code == 0
    before = (tmp_path / "run" / "last.pt").read_bytes()
    again = codecctl(*command)
    assert (again.code, again.stdout) == (2, b"")
    assert f"`codecctl resume {tmp_path / 'run'}` goes on" in again.stderr
    assert (tmp_path / "run" / "last.pt").read_bytes() == before


@pytest.mark.parametrize("name", ["best.pt", "step-000000002.pt", "metrics.jsonl", "config.yaml"])
def test_what_is_left_of_another_run_is_not_overwritten(
    codecctl: Program, prepared: Path, tmp_path: Path, name: str
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).write_text("old")
    done = codecctl("train", "--config", tiny_yaml(tmp_path, prepared), "--run", tmp_path / "run", "--device", "cpu")
    assert (done.code, done.stderr.count("\n")) == (2, 1)
    assert f"{tmp_path / 'run' / name}: is of another run" in done.stderr
    assert [(path.name, path.read_text()) for path in (tmp_path / "run").iterdir()] == [(name, "old")]


@pytest.mark.parametrize("name", ["set #2", "[set]", "a: b", "{a}", "*x", "'", "\udcff"])
def test_a_path_is_no_yaml(codecctl: Program, prepared: Path, tmp_path: Path, name: str) -> None:
    data = tmp_path / name
    data.symlink_to(prepared)
    config, run = tiny_yaml(tmp_path, Path("none")), tmp_path / "run"
    done = codecctl("train", "--config", config, "--data", data, "--run", run, "--steps", "1", "--device", "cpu")
    assert done.code == 0, done.stderr
    assert load_config(run / "config.yaml").data.path == str(data)


def test_sigterm_saves_and_says_how_to_go_on(prepared: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    config = tiny_yaml(tmp_path, prepared, "train.n_steps=100000")
    command = [sys.executable, "-m", "codecctl.cli.main", "train", "--config", config, "--run", run, "--device", "cpu"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not (run / "metrics.jsonl").exists() or not (run / "metrics.jsonl").stat().st_size:
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (143, "")
    step = Checkpoint.read(run / "last.pt").step
    assert err.splitlines()[-1] == f"stopped after step {step}, saved; `codecctl resume {run}` goes on"
    assert Codec.load(run / "last.pt", "cpu").n_codebooks == 3


def test_minutes_that_are_over_save_and_say_how_to_go_on(
    codecctl: Program, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, config = tmp_path / "run", tiny_yaml(tmp_path, prepared)
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + 3600 * (run / "metrics.jsonl").exists())
    monkeypatch.setattr(signals, "time", clock)  # the hour is over when the log is opened
    done = codecctl("train", "--config", config, "--run", run, "--device", "cpu", "--max-minutes", "60")
    assert (done.code, done.stdout) == (0, b""), done.stderr
    assert done.stderr.splitlines()[-1] == (
        f"stopped after step 1: the time limit is over; saved; `codecctl resume {run}` goes on"
    )
    monkeypatch.undo()
    assert codecctl("resume", run, "--device", "cpu", "--max-minutes", "60").code == 0
    assert Checkpoint.read(run / "last.pt").step == 6


@pytest.mark.parametrize("minutes", ["0", "-3", "0.00001"])
def test_minutes_that_no_run_fits_into_are_refused(
    codecctl: Program, prepared: Path, tmp_path: Path, minutes: str
) -> None:
    run, config = tmp_path / "run", tiny_yaml(tmp_path, prepared)
    done = codecctl("train", "--config", config, "--run", run, "--device", "cpu", "--max-minutes", minutes)
    assert (done.code, done.stdout) == (2, b"")
    assert re.fullmatch(r"error: --max-minutes \S+: .*", done.stderr.splitlines()[-1])
    assert not run.exists()


def test_a_dry_run_says_what_a_run_would_take_and_makes_none(
    codecctl: Program, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a card that is not here; a run's folder is not made."""
    monkeypatch.chdir(tmp_path)
    done = codecctl("train", "--config", tiny_yaml(tmp_path, prepared), "--gpu", "rtx4090", "--dry-run", "--steps", "5")
    assert done.code == 0, done.stderr
    told = dict(line.split("  ", 1) for line in done.stdout.decode().splitlines())
    assert told["step"].strip() == "24 crops of 0.2 s, bfloat16"
    assert told["fits"].strip().startswith("yes: 8")
    assert "of 24 GB (RTX 4090), including" in told["fits"]
    assert "5 steps of" in told["time and cost"]
    assert not (tmp_path / "runs").exists()


COUNTING = """
import gc, sys
from codecctl.cli.main import run
n_collections = 0
def count(phase, info):
    global n_collections
    n_collections += phase == "start" and "torch" in sys.modules
gc.callbacks.append(count)
code = run(sys.argv[1:])
print(n_collections, gc.isenabled())
sys.exit(code)
"""


def test_a_dry_run_does_not_look_for_garbage(prepared: Path, tmp_path: Path) -> None:
    """A thousand collections would take a third of its time. Afterwards they are on again."""
    arguments = ["train", "--config", str(tiny_yaml(tmp_path, prepared)), "--dry-run"]
    done = subprocess.run([sys.executable, "-c", COUNTING, *arguments], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 True"


def test_explain_shows_each_loss_and_makes_no_run(
    codecctl: Program, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = codecctl("train", "--config", tiny_yaml(tmp_path, prepared), "--device", "cpu", "--explain")
    assert done.code == 0, done.stderr
    header, *rows = done.stdout.decode().splitlines()
    assert header.split()[:5] == ["loss", "value", "weight", "weighted", "share"]
    assert [row.split()[0] for row in rows] == ["waveform", "spectral", "mel", "commitment"]
    assert sum(float(row.split()[4].rstrip("%")) for row in rows) == pytest.approx(100, abs=0.3)
    assert not (tmp_path / "runs").exists()
