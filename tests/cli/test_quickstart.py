"""`codecctl quickstart`: every step of a codec's life, for real, with a model that needs seconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import soundfile

from codecctl.inference.checkpoint import Checkpoint
from tests.cli.conftest import Finished
from tests.train.tiny import FEW_FRAMES, tiny_yaml

pytestmark = pytest.mark.slow

Program = Callable[..., Finished]


@pytest.fixture
def _tiny_smoke(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file `smoke` in the current folder is what `--config smoke` finds first."""
    monkeypatch.chdir(tmp_path)
    changes = (
        *FEW_FRAMES,
        "data.validation_share=0.3",
        "train.log_every_steps=50",
        "validate.metrics=[]",
        "validate.opus_kbps=[]",
    )
    tiny_yaml(tmp_path, Path("unused"), *changes).rename("smoke")


@pytest.mark.usefixtures("_tiny_smoke")
def test_the_whole_life_in_one_command(codecctl: Program, tmp_path: Path, speech_files: list[Path]) -> None:
    done = codecctl("quickstart", "--out", "quick start")
    assert done.code == 0, done.stderr
    shown = [line.split()[2] for line in done.stderr.splitlines() if line.startswith("$ codecctl ")]
    assert shown == ["encode", "decode", "prepare", "train", "resume", "validate", "encode", "info", "decode"]
    out = tmp_path / "quick start"
    made = {"starter.cctl", "starter.wav", "prepared", "run", "speech.cctl", "speech.wav"}
    assert {path.name for path in out.iterdir()} == made
    assert Checkpoint.read(out / "run" / "last.pt").step == 400
    clip = next(path for path in speech_files if path.name == "vm-forward.flac")
    assert soundfile.info(out / "speech.wav").frames == soundfile.info(clip).frames
    assert b"perplexity" in done.stdout


@pytest.mark.usefixtures("_tiny_smoke")
def test_it_stops_at_the_step_that_fails(codecctl: Program, tmp_path: Path) -> None:
    (tmp_path / "smoke").write_text("train: {batch_size: none}")
    done = codecctl("quickstart", "--out", "here")
    assert done.code == 2
    assert "train.batch_size" in done.stderr.splitlines()[-1]
    assert done.stderr.count("$ codecctl ") == 3


def test_it_never_writes_over_a_folder(codecctl: Program, tmp_path: Path) -> None:
    done = codecctl("quickstart", "--out", tmp_path)
    assert (done.code, done.stdout) == (2, b"")
    assert f"{tmp_path}: exists; remove it, or name another folder with --out" in done.stderr
    assert not any(tmp_path.iterdir())
