"""`codecctl prepare`: the report on stdout, the rest on stderr, and the right exit codes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def codecctl(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "codecctl.cli.main", *map(str, arguments)], capture_output=True, text=True, check=False
    )


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


def test_wrong_use_exits_with_a_message(tmp_path: Path) -> None:
    gone = codecctl("prepare", tmp_path / "gone", "--out", tmp_path / "out")
    assert (gone.returncode, gone.stdout) == (1, "")
    assert "gone: no such file or folder" in gone.stderr
    assert codecctl("prepare", tmp_path, "--set", "data.min_second=1").returncode == 2
