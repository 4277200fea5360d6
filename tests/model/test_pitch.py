"""What long-term prediction finds in signals whose period is known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from codecctl.model.causal import StreamState
from codecctl.model.pitch import LongTermPrediction


def pulses(period: int, n_samples: int) -> Tensor:
    """[1, L] a decaying resonance, struck anew every `period` samples."""
    age = torch.arange(n_samples, dtype=torch.float64) % period
    return ((-age / 20).exp() * (age / 3).cos())[None]


@pytest.mark.parametrize("period", [40, 97, 160, 333])
def test_a_periodic_signal_is_predicted_from_its_past(period: int) -> None:
    signal = pulses(period, 3200)
    before, long_before, fit = LongTermPrediction(320, 32, 400)(signal)
    frames = signal.reshape(1, 10, 320)
    for predicted in (before, long_before):
        error = (predicted - frames)[:, 4:].square().mean() / frames.square().mean()
        assert error < 0.02  # -17 dB: the neighbours of the true period have small weights
    assert fit[:, 4:].min() > 0.95


def test_noise_and_silence_fit_badly() -> None:
    prediction = LongTermPrediction(320, 32, 400)
    noise = torch.randn(1, 3200, generator=torch.Generator().manual_seed(0))
    assert prediction(noise)[2][:, 4:].max() < 0.4
    before, long_before, fit = prediction(torch.zeros(1, 3200))
    assert not before.any()
    assert not long_before.any()
    assert not fit.any()


def test_a_stream_gets_what_a_file_gets() -> None:
    prediction, signal = LongTermPrediction(320, 32, 400), pulses(123, 6400) + 0.1 * torch.randn(1, 6400).double()
    state = StreamState()
    pieces = [prediction(piece, state) for piece in torch.split(signal, 640, dim=1)]
    for whole, parts in zip(prediction(signal), zip(*pieces, strict=True), strict=True):
        torch.testing.assert_close(torch.cat(parts, dim=1), whole, rtol=0, atol=1e-12)
