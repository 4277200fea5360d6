"""What a reconstruction is judged by while training. Each term is level-aware or level-free on purpose: levels of real
corpora differ by 40 dB, and magnitudes alone leave the phase, and so the waveform, free."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from codecctl.audio.spectrum import MelSpectrogram, Stft
from codecctl.config.schema import LossConfig
from codecctl.train.repetition import RepetitionDistance

_FLOOR = 1e-5  # of magnitudes, under their logarithm
_QUIET = 1e-2  # RMS magnitude, -40 dB of full scale
_POWER = 0.3  # of the compressed complex spectrum: close to how loudness grows with magnitude
_AVERAGE_WINDOW, _AVERAGE_BANDS = 512, 40  # of the long-term average spectrum
_COMPLEX_WINDOW = 512  # samples, of the complex spectra
_KNEE = 3e-3  # of an item's RMS magnitude, -50 dB: below it the power law is linear


class ReconstructionLosses(nn.Module):
    """Reference and decoded [B, 1, L] -> the unweighted losses by name, those of weight zero left out.

    waveform: L1 of the samples. spectral: spectral convergence plus log-magnitude L1 (Yamamoto et al. 2020, eqs. 4
    and 5), mean over the windows. mel: log-mel L1, mean over the windows (Kumar et al. 2023, section 3.4).
    average_spectrum: L1 of the logarithms of each mel band's root mean square over the item, its long-term average
    spectrum. L1 of logarithms frame by frame asks for the median, which is below the mean wherever the bits leave a
    choice: speech comes out duller than it was. complex: squared error of spectra whose magnitudes went through a power
    law, with and without their phases (Braun and Tashev 2020, eq. 7), mean over the windows, up to `complex_below_hz`:
    the ear follows phases up to some 1.5 kHz. repetition: `RepetitionDistance`; `frame` is the codec's, in samples.
    """

    def __init__(self, config: LossConfig, sample_rate: int, frame: int) -> None:
        super().__init__()
        self.config, self._sample_rate = config, sample_rate
        windows = {"spectral": config.spectral_windows, "complex": (_COMPLEX_WINDOW,), "mel": config.mel_windows}
        windows |= {"average_spectrum": (_AVERAGE_WINDOW,)}
        used = {window for name, each in windows.items() if config.weights[name] for window in each}
        self.stfts = nn.ModuleDict({str(window): Stft(window) for window in sorted(used)})
        self.mels: Sequence[MelSpectrogram] = nn.ModuleList(  # type: ignore[assignment]
            MelSpectrogram(sample_rate, window, n_mels)
            for window, n_mels in zip(config.mel_windows, config.n_mels, strict=True)
        )
        self.average_bands = MelSpectrogram(sample_rate, _AVERAGE_WINDOW, _AVERAGE_BANDS)
        self.repetition = RepetitionDistance(sample_rate, frame)

    def forward(self, reference: Tensor, decoded: Tensor) -> dict[str, Tensor]:
        config = self.config
        with torch.autocast(reference.device.type, enabled=False):
            reference, decoded = reference[:, 0].float(), decoded[:, 0].float()  # [B, L]
            # Each window's spectra once, whichever losses look at them.
            spectra = {int(name): (stft(reference), stft(decoded)) for name, stft in self.stfts.items()}
            losses = {}
            if config.waveform_weight:
                losses["waveform"] = (reference - decoded).abs().mean()
            if config.spectral_weight:
                losses["spectral"] = _mean([_spectral(*spectra[window]) for window in config.spectral_windows])
            if config.mel_weight:
                pairs = [(mel, *spectra[window]) for mel, window in zip(self.mels, config.mel_windows, strict=True)]
                losses["mel"] = _mean([_log_distance(mel.bands(a), mel.bands(b)) for mel, a, b in pairs])
            if config.average_spectrum_weight:
                averages = [_average(self.average_bands.bands(each)) for each in spectra[_AVERAGE_WINDOW]]
                losses["average_spectrum"] = _log_distance(*averages)
            if config.complex_weight:
                n_bins = self._complex_bins(_COMPLEX_WINDOW)
                losses["complex"] = _complex(*(x[:, :n_bins] for x in spectra[_COMPLEX_WINDOW]))
            if config.repetition_weight:
                losses["repetition"] = self.repetition(reference, decoded)
            return losses

    def _complex_bins(self, window: int) -> int:
        """How many bins of the spectra of a window the complex loss looks at."""
        hertz = self.config.complex_below_hz
        return window // 2 + 1 if hertz is None else math.ceil(hertz * window / self._sample_rate)


def _spectral(reference: Tensor, decoded: Tensor) -> Tensor:
    """Complex [B, F, T'] twice -> spectral convergence + log-magnitude L1."""
    reference, decoded = _magnitude(reference), _magnitude(decoded)
    # A ratio for each item, not for the batch: then the mean of two half batches is that of the whole.
    error, norm = (torch.linalg.vector_norm(x, dim=(1, 2)) for x in (reference - decoded, reference))
    quiet = _QUIET * (reference.shape[1] * reference.shape[2]) ** 0.5  # near silence any error is many times the signal
    convergence: Tensor = (error / norm.clamp(min=quiet)).mean()
    return convergence + _log_distance(reference, decoded)


def _complex(reference: Tensor, decoded: Tensor) -> Tensor:
    """Complex [B, F, T'] twice -> mean squared error of the compressed spectra and of their magnitudes, half and half.

    Relative to the item's level: speech at -40 dB counts like speech at -20 dB.
    """
    level = reference.abs().square().mean(dim=(1, 2), keepdim=True).sqrt().clamp(min=_QUIET**2)
    pairs = [(spectrum, _magnitude(spectrum)) for spectrum in (reference / level, decoded / level)]
    (a, a_magnitude), (b, b_magnitude) = [(x * g, m * g) for x, m in pairs for g in [(m + _KNEE).pow(_POWER - 1)]]
    difference = a - b
    with_phase = difference.real.square() + difference.imag.square()
    return (0.5 * with_phase + 0.5 * (a_magnitude - b_magnitude).square()).mean()


def _magnitude(spectrum: Tensor) -> Tensor:
    # The floor sits under the root: its gradient is infinite at zero, and silence is common.
    return (spectrum.real.square() + spectrum.imag.square()).clamp(min=_FLOOR**2).sqrt()


def _log_distance(reference: Tensor, decoded: Tensor) -> Tensor:
    return (reference.clamp(min=_FLOOR).log() - decoded.clamp(min=_FLOOR).log()).abs().mean()


def _average(bands: Tensor) -> Tensor:
    """[B, M, T'] -> [B, M], root mean squares over time."""
    # The floor sits under the root, as in `_magnitude`.
    return bands.square().mean(dim=2).clamp(min=_FLOOR**2).sqrt()


def _mean(losses: list[Tensor]) -> Tensor:
    return torch.stack(losses).mean()
