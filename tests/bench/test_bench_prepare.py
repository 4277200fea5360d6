"""What checking and storing cost over decoding and resampling alone; two workers; memory."""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr

from codecctl.config.schema import DataConfig
from codecctl.data.prepare import prepare

pytestmark = pytest.mark.bench


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory, speech_files: list[Path]) -> Path:
    """Forty minutes of real speech at 48 kHz, in utterances of some seconds, none like another."""
    folder = tmp_path_factory.mktemp("bench") / "raw"
    clips = [soundfile.read(path, dtype="float32") for path in speech_files]
    random = np.random.default_rng(0)
    for number in range(500):
        audio, rate = clips[number % len(clips)]
        path = folder / f"{number % 20}" / f"{number}.flac"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, soxr.resample(audio * random.uniform(0.3, 1), rate, 48_000), 48_000)
    return folder


def decode_and_resample(folder: Path) -> None:
    """The least that any preparation does: whole files, one process, nothing kept."""
    for path in sorted(folder.rglob("*.flac")):
        audio, rate = soundfile.read(path, dtype="float32")
        soxr.resample(audio, rate, 16_000, quality="HQ")


def seconds_of(work: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    start = clock()
    work()
    return clock() - start


def test_checks_cost_little(raw: Path, tmp_path: Path) -> None:
    ratios = []
    for turn in range(7):  # processor time: what else the machine does counts less
        alone = seconds_of(lambda: decode_and_resample(raw), time.process_time)
        ours = seconds_of(lambda out=tmp_path / str(turn): prepare([raw], out, DataConfig()), time.process_time)
        ratios.append(alone / ours)
    print(f"prepare runs at {statistics.median(ratios):.2f} of decoding and resampling alone: {ratios}")
    assert statistics.median(ratios) >= 0.8


@pytest.fixture(scope="module")
def many(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some hours: the same at four levels."""
    folder = tmp_path_factory.mktemp("bench-many") / "raw"
    for path in sorted(raw.rglob("*.flac")):
        audio, rate = soundfile.read(path, dtype="float32")
        for number in range(4):
            target = folder / f"{number}" / path.relative_to(raw)
            target.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(target, audio * (1 - 0.15 * number), rate)
    return folder


def processor_seconds() -> tuple[float, float]:
    """Of this process, and of those that it started and that have ended."""
    return sum(resource.getrusage(resource.RUSAGE_SELF)[:2]), sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])


def test_two_workers(many: Path, tmp_path: Path) -> None:
    """By processor time, as wall time tells of the machine's other work: what cannot be shared, and half of the rest.
    The units are alike and many, so that the halves are; the workers' start is in it."""
    ratios, walls = [], []
    for turn in range(3):
        one = seconds_of(lambda out=tmp_path / f"{turn}-1": prepare([many], out, DataConfig()), time.process_time)
        before, start = processor_seconds(), time.perf_counter()
        prepare([many], tmp_path / f"{turn}-2", DataConfig(), n_workers=2)
        walls.append(time.perf_counter() - start)
        alone, workers = (after - then for after, then in zip(processor_seconds(), before, strict=True))
        ratios.append(one / (alone + workers / 2))
    print(f"two workers could be {statistics.median(ratios):.2f} times as fast as one: {ratios}; wall seconds {walls}")
    assert statistics.median(ratios) >= 1.6


def peak_megabytes(folder: Path, out: Path) -> float:
    # The kernel's own mark of this program: getrusage would tell of the parent's memory before exec.
    program = (
        "import sys, re, pathlib; from codecctl.config.schema import DataConfig;"
        "from codecctl.data.prepare import prepare; prepare([sys.argv[1]], sys.argv[2], DataConfig());"
        "print(int(re.search(r'VmHWM:\\s*(\\d+)', pathlib.Path('/proc/self/status').read_text())[1]) / 1024)"
    )
    done = subprocess.run([sys.executable, "-c", program, folder, out], capture_output=True, text=True, check=True)
    return float(done.stdout)


def test_memory_is_flat(tmp_path: Path) -> None:
    peaks = {}
    random = np.random.default_rng(0)
    for n_files in (100, 10_000):
        folder = tmp_path / f"{n_files}"
        for number in range(n_files):
            path = folder / f"{number // 100}" / f"{number}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, 0.1 * random.standard_normal(8000), 16_000)
        peaks[n_files] = peak_megabytes(folder, tmp_path / f"out-{n_files}")
    long = tmp_path / "long"
    long.mkdir()
    with soundfile.SoundFile(long / "three hours.flac", "w", 48_000, 1) as file:
        for _ in range(180):
            file.write(0.1 * random.standard_normal(60 * 48_000))
    peaks["three hours"] = peak_megabytes(long, tmp_path / "out-long")
    print(f"peak memory in MB: {peaks}")
    assert peaks[10_000] < 1.25 * peaks[100]
    assert peaks["three hours"] < 1.5 * peaks[100]
