"""The reconstruction losses: zero for equal signals, finite gradients for any."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from codecctl.config.schema import LossConfig
from codecctl.train.losses import ReconstructionLosses

RATE, FRAME = 16000, 320
OPTIONAL = ("average_spectrum", "complex", "repetition")


@pytest.fixture(scope="module")
def losses() -> ReconstructionLosses:
    return ReconstructionLosses(LossConfig(**{f"{name}_weight": 1 for name in OPTIONAL}), RATE, FRAME)


def noise(seed: int, level: float, n_items: int = 2, n_samples: int = 6400) -> Tensor:
    return level * torch.randn(n_items, 1, n_samples, generator=torch.Generator().manual_seed(seed))


SIGNALS = {
    "silence": torch.zeros(2, 1, 3200),
    "speech level": noise(0, 0.1, n_samples=3200),
    "full scale": noise(1, 1.0, n_samples=3200).sign(),
    "constant": torch.full((2, 1, 3200), 0.9),
    "faint": noise(2, 1e-5, n_samples=3200),
}


def test_every_loss_is_zero_for_equal_signals(losses: ReconstructionLosses) -> None:
    for name, signal in SIGNALS.items():
        values = losses(signal, signal.clone())
        assert set(values) == {"waveform", "spectral", "mel", *OPTIONAL}
        assert all(float(value) == 0 for value in values.values()), name


@pytest.mark.parametrize("reference", SIGNALS)
@pytest.mark.parametrize("decoded", SIGNALS)
def test_gradients_are_finite_for_any_signals(losses: ReconstructionLosses, reference: str, decoded: str) -> None:
    audio = SIGNALS[decoded].clone().requires_grad_()
    total = torch.stack(list(losses(SIGNALS[reference], audio).values())).sum()
    total.backward()  # type: ignore[no-untyped-call]
    assert total.isfinite()
    assert audio.grad is not None
    assert audio.grad.isfinite().all()


def test_every_loss_grows_with_the_error(losses: ReconstructionLosses) -> None:
    signal = noise(0, 0.1)
    little, much = losses(signal, signal + noise(1, 0.01)), losses(signal, signal + noise(1, 0.1))
    assert all(0 < little[name] < much[name] for name in little)


def test_repetition_measures_repeated_waveforms_not_levels() -> None:
    none = dict.fromkeys(("waveform_weight", "spectral_weight", "mel_weight"), 0)
    losses = ReconstructionLosses(LossConfig(**none, repetition_weight=1), RATE, FRAME)
    distance = lambda reference, decoded: float(losses(reference, decoded)["repetition"])  # noqa: E731
    signal, other = noise(0, 0.1, n_samples=32_000), noise(1, 0.1, n_samples=32_000)
    repeated = signal[..., :FRAME].repeat(1, 1, 100)
    signs = noise(2, 1, n_samples=100).sign().repeat_interleave(FRAME, dim=2)
    shaped = other * (torch.arange(32_000) % FRAME < FRAME // 2)  # never the same waveform, always in the first half
    assert distance(signal, 0.1 * signal) < 0.01
    assert distance(signal, other) < 0.1
    assert distance(signal, 0.1 * repeated) > 0.9
    assert distance(signal, signs * repeated) > 0.9
    assert distance(repeated, signal) > 0.9
    assert 0.5 < distance(signal, shaped) < 1.2
    assert distance(repeated, repeated) == 0


def test_average_spectrum_ignores_when_power_occurs(losses: ReconstructionLosses) -> None:
    distance = lambda reference, decoded: float(losses(reference, decoded)["average_spectrum"])  # noqa: E731
    signal = noise(0, 0.1, n_samples=32_000)
    assert distance(signal, signal / 2) == pytest.approx(math.log(2), abs=1e-4)
    assert distance(signal, noise(1, 0.1, n_samples=32_000)) < 0.05  # other noise of the same colour
    # Half the time silent and the rest twice as strong in power: wrong at every moment, right on average.
    bursts = signal * (torch.arange(32_000) // 1600 % 2) * 2**0.5
    assert distance(signal, bursts) < 0.1 < 0.3 < float(losses(signal, bursts)["mel"])


def test_a_loss_of_weight_zero_is_not_computed() -> None:
    config = LossConfig(spectral_weight=0, mel_weight=0)
    assert set(ReconstructionLosses(config, RATE, FRAME)(noise(0, 0.1), noise(1, 0.1))) == {"waveform"}
    assert config.weights["spectral"] == 0
    assert config.weights["commitment"] == config.commitment_weight


def test_two_half_batches_weigh_as_much_as_the_whole(losses: ReconstructionLosses) -> None:
    signal, decoded = noise(0, 0.1, 4), noise(1, 0.05, 4) * torch.tensor([1e-3, 0.1, 1, 4]).reshape(4, 1, 1)
    whole = losses(signal, decoded)
    halves = [losses(signal[part], decoded[part]) for part in (slice(0, 2), slice(2, 4))]
    for name, value in whole.items():
        assert float(value) == pytest.approx(float((halves[0][name] + halves[1][name]) / 2), rel=1e-5)


def test_autocast_changes_nothing(losses: ReconstructionLosses) -> None:
    signal, decoded = noise(0, 0.1), noise(1, 0.1)
    plain = losses(signal, decoded)
    with torch.autocast("cpu", torch.bfloat16):
        cast = losses(signal, decoded)
    assert all(torch.equal(plain[name], cast[name]) for name in plain)


@pytest.mark.parametrize("n_samples", [1, 63, 64, 2049])
def test_losses_of_any_length_are_finite(losses: ReconstructionLosses, n_samples: int) -> None:
    values = losses(noise(0, 0.1, 1, n_samples), noise(1, 0.1, 1, n_samples))
    assert all(value.isfinite() for value in values.values())
    # `repetition` brings both to one level, where single samples are alike.
    assert all(value > 0 for name, value in values.items() if name != "repetition" or n_samples > 1)


def test_complex_loss_measures_phase_not_level() -> None:
    config = LossConfig(complex_weight=1.0)
    losses = ReconstructionLosses(config, RATE, FRAME)
    speech = noise(3, 0.1)
    noisy = speech + noise(4, 0.03)
    assert losses(speech, speech)["complex"] < 1e-9
    assert losses(speech, -speech)["complex"] > 5 * losses(speech, noisy)["complex"]
    expected = losses(speech, noisy)["complex"]
    torch.testing.assert_close(losses(4 * speech, 4 * noisy)["complex"], expected, rtol=1e-2, atol=0)


def test_complex_loss_stops_at_complex_below_hz() -> None:
    losses = ReconstructionLosses(LossConfig(complex_weight=1.0, complex_below_hz=1400), RATE, FRAME)
    low, high = (torch.cos(2 * math.pi * hertz / RATE * torch.arange(6400)).expand(1, 1, -1) for hertz in (1000, 3000))
    assert losses(low + high, low - high)["complex"] < 0.02 * losses(low + high, high - low)["complex"]
