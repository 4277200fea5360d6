import numpy as np
import pytest
import torch
import torchaudio.functional
from torch._subclasses.fake_tensor import FakeTensorMode

from codecctl.audio.spectrum import MelSpectrogram, Stft, mel_filters


def test_white_noise_has_its_rms_in_every_bin_of_every_window() -> None:
    noise = 0.3 * torch.randn(1, 200_000, generator=torch.Generator().manual_seed(0))
    for window in (64, 512, 2048):
        rms = Stft(window)(noise)[..., 2:-2].abs().square().mean(dim=(0, 2)).sqrt()
        assert rms[1:-1].mean() == pytest.approx(0.3, rel=0.02)


def test_a_sine_peaks_in_its_own_bin() -> None:
    sine = torch.sin(2 * torch.pi * 40 * torch.arange(8000, dtype=torch.float64) / 512)
    assert (Stft(512)(sine[None])[0, :, 5:-5].abs().argmax(dim=0) == 40).all()


@pytest.mark.parametrize("length", [1, 2, 127, 128, 129, 1000])
def test_any_length_has_a_spectrum(length: int) -> None:
    audio = torch.ones(2, 3, length)
    assert Stft(512)(audio).shape == (6, 257, 1 + length // 128)
    assert MelSpectrogram(16000, 512, 40)(audio).isfinite().all()


@pytest.mark.parametrize(("window", "n_mels"), [(64, 10), (512, 40), (1024, 80), (2048, 80)])
def test_mel_filters_equal_torchaudios(window: int, n_mels: int) -> None:
    theirs = torchaudio.functional.melscale_fbanks(
        window // 2 + 1, 0.0, 8000.0, n_mels, 16000, norm="slaney", mel_scale="slaney"
    )
    np.testing.assert_allclose(mel_filters(16000, window // 2 + 1, n_mels), theirs.mT * 16000 / window, atol=2e-4)


def test_every_mel_band_hears_something() -> None:
    for window, n_mels in [(64, 10), (128, 20), (256, 40), (512, 80), (1024, 80), (2048, 80)]:
        assert (mel_filters(16000, window // 2 + 1, n_mels).sum(axis=1) > 0).all()


def test_precision_is_that_of_the_input_and_never_less_than_float32() -> None:
    mel, audio = MelSpectrogram(16000, 256, 20), torch.randn(1, 1, 4000, dtype=torch.float64)
    assert mel(audio).dtype == torch.float64
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = mel(audio.float())
    assert low.dtype == torch.float32
    torch.testing.assert_close(low.double(), mel(audio), rtol=1e-3, atol=1e-4)


def test_gradient_is_finite_on_silence() -> None:
    audio = torch.zeros(1, 1, 2000, requires_grad=True)
    (MelSpectrogram(16000, 256, 20)(audio).clamp(min=1e-5).log().sum() + Stft(256)(audio).abs().sum()).backward()
    assert audio.grad is not None
    assert audio.grad.isfinite().all()


def test_lives_on_the_device_it_was_built_on() -> None:
    with FakeTensorMode(), torch.device("cuda"):
        assert MelSpectrogram(16000, 512, 40)(torch.randn(2, 1, 1000)).device.type == "cuda"
