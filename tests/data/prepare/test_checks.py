"""Measurements do not depend on block sizes; recordings without speech are rejected with a reason."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from codecctl.audio.files import STRETCH, read_audio
from codecctl.audio.resample import resample
from codecctl.config.schema import DataConfig
from codecctl.data.prepare.checks import Measurement, find_fault

TIME = np.arange(32_000) / 16_000


def measure(audio: np.ndarray, block: int = 160_000) -> Measurement:
    measured = Measurement()
    for start in range(0, len(audio), block):
        part = audio[None, start : start + block].astype(np.float32)
        starts = np.arange(0, part.shape[1], STRETCH)
        lows, highs = (of.reduceat(part, starts, axis=1) for of in (np.minimum, np.maximum))
        measured.add_source(part, lows.min(axis=0), highs.max(axis=0))
        measured.add(audio[start : start + block].astype(np.float32))
    return measured


def test_speech_passes_and_its_bandwidth_is_measured(speech_files: list[Path]) -> None:
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


def test_level_and_clipping_do_not_depend_on_the_blocks() -> None:
    sine = np.clip(1.2 * np.sin(2 * np.pi * 440 * TIME), -1, 1)
    expected = np.mean(np.abs(sine) >= 0.999)
    for block in (160_000, 1000, 777):
        measured = measure(sine, block)
        assert measured.level_db == pytest.approx(10 * np.log10(np.mean(sine**2)), abs=1e-4)
        assert measured.clipping == pytest.approx(expected)
    assert measure(0.9 * np.sin(2 * np.pi * 441.3 * TIME)).clipping == 0


@pytest.mark.parametrize("gain", [0.02, 0.3, 1.0])
def test_clipping_is_detected_after_a_change_of_level(speech_files: list[Path], gain: float) -> None:
    speech = read_audio(speech_files[0])[0][0]
    loud = np.clip(4 * speech / np.abs(speech).max(), -1, 1)
    quieter = np.round(gain * loud * 32_768) / 32_768
    expected = np.mean(np.abs(loud) == 1)
    assert 0.8 * expected < measure(quieter).clipping < 1.1 * expected
    assert (find_fault(measure(quieter), DataConfig()) or "").startswith("clipped")
    assert measure(quieter, 16_000).clipping == pytest.approx(measure(quieter).clipping, rel=0.05)


def test_single_peak_does_not_count_as_clipping(speech_files: list[Path]) -> None:
    for path in speech_files:
        speech = read_audio(path)[0][0]
        assert measure(speech).clipping < 1e-3
        coarse = (
            np.sign(speech) * (256 ** (np.round(np.log1p(255 * np.abs(speech)) / np.log(256) * 127) / 127) - 1) / 255
        )
        assert measure(coarse).clipping < 3e-3  # as mu-law lays it


def speech_like(scale: float = 0.1, n_samples: int = 32_000) -> np.ndarray:
    return scale * np.random.default_rng(0).standard_normal(n_samples)


def notes(frequencies: list[float], seconds: float, *, decay: float = 0.0, partials: int = 6) -> np.ndarray:
    """Notes at once, as of an organ; with a decay as of a plucked string."""
    time = np.arange(round(16_000 * seconds)) / 16_000
    each = [
        np.sin(2 * np.pi * hz * line * time) / line * np.exp(-decay * time)
        for hz in frequencies
        for line in range(1, partials)
    ]
    return 0.1 * np.sum(each, axis=0) * np.minimum(1, 100 * time) + speech_like(0.001, len(time))


def chords(**timbre: float) -> np.ndarray:
    triads = [[261.6, 329.6, 392.0], [220.0, 261.6, 329.6], [174.6, 220.0, 261.6], [196.0, 246.9, 293.7]]
    return np.concatenate([notes(triad, 0.8, **timbre) for triad in triads])


def arpeggio(decay: float) -> np.ndarray:
    """Three notes a second that ring on into each other, a minor second voice a fifth above."""
    audio = np.zeros(5 * 16_000)
    for number, hz in enumerate([220, 277.2, 329.6, 440, 329.6, 277.2] * 2):
        start = round(number * 16_000 / 3)
        note = notes([hz, 1.5 * hz], 0.8, decay=decay)
        audio[start : start + len(note)] += note[: len(audio) - start]
    return audio


FAULTS = {
    "too short": speech_like()[:1000],
    "silent": np.random.default_rng(0).uniform(-1e-4, 1e-4, 32_000),
    "silent under an offset": np.full(32_000, 0.3),
    "clipped": np.clip(speech_like(1.0), -1, 1),
    "DC offset": 0.3 + speech_like(),
    "tone": 0.3 * np.sin(2 * np.pi * 440 * TIME),
    "music of slow notes": np.concatenate([notes([hz], 0.5) for hz in (220, 247, 262, 330, 294, 262)]),
    "tone of two lines": 0.3 * np.sin(2 * np.pi * 697 * TIME) + 0.3 * np.sin(2 * np.pi * 1336 * TIME),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_fault_is_found(kind: str) -> None:
    fault = find_fault(measure(FAULTS[kind]), DataConfig())
    assert fault is not None
    assert fault.startswith(kind.split(" ")[0])
    assert "nan" not in fault


def test_unusual_speech_is_no_fault() -> None:
    for audio in (speech_like(), 0.01 + speech_like(), np.clip(speech_like(0.35), -1, 1), speech_like(0.001)):
        assert find_fault(measure(audio), DataConfig()) is None


MUSIC = {
    "organ": chords(),
    "reed": chords(partials=15),
    "flute": chords(partials=3),
    "plucked": chords(decay=3.0),
    "piano arpeggio": arpeggio(2.0),
    "organ arpeggio": arpeggio(0.0),
}


@pytest.mark.parametrize("kind", MUSIC)
def test_clear_music_is_rejected(kind: str) -> None:
    assert find_fault(measure(MUSIC[kind]), DataConfig()) == "music or held notes"


def test_speech_is_not_taken_for_music(speech_files: list[Path]) -> None:
    """Nor with a hum under it, nor many recordings in a row."""
    speech = [read_audio(path)[0][0] for path in speech_files]
    assert not any(measure(audio).is_music for audio in speech)
    joined = np.concatenate(speech)[: 60 * 16_000]
    time = np.arange(len(joined)) / 16_000
    hum = sum(np.sin(2 * np.pi * 50 * line * time) / line for line in range(1, 12))
    assert not measure(joined + 0.3 * np.std(joined) * hum).is_music
    assert not measure(speech_like(0.1, 160_000)).is_music
