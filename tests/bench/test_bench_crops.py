"""Crops from shards against crops out of FLAC: with soundfile in a loop, and with a torch DataLoader over that."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from codecctl.config.schema import DataConfig
from codecctl.data.crops import Crops, prefetch
from codecctl.data.prepare import prepare

pytestmark = pytest.mark.bench

SEGMENT, BATCH = 16_000, 16


class FlacCrops(Dataset[Tensor]):
    """The obvious way: open a file, go to a random place, read a second."""

    def __init__(self, paths: list[Path]) -> None:
        self.paths = [path for path in paths if soundfile.info(path).frames > SEGMENT]

    def __len__(self) -> int:
        return 100_000

    def __getitem__(self, number: int) -> Tensor:
        random = np.random.default_rng(number)
        with soundfile.SoundFile(self.paths[random.integers(len(self.paths))]) as file:
            file.seek(int(random.integers(file.frames - SEGMENT)))
            return torch.from_numpy(file.read(SEGMENT, dtype="float32"))[None]


@pytest.fixture(scope="module")
def crops(speech_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Crops:
    out = tmp_path_factory.mktemp("bench") / "out"
    prepare([speech_folder], out, DataConfig())
    return Crops(out, "train", SEGMENT, seed=0)


def audio_seconds_a_second(next_batch: Callable[[], object], n_batches: int) -> float:
    next_batch()
    start = time.perf_counter()
    for _ in range(n_batches):
        next_batch()
    return n_batches * BATCH * SEGMENT / 16_000 / (time.perf_counter() - start)


def test_faster_than_flac(crops: Crops, speech_files: list[Path]) -> None:
    dataset, steps, numbers = FlacCrops(speech_files), iter(range(10**9)), iter(range(10**9))
    torch.set_num_threads(1)
    ours, theirs = [], []
    for _ in range(5):
        theirs.append(audio_seconds_a_second(lambda: torch.stack([dataset[next(numbers)] for _ in range(BATCH)]), 10))
        ours.append(audio_seconds_a_second(lambda: crops.batch(next(steps), BATCH), 200))
    ratio = statistics.median(ours) / statistics.median(theirs)
    print(f"crops: {statistics.median(ours):.0f} s of audio a second on one core, {ratio:.0f} times soundfile on FLAC")
    assert ratio >= 20


def test_faster_than_a_loader_over_flac(crops: Crops, speech_files: list[Path]) -> None:
    ours, theirs = [], []
    loader = iter(DataLoader(FlacCrops(speech_files), BATCH, num_workers=2))
    with prefetch(lambda step: crops.batch(step, BATCH), 0, 2) as batches:
        for _ in range(5):
            theirs.append(audio_seconds_a_second(lambda: next(loader), 20))
            ours.append(audio_seconds_a_second(lambda: next(batches), 200))
    ratio = statistics.median(ours) / statistics.median(theirs)
    print(
        f"two threads: {statistics.median(ours):.0f} s of audio a second, {ratio:.0f} times a DataLoader of two workers"
    )
    assert ratio > 1
