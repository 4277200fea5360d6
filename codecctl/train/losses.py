"""The reconstruction losses: a class and a row of `LOSSES` each."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from codecctl.audio.spectrum import MelSpectrogram, Stft
from codecctl.config.schema import LossConfig

Spectra = Mapping[int, tuple[Tensor, Tensor]]
"""Window -> complex spectra [B, F, T'] of reference and decoded samples, by `Stft(window)`."""

_FLOOR = 1e-5  # of magnitudes, under their logarithm
_QUIET = 1e-2  # RMS magnitude, -40 dB of full scale
_QUIETEST = 1e-4  # the same, -80 dB
_AVERAGE_WINDOW, _AVERAGE_BANDS = 512, 40
_COMPLEX_WINDOW = 512  # samples
_POWER = 0.3  # close to how loudness grows with magnitude
_KNEE = 3e-3  # of an item's RMS magnitude, -50 dB: below it the power law is linear
_OCTAVES_HZ = (1000, 2000, 4000, 8000)
_FRAMES_APART = 8
_SILENCE = 1e-4  # of the reference's mean power: a softer frame is similar to no other
_PLACE_WINDOW = 64  # samples; places are a hop apart
_PLACE_OCTAVES_HZ = _OCTAVES_HZ[1:]  # below, so short a window contains lower frequencies, too
_POWER_FLOOR = 1e-8  # -80 dB of full scale


class Loss(nn.Module):
    """Reference and decoded samples [B, L] and their spectra -> a loss [], the mean over the batch."""

    windows: Sequence[int] = ()
    """The windows, in samples, whose spectra it needs."""

    def __init__(self, config: LossConfig, sample_rate: int, hop_length: int) -> None:
        """`hop_length`: samples of a frame of the codec."""
        super().__init__()

    def forward(self, reference: Tensor, decoded: Tensor, spectra: Spectra) -> Tensor:
        raise NotImplementedError


class Waveform(Loss):
    """L1 of the samples."""

    def forward(self, reference: Tensor, decoded: Tensor, spectra: Spectra) -> Tensor:
        return (reference - decoded).abs().mean()


class Spectral(Loss):
    """Spectral convergence plus log-magnitude L1 (Yamamoto et al. 2020, eqs. 4 and 5), mean over the windows."""

    def __init__(self, config: LossConfig, sample_rate: int, hop_length: int) -> None:
        super().__init__(config, sample_rate, hop_length)
        self.windows = config.spectral_windows

    def forward(self, reference: Tensor, decoded: Tensor, spectra: Spectra) -> Tensor:
        return torch.stack([_spectral_distance(*spectra[window]) for window in self.windows]).mean()


class Mel(Loss):
    """Log-mel L1, mean over the windows (Kumar et al. 2023, section 3.4)."""

    def __init__(self, config: LossConfig, sample_rate: int, hop_length: int) -> None:
        super().__init__(config, sample_rate, hop_length)
        self.windows = config.mel_windows
        self.mels: Sequence[MelSpectrogram] = nn.ModuleList(  # type: ignore[assignment]
            MelSpectrogram(sample_rate, window, n_mels)
            for window, n_mels in zip(config.mel_windows, config.n_mels, strict=True)
        )

    def forward(self, reference: Tensor, decoded: Tensor, spectra: Spectra) -> Tensor:
        pairs = [(mel, *spectra[window]) for mel, window in zip(self.mels, self.windows, strict=True)]
        return torch.stack([_log_distance(mel.bands(a), mel.bands(b)) for mel, a, b in pairs]).mean()


class AverageSpectrum(Loss):
    """L1 of the logarithms of each mel band's root mean square over the item, its long-term average spectrum.

    The L1 of logarithms frame by frame is minimal at the median, which is below the mean wherever the codes leave a
    choice: speech becomes duller than the original.
    """

    windows = (_AVERAGE_WINDOW,)

    def __init__(self, config: LossConfig, sample_rate: int, hop_length: int) -> None:
        super().__init__(config, sample_rate, hop_length)
        self.mel = MelSpectrogram(sample_rate, _AVERAGE_WINDOW, _AVERAGE_BANDS)

    def forward(self, reference: Tensor, decoded: Tensor, spectra: Spectra) -> Tensor:
        return _log_distance(*(self._average(each) for each in spectra[_AVERAGE_WINDOW]))

    def _average(self, spectrum: Tensor) -> Tensor:
        """[B, F, T'] -> [B, M]"""
        # The floor sits under the root, as in `_magnitude`.
        return self.mel.bands(spectrum).square().mean(dim=2).clamp(min=_FLOOR**2).sqrt()


class ComplexSpectrum(Loss):
    """Squared error of spectra whose magnitudes went through a power law, with and without their phases, half and half
    (Braun and Tashev 2020, eq. 7), up to `complex_below_hz`: the ear follows phases up to some 1.5 kHz.

    Relative to the item's level, down to -80 dB: speech at -40 dB counts like speech at -20 dB.
    """

    windows = (_COMPLEX_WINDOW,)

    def __init__(self, config: LossConfig, sample_rate: int, hop_length: int) -> None:
        super().__init__(config, sample_rate, hop_length)
        hertz = config.complex_below_hz
        self._n_bins = _COMPLEX_WINDOW // 2 + 1 if hertz is None else math.ceil(hertz * _COMPLEX_WINDOW / sample_rate)

    def forward(self, reference: Tensor, decoded: Tensor, spectra: Spectra) -> Tensor:
        reference, decoded = (spectrum[:, : self._n_bins] for spectrum in spectra[_COMPLEX_WINDOW])
        level = reference.abs().square().mean(dim=(1, 2), keepdim=True).sqrt().clamp(min=_QUIETEST)
        (a, a_magnitude), (b, b_magnitude) = _compressed(reference / level), _compressed(decoded / level)
        difference = a - b
        with_phase = difference.real.square() + difference.imag.square()
        return (0.5 * with_phase + 0.5 * (a_magnitude - b_magnitude).square()).mean()


class Repetition(Loss):
    """The same waveform frame after frame in the upper band, which sounds like a buzz: the sum of two differences
    between reference and decoded samples, each the mean over octaves; 0 for the same samples, near 0 for two noises.

    Codes that hold only levels leave the waveform free. A decoder that gives equal levels equal waveforms has low
    spectral losses: windows longer than a frame measure the right levels, shorter ones see one frame at a time.

    Similarity of frames, from 1 kHz up: the mean square of the correlation of each two at most 8 frames apart;
    1 for noise against one waveform over and over. Distribution of power within a frame, from 2 kHz up: the share
    of each place, over an even share, averaged over the frames of a crop. A frame has a multiple of 16 samples.
    """

    def __init__(self, config: LossConfig, sample_rate: int, hop_length: int) -> None:
        super().__init__(config, sample_rate, hop_length)
        self.stft = Stft(_PLACE_WINDOW)
        self.hop_length = hop_length
        self.bands = _slices(_OCTAVES_HZ, sample_rate, hop_length)
        self.place_bands = _slices(_PLACE_OCTAVES_HZ, sample_rate, _PLACE_WINDOW)

    def forward(self, reference: Tensor, decoded: Tensor, spectra: Spectra) -> Tensor:
        # Whole frames: the padding is silent in both.
        a, b = (F.pad(x, (0, -x.shape[-1] % self.hop_length)) for x in (reference, decoded))
        return self._alike(a, b) + (self._places(a) - self._places(b)).abs().mean()

    def _alike(self, reference: Tensor, decoded: Tensor) -> Tensor:
        """[B, n x hop_length] twice -> the difference in similarity of their frames."""
        n_frames = reference.shape[-1] // self.hop_length
        frames = [x.reshape(-1, n_frames, self.hop_length) for x in (reference, decoded)]
        spectra = [torch.view_as_real(torch.fft.rfft(each)) for each in frames]
        near = torch.ones(n_frames, n_frames, device=reference.device).triu(1).tril(_FRAMES_APART)
        distances = []
        for band in self.bands:
            bins = [each[:, :, band].flatten(2) for each in spectra]  # [B, T, 2F]
            silence = _SILENCE * bins[0].square().sum(dim=2, keepdim=True).mean(dim=1, keepdim=True) + _POWER_FLOOR
            alike = [(_correlations(each, silence).square() * near).sum(dim=(1, 2)) for each in bins]
            distances.append((alike[0] - alike[1]).abs().mean() / near.sum().clamp(min=1))
        return torch.stack(distances).mean()

    def _places(self, signal: Tensor) -> Tensor:
        """[B, n x hop_length] -> [octaves, B, places]"""
        power = torch.view_as_real(self.stft(signal)).square().sum(dim=3)[:, :, :-1]  # [B, F, T x places]
        n_places = self.hop_length // self.stft.hop_length
        octaves = torch.stack([power[:, band].sum(dim=1) for band in self.place_bands])
        frames = octaves.reshape(*octaves.shape[:2], -1, n_places)
        return (frames / (frames.mean(dim=3, keepdim=True) + _POWER_FLOOR)).mean(dim=2)


LOSSES: dict[str, type[Loss]] = {  # `LossWeights` has the weight of each
    "waveform": Waveform,
    "spectral": Spectral,
    "mel": Mel,
    "average_spectrum": AverageSpectrum,
    "complex": ComplexSpectrum,
    "repetition": Repetition,
}


class ReconstructionLosses(nn.Module):
    """Reference and decoded audio [B, 1, L] -> the unweighted losses by name; those of weight zero are left out."""

    def __init__(self, config: LossConfig, sample_rate: int, hop_length: int) -> None:
        super().__init__()
        used = {name: loss(config, sample_rate, hop_length) for name, loss in LOSSES.items() if config.weights[name]}
        windows = sorted({window for loss in used.values() for window in loss.windows})
        self.losses = nn.ModuleDict(used)
        self.stfts = nn.ModuleDict({str(window): Stft(window) for window in windows})

    def forward(self, reference: Tensor, decoded: Tensor) -> dict[str, Tensor]:
        with torch.autocast(reference.device.type, enabled=False):
            reference, decoded = reference[:, 0].float(), decoded[:, 0].float()  # [B, L]
            # The spectra of each window are computed once for all losses.
            spectra = {int(window): (stft(reference), stft(decoded)) for window, stft in self.stfts.items()}
            return {name: loss(reference, decoded, spectra) for name, loss in self.losses.items()}


def _magnitude(spectrum: Tensor) -> Tensor:
    # The floor sits under the root: its gradient is infinite at zero, and silence is common.
    return (spectrum.real.square() + spectrum.imag.square()).clamp(min=_FLOOR**2).sqrt()


def _log_distance(reference: Tensor, decoded: Tensor) -> Tensor:
    """Mean L1 of the logarithms."""
    return (reference.clamp(min=_FLOOR).log() - decoded.clamp(min=_FLOOR).log()).abs().mean()


def _spectral_distance(reference: Tensor, decoded: Tensor) -> Tensor:
    """Complex [B, F, T'] twice."""
    reference, decoded = _magnitude(reference), _magnitude(decoded)
    # A ratio for each item, not for the batch: then the mean of two half batches is that of the whole.
    error, norm = (torch.linalg.vector_norm(x, dim=(1, 2)) for x in (reference - decoded, reference))
    quiet = _QUIET * (reference.shape[1] * reference.shape[2]) ** 0.5  # near silence any error is many times the signal
    return (error / norm.clamp(min=quiet)).mean() + _log_distance(reference, decoded)


def _compressed(spectrum: Tensor) -> tuple[Tensor, Tensor]:
    """The spectrum and its magnitude under the power law."""
    size = _magnitude(spectrum)
    gain = (size + _KNEE).pow(_POWER - 1)
    return spectrum * gain, size * gain


def _correlations(frames: Tensor, silence: Tensor) -> Tensor:
    """[B, T, N] and a power [B, 1, 1] -> [B, T, T], of each frame with each."""
    frames = frames * (frames.square().sum(dim=2, keepdim=True) + silence).rsqrt()
    return frames @ frames.transpose(1, 2)


def _slices(edges_hz: tuple[int, ...], sample_rate: int, window: int) -> list[slice]:
    """The bins of each band."""
    edges = [hz * window // sample_rate for hz in edges_hz]
    return [slice(low, high) for low, high in itertools.pairwise(edges)]
