import math

import pytest
import torch

from codecctl.evaluate.metrics.metric import SignalMetric
from codecctl.evaluate.metrics.ratios import si_sdr_db, snr_db
from codecctl.evaluate.metrics.spectral import LogSpectralDistance, MelDistance
from codecctl.evaluate.metrics.table import METRIC_GROUPS, METRICS, SIGNAL_METRICS


def _noise(seed: int, n: int = 16000) -> torch.Tensor:
    noise = torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return noise - noise.mean()


def test_snr_of_a_tenth_of_the_amplitude_in_error_is_20_db() -> None:
    x = 0.2 * _noise(0)
    assert snr_db(x, 1.1 * x) == pytest.approx(20.0)
    assert snr_db(x, -x) == pytest.approx(-20 * math.log10(2))


def test_si_sdr_is_the_snr_of_orthogonal_noise_at_any_gain_and_offset() -> None:
    x, noise = 0.1 * _noise(1), _noise(2)
    noise -= (noise @ x) / (x @ x) * x
    noise *= 10 ** (-13 / 20) * x.norm() / noise.norm()
    assert si_sdr_db(x, x + noise) == pytest.approx(13.0)
    assert si_sdr_db(x, -0.3 * (x + noise) + 0.05) == pytest.approx(13.0)


def test_snr_of_a_batch_is_that_of_its_items() -> None:
    x, y = torch.stack([_noise(0), _noise(1)]), torch.stack([_noise(2), _noise(3)])
    torch.testing.assert_close(snr_db(x, x + y), torch.stack([snr_db(a, a + b) for a, b in zip(x, y, strict=True)]))


def test_snr_is_finite_for_a_copy_and_undefined_for_silence() -> None:
    x = 0.01 * _noise(0)
    assert snr_db(x, x) == pytest.approx(120.0)
    assert snr_db(torch.zeros(100), 0.1 * torch.ones(100)).isnan()
    assert si_sdr_db(torch.zeros(100), torch.zeros(100)).isnan()


def test_mel_distance_of_half_the_level_is_ln_2() -> None:
    x = 0.5 * _noise(0)[None]
    assert MelDistance(16000)(x, 0.5 * x) == pytest.approx(math.log(2), rel=1e-6)
    assert MelDistance(16000)(x, x) == 0.0


def test_log_spectral_distance_of_half_the_level_is_6_db() -> None:
    x = 0.5 * _noise(0)[None]
    assert LogSpectralDistance(16000)(x, 0.5 * x) == pytest.approx(20 * math.log10(2), rel=1e-4)
    assert LogSpectralDistance(16000)(torch.zeros(1, 999), x[:, :999]).isnan()
    assert LogSpectralDistance(16000)(x, torch.full_like(x, math.nan)).isnan()


def test_every_metric_is_in_one_group_of_the_report() -> None:
    grouped = [metric.name for group in METRIC_GROUPS.values() for metric in group]
    assert sorted(grouped) == sorted(METRICS)


@pytest.mark.parametrize("metric", SIGNAL_METRICS, ids=lambda metric: metric.name)
def test_signal_metrics_score_each_item_of_a_batch_against_one_reference(metric: SignalMetric) -> None:
    score = metric.make(16000, torch.device("cpu"))
    reference, decoded = _noise(0)[None].float(), torch.stack([_noise(0), _noise(0) + 0.1 * _noise(1)]).float()
    copy, noisy = score(reference, decoded).tolist()
    assert (copy > noisy) == metric.higher_is_better
