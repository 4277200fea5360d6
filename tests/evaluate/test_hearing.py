import importlib.util
import math
from pathlib import Path

import numpy as np
import pytest
import soundfile

from codecctl.audio.files import Audio
from codecctl.evaluate.hearing import MEASURES, score, unavailable


@pytest.fixture
def speech_array(speech_files: list[Path]) -> Audio:
    return np.asarray(soundfile.read(speech_files[0], dtype="float32")[0])


def _noisy(speech: Audio, snr_db: float) -> Audio:
    noise = np.random.default_rng(0).standard_normal(len(speech)).astype(np.float32)
    return np.asarray(speech + noise * speech.std() / noise.std() * 10 ** (-snr_db / 20), np.float32)


@pytest.mark.skipif(importlib.util.find_spec("pesq") is None, reason="pesq is not installed")
def test_pesq_of_a_copy_is_the_top_of_its_mapping_and_noise_lowers_it(speech_array: Audio) -> None:
    best = 0.999 + 4 / (1 + math.exp(-1.3669 * 4.5 + 3.8224))  # P.862.2, equation 1, of a raw score of 4.5
    assert score(speech_array, speech_array, ["pesq"])["pesq_wb"] == pytest.approx(best, abs=1e-3)
    noisy = [score(speech_array, _noisy(speech_array, snr), ["pesq"])["pesq_wb"] for snr in (20, 5)]
    assert best > noisy[0] > noisy[1] > 1


@pytest.mark.skipif(importlib.util.find_spec("pystoi") is None, reason="pystoi is not installed")
def test_stoi_of_a_copy_is_one_and_ignores_gain(speech_array: Audio) -> None:
    assert score(speech_array, 0.3 * speech_array, ["stoi"]) == pytest.approx({"stoi": 1.0, "estoi": 1.0}, abs=1e-6)
    noisy = score(speech_array, _noisy(speech_array, 0), ["stoi"])
    assert 0.3 < noisy["estoi"] < noisy["stoi"] < 0.95


def test_what_says_nothing_is_undefined(speech_array: Audio) -> None:
    installed = [name for name in ("pesq", "stoi") if importlib.util.find_spec(MEASURES[name].package)]
    for reference in (np.zeros(16000, np.float32), speech_array[:100]):
        assert all(math.isnan(value) for value in score(reference, reference, installed).values())


def test_what_is_not_asked_for_or_not_there_is_named_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pesq", None)  # as if it were not installed
    reasons = unavailable(["pesq"])
    assert "pip install pesq" in reasons["pesq_wb"]
    assert "not asked for" in reasons["stoi"]
    assert set(reasons) == {name for measure in MEASURES.values() for name in measure.names}


def test_the_original_gets_only_what_needs_no_reference(speech_array: Audio) -> None:
    assert score(speech_array, speech_array, ["pesq", "stoi"], is_original=True) == {}
