"""Long-term prediction: voiced speech repeats after a pitch period, so the decoder predicts it from its own past.

Speech coders have used this for decades (Kroon and Atal 1988; as a postfilter controlled by a network: Büthe et al.
2023, LACE). It takes no bits: the period is estimated from the decoded signal. The choice is soft, a weight for each
period instead of an argmax, so that no rounding error flips it and streams stay equal to files.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from codecctl.model.causal import StreamState, prepend_past

_SHARPNESS = 60.0  # of the softmax: a correlation larger by 0.02 has three times the weight
_DOUBLING = 2.5e-4  # penalty a sample: of a period and its double, which fit equally, the shorter is chosen


class LongTermPrediction(nn.Module):
    """A signal [B, T x N] -> the signal one and two pitch periods earlier, [B, T, N] each, and the correlation at that
    period, [B, T, 1] from -1 to 1.

    The period of a frame, `shortest` to `longest` samples, maximises the normalised correlation over the frame and the
    2 x `longest` samples before it.
    """

    def __init__(self, hop_length: int, shortest: int, longest: int) -> None:
        super().__init__()
        self.hop_length, self.shortest, self.longest = hop_length, shortest, longest
        self.n_past = 2 * longest

    def forward(self, x: Tensor, state: StreamState | None = None) -> tuple[Tensor, Tensor, Tensor]:
        longer = prepend_past(self, x[:, None], self.n_past, state)[:, 0]
        windows = longer.unfold(-1, self.n_past + self.hop_length, self.hop_length)  # [B, T, n_past + N]
        with torch.no_grad():
            weights, fit = self._periods(windows)
        once, twice = windows.new_zeros(2, *windows.shape)
        once[..., self.shortest : self.longest + 1] = weights
        twice[..., 2 * self.shortest : 2 * self.longest + 1 : 2] = weights
        # The filters are applied as products of spectra; they wrap around into the past, which is cut off.
        spectrum, n = torch.fft.rfft(windows), windows.shape[-1]
        before, long_before = (
            torch.fft.irfft(spectrum * torch.fft.rfft(taps), n)[..., self.n_past :] for taps in (once, twice)
        )
        return before, long_before, fit

    def _periods(self, windows: Tensor) -> tuple[Tensor, Tensor]:
        """[B, T, n_past + N] -> weights of the periods [B, T, longest - shortest + 1], and their mean correlation."""
        power = torch.fft.rfft(windows, 2 * windows.shape[-1]).abs().square()
        return self._weigh(windows, torch.fft.irfft(power)[..., self.shortest : self.longest + 1])

    def _weigh(self, windows: Tensor, products: Tensor) -> tuple[Tensor, Tensor]:
        """`products` [B, T, longest - shortest + 1] of the window with itself, a period earlier."""
        n = windows.shape[-1]
        energy = windows.square().cumsum(dim=-1)
        period = torch.arange(self.shortest, self.longest + 1, device=windows.device)
        earlier, later = energy[..., n - 1 - period], energy[..., -1:] - energy[..., period - 1]
        quiet = 1e-8 * n  # -80 dB: silence has no pitch
        correlation = products / ((earlier + quiet) * (later + quiet)).sqrt()
        weights = (_SHARPNESS * (correlation - _DOUBLING * period)).softmax(dim=-1)
        return weights, (weights * correlation).sum(dim=-1, keepdim=True)
