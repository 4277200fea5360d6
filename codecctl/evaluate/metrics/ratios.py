"""Ratios of signal and error power: SNR and SI-SDR."""

from __future__ import annotations

import math

from torch import Tensor, maximum

from codecctl.evaluate.metrics.metric import SignalMetric

_SILENCE = 1e-9  # mean square, -90 dB below full scale: below it a reference has no meaningful ratio
_CEILING_DB = 120.0  # beyond the precision of float32 samples


def snr_db(reference: Tensor, decoded: Tensor) -> Tensor:
    """Signal power over error power, in dB: [..., L] twice -> [...]. NaN for a silent reference."""
    return _ratio_db(reference.square().mean(dim=-1), (reference - decoded).square().mean(dim=-1), reference)


def si_sdr_db(reference: Tensor, decoded: Tensor) -> Tensor:
    """SNR after the best gain, with means removed (Le Roux et al. 2019, eq. 3): [..., L] twice -> [...]."""
    reference = reference - reference.mean(dim=-1, keepdim=True)
    decoded = decoded - decoded.mean(dim=-1, keepdim=True)
    power = reference.square().sum(dim=-1, keepdim=True).clamp(min=1e-30)
    target = (reference * decoded).sum(dim=-1, keepdim=True) / power * reference
    return _ratio_db(target.square().mean(dim=-1), (target - decoded).square().mean(dim=-1), reference)


def _ratio_db(signal: Tensor, error: Tensor, reference: Tensor) -> Tensor:
    floor = signal.clamp(min=_SILENCE) * 10 ** (-_CEILING_DB / 10)
    ratio = 10 * (signal.clamp(min=1e-30) / maximum(error, floor)).log10()
    return ratio.clamp(min=-_CEILING_DB).masked_fill(reference.square().mean(dim=-1) < _SILENCE, math.nan)


SNR = SignalMetric(
    name="snr_db",
    label="SNR, dB",
    digits=1,
    meaning="power of the original over that of the error",
    good=15,
    excellent=20,
    make=lambda sample_rate, device: snr_db,
)
SI_SDR = SignalMetric(
    name="si_sdr_db",
    label="SI-SDR, dB",
    digits=1,
    meaning="SNR after the best gain, so that loudness does not count",
    good=15,
    excellent=20,
    make=lambda sample_rate, device: si_sdr_db,
)
