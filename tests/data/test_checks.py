"""What is measured is what is there, whatever the blocks; what is no speech is told by its kind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from codecctl.audio.files import read_audio
from codecctl.audio.resample import resample
from codecctl.config.schema import DataConfig
from codecctl.data.checks import Measurement, find_fault

TIME = np.arange(32_000) / 16_000


def measure(audio: np.ndarray, block: int = 160_000) -> Measurement:
    measured = Measurement()
    for start in range(0, len(audio), block):
        part = audio[None, start : start + block].astype(np.float32)
        measured.add_source(part, float(np.abs(part).max()))
        measured.add(audio[start : start + block].astype(np.float32))
    return measured


def test_speech_passes_and_shows_its_bandwidth(speech_files: list[Path]) -> None:
    for path in speech_files:
        speech = read_audio(path)[0]
        narrow = resample(resample(speech, 16_000, 8000), 8000, 16_000)[0]
        assert find_fault(measure(speech[0]), DataConfig()) is None
        assert measure(speech[0]).bandwidth_hz > 6000
        assert 3500 <= measure(narrow).bandwidth_hz <= 4200


@pytest.mark.parametrize("gain_db", [0, -30])
def test_bandwidth_does_not_depend_on_level(speech_files: list[Path], gain_db: float) -> None:
    speech = read_audio(speech_files[0])[0][0]
    narrow = resample(resample(speech[None], 16_000, 12_000), 12_000, 16_000)[0] * 10 ** (gain_db / 20)
    assert 5500 <= measure(narrow).bandwidth_hz <= 6200


def test_level_and_clipping_by_any_blocks() -> None:
    sine = np.clip(1.2 * np.sin(2 * np.pi * 440 * TIME), -1, 1)
    expected = np.mean(np.abs(sine) >= 0.999)
    for block in (160_000, 1000, 777):
        measured = measure(sine, block)
        assert measured.level_db == pytest.approx(10 * np.log10(np.mean(sine**2)), abs=1e-4)
        assert measured.clipping == pytest.approx(expected)
    assert measure(0.9 * sine).clipping == 0


def speech_like(scale: float = 0.1) -> np.ndarray:
    return scale * np.random.default_rng(0).standard_normal(32_000)


FAULTS = {
    "too short": speech_like()[:1000],
    "silent": np.random.default_rng(0).uniform(-1e-4, 1e-4, 32_000),
    "silent under an offset": np.full(32_000, 0.3),
    "clipped": np.clip(speech_like(1.0), -1, 1),
    "DC offset": 0.3 + speech_like(),
    "tone": 0.3 * np.sin(2 * np.pi * 440 * TIME),
    "tone of two lines": 0.3 * np.sin(2 * np.pi * 697 * TIME) + 0.3 * np.sin(2 * np.pi * 1336 * TIME),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_faults(kind: str) -> None:
    fault = find_fault(measure(FAULTS[kind]), DataConfig())
    assert fault is not None
    assert fault.startswith(kind.split(" ")[0])
    assert "nan" not in fault


def test_what_is_no_fault() -> None:
    for audio in (speech_like(), 0.01 + speech_like(), np.clip(speech_like(0.35), -1, 1), speech_like(0.001)):
        assert find_fault(measure(audio), DataConfig()) is None
