"""Losses of mel bands: of each frame, and of the long-term average."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from codecctl.audio.spectrum import MelSpectrogram
from codecctl.config.schema import LossConfig
from codecctl.train.losses.loss import FLOOR, Loss, Spectra, log_distance, mean

_AVERAGE_WINDOW, _AVERAGE_BANDS = 512, 40


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
        return mean([log_distance(mel.bands(a), mel.bands(b)) for mel, a, b in pairs])


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
        return log_distance(*(self._average(each) for each in spectra[_AVERAGE_WINDOW]))

    def _average(self, spectrum: Tensor) -> Tensor:
        """[B, F, T'] -> [B, M]"""
        # The floor sits under the root, as in `magnitude`.
        return self.mel.bands(spectrum).square().mean(dim=2).clamp(min=FLOOR**2).sqrt()
