import importlib.util
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
from numpy.typing import NDArray

from codecctl.audio import Audio
from codecctl.config.schema import ValidateConfig
from codecctl.errors import ConfigError
from codecctl.evaluate.metrics.metric import Context
from codecctl.evaluate.metrics.perceptual import PERCEPTUAL_METRICS
from codecctl.evaluate.perceptual import installed, score, score_all, unavailable

Signal = NDArray[np.float64]


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


@pytest.mark.skipif(importlib.util.find_spec("pystoi") is None, reason="pystoi is not installed")
@pytest.mark.parametrize("snr_db", [15, 0, -10])
def test_stoi_and_estoi_equal_the_equations_of_their_papers(speech_array: Audio, snr_db: float) -> None:
    noisy = _noisy(speech_array, snr_db)
    ours = score(speech_array, noisy, ["stoi"])
    ten_khz = [soxr.resample(signal.astype(np.float64), 16000, 10000, "VHQ") for signal in (speech_array, noisy)]
    assert ours == pytest.approx(_stoi_by_the_papers(*ten_khz), abs=2e-3)  # the package has a filter of its own


def _stoi_by_the_papers(clean: Signal, noisy: Signal) -> dict[str, float]:
    """Taal et al. 2011, equations 1 to 6, and Jensen & Taal 2016, at 10 kHz."""

    def frames(signal: Signal) -> Signal:
        return np.lib.stride_tricks.sliding_window_view(signal, 256)[::128] * np.hanning(258)[1:-1]

    def without_silence(signal: Signal, loud: NDArray[np.bool_]) -> Signal:
        kept = frames(signal)[loud]
        out = np.zeros(128 * (len(kept) + 1))
        for i, frame in enumerate(kept):
            out[128 * i : 128 * i + 256] += frame
        return out

    energy = 20 * np.log10(np.linalg.norm(frames(clean), axis=1) + 1e-12)
    loud = energy > energy.max() - 40
    centres = 150 * 2 ** (np.arange(15) / 3)
    bins = np.arange(257) * 10000 / 512
    nearest = [[int(np.argmin(np.abs(bins - c * 2**side))) for c in centres] for side in (-1 / 6, 1 / 6)]

    def segments(signal: Signal) -> Signal:
        power = np.abs(np.fft.rfft(frames(without_silence(signal, loud)), 512)) ** 2
        bands = np.stack([np.sqrt(power[:, a:b].sum(axis=1)) for a, b in zip(*nearest, strict=True)])  # [15, M]
        return np.moveaxis(np.lib.stride_tricks.sliding_window_view(bands, 30, axis=1), 1, 0)  # [segments, 15, 30]

    def unit(x: Signal, axis: int) -> Signal:
        centred = x - x.mean(axis=axis, keepdims=True)
        return np.asarray(centred / (np.linalg.norm(centred, axis=axis, keepdims=True) + 1e-15))

    x, y = segments(clean), segments(noisy)
    level = np.linalg.norm(x, axis=2, keepdims=True) / (np.linalg.norm(y, axis=2, keepdims=True) + 1e-15)
    clipped = np.minimum(level * y, x * (1 + 10 ** (15 / 20)))
    stoi = (unit(x, 2) * unit(clipped, 2)).sum(axis=2).mean()
    estoi = (unit(unit(x, 2), 1) * unit(unit(y, 2), 1)).sum(axis=(1, 2)).mean() / 30
    return {"stoi": float(stoi), "estoi": float(estoi)}


@pytest.mark.skipif(importlib.util.find_spec("pesq") is None, reason="pesq is not installed")
@pytest.mark.parametrize(("snr_db", "expected"), [(40, 3.23), (30, 2.06), (20, 1.19), (10, 1.05)])
def test_pesq_equals_another_implementation(speech_array: Audio, snr_db: float, expected: float) -> None:
    """By torch-pesq 0.1.2, written anew from P.862, which filters levels otherwise and aligns no delays."""
    assert score(speech_array, _noisy(speech_array, snr_db), ["pesq"])["pesq_wb"] == pytest.approx(expected, abs=0.05)


@pytest.mark.skipif(importlib.util.find_spec("pesq") is None, reason="pesq is not installed")
def test_pesq_falls_with_noise_and_ignores_level_and_a_constant_delay(speech_array: Audio) -> None:
    """P.862 aligns levels and delays before it compares."""

    def pesq(decoded: Audio) -> float:
        return score(speech_array, decoded, ["pesq"])["pesq_wb"]

    noisy = _noisy(speech_array, 15)
    falling = [pesq(_noisy(speech_array, snr)) for snr in (40, 30, 20, 10, 0)]
    assert falling == sorted(falling, reverse=True)
    assert pesq(0.25 * noisy) == pytest.approx(pesq(noisy), abs=0.02)
    late = np.concatenate([np.zeros(160, np.float32), noisy])[: len(noisy)]  # 10 ms
    assert pesq(late) == pytest.approx(pesq(noisy), abs=0.05)


def test_scores_of_silence_and_of_short_signals_are_nan(speech_array: Audio) -> None:
    names = [name for name in ("pesq", "stoi") if importlib.util.find_spec(PERCEPTUAL_METRICS[name].package)]
    for reference in (np.zeros(16000, np.float32), speech_array[:100]):
        assert all(math.isnan(value) for value in score(reference, reference, names).values())


def test_unavailable_metrics_have_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pesq", None)  # as if it were not installed
    reasons = unavailable(["pesq"])
    assert "pip install pesq" in reasons["pesq_wb"]
    assert "not asked for" in reasons["stoi"]
    assert set(reasons) == {output.name for metric in PERCEPTUAL_METRICS.values() for output in metric.outputs}


def test_the_original_gets_only_what_needs_no_reference(speech_array: Audio) -> None:
    assert score_all({}, speech_array, ["pesq", "stoi"], Context()) == {"original": {}}


def test_an_unknown_metric_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match=r"validate\.metrics: no metric 'peskq'; did you mean 'pesq'"):
        installed(ValidateConfig(metrics=("stoi", "peskq")))
    with pytest.raises(ConfigError, match="there are pesq, stoi"):
        installed(ValidateConfig(metrics=("xyz",)))
