"""A corpus job against the model alone: reading, resampling, padding, storing."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
import torch
from numpy.typing import NDArray

from codecctl.audio.files import find_audio, read_audio
from codecctl.codes.job import encode_corpus
from codecctl.inference.load import Codec

pytestmark = pytest.mark.bench
_BATCH = (6, 80_000)  # 30 s in recordings of 5 s, nothing of it padding


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory, speech_files: list[Path]) -> Path:
    """Twelve minutes of real speech at 48 kHz, in recordings of 1 to 5 s: of few, neighbours by length differ much."""
    folder, random = tmp_path_factory.mktemp("bench") / "raw", np.random.default_rng(0)
    clips = [soundfile.read(path, dtype="float32") for path in speech_files]
    folder.mkdir()
    for number in range(240):
        audio, rate = clips[number % len(clips)]
        audio = audio[: int(random.uniform(1, 5) * rate)]
        soundfile.write(folder / f"{number}.flac", soxr.resample(audio, rate, 48_000), 48_000)
    return folder


def seconds_of(work: Callable[[], object]) -> NDArray[np.float64]:
    """Of wall-clock time, and of the processors."""
    start = time.perf_counter(), time.process_time()
    work()
    return np.subtract((time.perf_counter(), time.process_time()), start)


@torch.inference_mode()
def test_a_corpus_job_is_nearly_as_fast_as_the_model(raw: Path, tmp_path: Path) -> None:
    """By wall-clock time, on a quiet machine: the next recordings are read beside the model, which has one thread. By
    processor time reading and resampling from 48 kHz count in full."""
    torch.set_num_threads(1)
    codec = Codec.load("starter", "cpu")
    audio = np.concatenate([read_audio(path)[0][0, ::3] for path in find_audio([raw])])
    n_batches = len(audio) // int(np.prod(_BATCH))
    batches = torch.from_numpy(audio[: n_batches * int(np.prod(_BATCH))]).view(n_batches, _BATCH[0], 1, _BATCH[1])
    own, corpus, waits = [], [], []
    encode_corpus([raw], tmp_path / "first", "starter", device="cpu")  # loads the model

    def encode(turn: int) -> None:
        report = encode_corpus([raw], tmp_path / str(turn), "starter", device="cpu")
        waits.append(report.waiting)
        assert report.seconds == pytest.approx(len(audio) / 16_000, rel=0.01)

    for turn in range(3):
        own.append(n_batches * 30 / seconds_of(lambda: [codec.encode(batch) for batch in batches]))
        corpus.append(len(audio) / 16_000 / seconds_of(lambda turn=turn: encode(turn)))
    speeds = [np.median(each, axis=0).round(1) for each in (corpus, own)]
    wall, processor = np.median(np.divide(corpus, own), axis=0)
    print(
        f"corpus {speeds[0]}, model alone {speeds[1]} s of audio a second (wall, processor), ratios {wall:.3f} and "
        f"{processor:.3f}, waiting for reading {statistics.median(waits):.1%}"
    )
    assert wall >= 0.9
