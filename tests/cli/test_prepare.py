"""`codecctl prepare`: the report on stdout, the rest on stderr, and the right exit codes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile


def codecctl(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "codecctl.cli.main", *map(str, arguments)], capture_output=True, text=True, check=False
    )


@pytest.mark.slow
def test_prepare_prints_the_report_each_time(tmp_path: Path, speech_files: list[Path]) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    for path in speech_files:
        (raw / path.name).write_bytes(path.read_bytes())
    (raw / "bad.wav").write_bytes(b"\xff\xd8\xff\xe0JFIF")
    for _ in range(2):
        done = codecctl(
            "prepare", raw, "--out", tmp_path / "out", "--workers", "2", "--set", "data.validation_share=0.3"
        )
        assert done.returncode == 0, done.stderr
        assert f"{len(speech_files)} recordings" in " ".join(done.stdout.split())  # a narrow table wraps its title
        assert "1 recording was rejected" in done.stderr
        assert "validation" in done.stdout


@pytest.mark.slow
def test_wrong_use_exits_with_a_message(tmp_path: Path) -> None:
    gone = codecctl("prepare", tmp_path / "gone", "--out", tmp_path / "out")
    assert (gone.returncode, gone.stdout) == (1, "")
    assert "gone: no such file or folder" in gone.stderr
    assert codecctl("prepare", tmp_path, "--set", "data.min_second=1").returncode == 2


@pytest.mark.slow
def test_prepare_says_what_it_leaves_out_and_which_channel_it_takes(tmp_path: Path) -> None:
    raw, sound = tmp_path / "raw", np.random.default_rng(0).uniform(-0.5, 0.5, 32_000)
    raw.mkdir()
    soundfile.write(raw / "a.wav", np.stack([sound / 2, -sound / 2.1], axis=1), 16_000)
    soundfile.write(raw / "b.wav", sound[::-1], 16_000)
    for name in ("x.txt", "y.txt", "LICENSE"):
        (raw / name).touch()
    done = codecctl("prepare", raw, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "left out, no audio by their suffix: 2 .txt, 1 without a suffix" in done.stderr
    assert "the louder one was taken: raw/a (channel 1)" in done.stderr
