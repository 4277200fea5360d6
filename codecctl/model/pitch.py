"""Long-term prediction: voiced speech repeats itself after a pitch period, and the decoder has the past at hand.

Speech coders have lived on this for decades (Kroon and Atal 1988; as a postfilter driven by a network: Büthe et al.
2023, LACE). Nothing is sent for it: the period is found in what was decoded so far. It is a soft choice, a weight for
each period and no argmax, so that a rounding error never flips it: streams stay equal to files.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from codecctl.model.causal import StreamState, prepend_past

_SHARPNESS = 60.0  # of the choice: a correlation better by 0.02 counts three times as much
_DOUBLING = 2.5e-4  # a sample: of two periods that fit alike, such as one and its double, the shorter is meant


class LongTermPrediction(nn.Module):
    """A signal [B, T x N] -> what it was one and two pitch periods before, [B, T, N] each, and how well the period
    fits, [B, T, 1] from -1 to 1.

    Each frame's period, of `shortest` to `longest` samples, has its largest normalised correlation over the frame and
    the 2 `longest` samples before.
    """

    def __init__(self, frame: int, shortest: int, longest: int) -> None:
        super().__init__()
        self.frame, self.shortest, self.longest = frame, shortest, longest
        self.n_past = 2 * longest

    def forward(self, x: Tensor, state: StreamState | None = None) -> tuple[Tensor, Tensor, Tensor]:
        longer = prepend_past(self, x[:, None], self.n_past, state)[:, 0]
        windows = longer.unfold(-1, self.n_past + self.frame, self.frame)  # [B, T, n_past + N]
        with torch.no_grad():
            weights, fit = self._periods(windows)
        once, twice = windows.new_zeros(2, *windows.shape)
        once[..., self.shortest : self.longest + 1] = weights
        twice[..., 2 * self.shortest : 2 * self.longest + 1 : 2] = weights
        # The filters as products of spectra: what wraps around falls on the past, which is cut off.
        spectrum, n = torch.fft.rfft(windows), windows.shape[-1]
        before, long_before = (
            torch.fft.irfft(spectrum * torch.fft.rfft(taps), n)[..., self.n_past :] for taps in (once, twice)
        )
        return before, long_before, fit

    def _periods(self, windows: Tensor) -> tuple[Tensor, Tensor]:
        """[B, T, n_past + N] -> a weight for each period [B, T, longest - shortest + 1], and the fit."""
        n = windows.shape[-1]
        power = torch.fft.rfft(windows, 2 * n).abs().square()
        products = torch.fft.irfft(power)[..., self.shortest : self.longest + 1]
        energy = windows.square().cumsum(dim=-1)
        period = torch.arange(self.shortest, self.longest + 1, device=windows.device)
        earlier, later = energy[..., n - 1 - period], energy[..., -1:] - energy[..., period - 1]
        quiet = 1e-8 * n  # -80 dB: silence has no pitch
        correlation = products / ((earlier + quiet) * (later + quiet)).sqrt()
        weights = (_SHARPNESS * (correlation - _DOUBLING * period)).softmax(dim=-1)
        return weights, (weights * correlation).sum(dim=-1, keepdim=True)
