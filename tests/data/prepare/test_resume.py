"""Killed at any point, with any number of workers or jobs, the same command gives the same bytes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from codecctl.config.schema import DataConfig
from codecctl.data.prepare import prepare
from codecctl.data.prepare.units import UnitFiles, tidy

CONFIG = DataConfig()


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three units of recordings."""
    folder = tmp_path_factory.mktemp("source") / "raw"
    random = np.random.default_rng(0)
    for number in range(600):
        path = folder / f"speaker {number // 40}" / f"{number}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, 0.1 * random.standard_normal(4000), 16_000)
    return folder


@pytest.fixture(scope="module")
def whole(raw: Path) -> dict[str, bytes]:
    """What an undisturbed run gives."""
    prepare([raw], raw.parent / "whole", CONFIG)
    return contents(raw.parent / "whole")


def contents(out: Path) -> dict[str, bytes]:
    """All that a reader sees, and nothing that a killed run has left."""
    files = (path for path in out.rglob("*") if path.is_file() and ".jobs" not in path.parts)
    return {str(path.relative_to(out)): path.read_bytes() for path in files if path.suffix not in (".done", ".json")}


@pytest.mark.slow
def test_two_workers_give_the_same_files(raw: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    prepare([raw], tmp_path, CONFIG, n_workers=2, on_progress=lambda *counts: seen.append(counts))
    assert contents(tmp_path) == whole
    assert seen[-1] == (600, 600)
    assert len(seen) == 3


@pytest.mark.slow
def test_jobs_of_an_array_give_the_same_files_in_any_order(raw: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    reports = [prepare([raw], tmp_path, CONFIG, shard=(part, 3)) for part in (3, 1, 2)]
    assert [report.n_units_done for report in reports] == [1, 1, 1]
    assert [report.n_units_left for report in reports] == [2, 1, 0]
    assert contents(tmp_path) == whole


def n_markers(out: Path) -> int:
    return len(list(out.glob("units/*.done")))


MOMENTS = {
    "a unit done": lambda out: n_markers(out) > 0,
    "a shard half written": lambda out: any(out.glob("shards/.*")),
}


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_run_resumes_to_the_same_files(raw: Path, whole: dict[str, bytes], tmp_path: Path, moment: str) -> None:
    command = [sys.executable, "-m", "codecctl.cli.main", "prepare", raw, "--out", tmp_path, "--workers", "2"]
    process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not MOMENTS[moment](tmp_path) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    report = prepare([raw], tmp_path, CONFIG)
    assert report.n_utterances == 600
    assert contents(tmp_path) == whole
    assert prepare([raw], tmp_path, CONFIG).n_units_done == 0


@pytest.mark.slow
def test_damaged_unit_is_prepared_again(raw: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    prepare([raw], tmp_path, CONFIG)
    next((tmp_path / "shards").glob("*.pcm")).unlink()
    next((tmp_path / "units").glob("*2.done")).write_text("{")
    assert prepare([raw], tmp_path, CONFIG).n_units_done in (1, 2)
    assert contents(tmp_path) == whole


@pytest.mark.slow
def test_changed_setting_prepares_everything_again(raw: Path, tmp_path: Path) -> None:
    prepare([raw], tmp_path, CONFIG)
    assert prepare([raw], tmp_path, DataConfig(min_seconds=0.1)).n_units_done == 3
    assert prepare([raw], tmp_path, DataConfig(min_seconds=0.1, split_seed=5)).n_units_done == 0


def test_marker_is_valid_for_its_input_only(tmp_path: Path) -> None:
    files = UnitFiles(tmp_path, "a")
    files.marker.parent.mkdir()
    assert not files.is_done("first")
    files.mark_done("first", shard=None)
    assert not files.is_done("first")
    files.results.touch()
    assert files.is_done("first")
    assert not files.is_done("second")
    files.mark_done("first", shard="shards/gone.pcm")
    assert not files.is_done("first")
    files.marker.write_text('{"input": "first", "shard": nu')
    assert not files.is_done("first")


def test_only_shards_and_indices_that_are_not_named_are_removed(tmp_path: Path) -> None:
    kept = ["shards/a-1-now.pcm", "shards/notes.txt", "shards/folder/old.pcm", "index-now.npy", "index.txt"]
    kept += ["units/a-1.json", "units/b-1.json", "shards/b-1-new.pcm"]  # another process has added b
    for name in (*kept, "shards/a-1-old.pcm", "shards/gone-1-old.tar", "index-old.npy"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    tidy(tmp_path, ["a-1"], {"shards/a-1-now.pcm", "index-now.npy"})
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert left == set(kept)
