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

from codecctl.audio.files import find_audio, read_audio
from codecctl.codes.job import encode_corpus
from codecctl.inference.load import Codec

pytestmark = pytest.mark.bench
_BATCH = (6, 80_000)  # 30 s in recordings of 5 s, nothing of it padding


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory, speech_files: list[Path]) -> Path:
    """Four minutes of real speech at 48 kHz, in recordings of 1 to 5 s."""
    folder, random = tmp_path_factory.mktemp("bench") / "raw", np.random.default_rng(0)
    clips = [soundfile.read(path, dtype="float32") for path in speech_files]
    folder.mkdir()
    for number in range(80):
        audio, rate = clips[number % len(clips)]
        audio = audio[: int(random.uniform(1, 5) * rate)]
        soundfile.write(folder / f"{number}.flac", soxr.resample(audio, rate, 48_000), 48_000)
    return folder


def seconds_of(work: Callable[[], object], clock: Callable[[], float]) -> float:
    start = clock()
    work()
    return clock() - start


@torch.inference_mode()
def test_a_corpus_job_is_nearly_as_fast_as_the_model(raw: Path, tmp_path: Path) -> None:
    """By processor time, as wall time is that of the machine's other work, too; reading counts although it runs beside
    the model."""
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

    for turn in range(5):
        own.append(n_batches * 30 / seconds_of(lambda: [codec.encode(batch) for batch in batches], time.process_time))
        corpus.append(len(audio) / 16_000 / seconds_of(lambda turn=turn: encode(turn), time.process_time))
    ratios = [ours / theirs for ours, theirs in zip(corpus, own, strict=True)]
    print(
        f"corpus {statistics.median(corpus):.1f}, model alone {statistics.median(own):.1f} s of audio a second of one "
        f"core, ratio {statistics.median(ratios):.3f} {[round(r, 3) for r in ratios]}, waiting for reading "
        f"{statistics.median(waits):.1%}"
    )
    assert statistics.median(ratios) >= 0.9
