"""Resampling of live audio, with a lag of a few milliseconds: libsoxr gives out its blocks up to 0.1 s late."""

from __future__ import annotations

import math

import torch
from torchaudio.transforms import Resample

from codecctl.audio import Audio
from codecctl.audio.resample import resampled_length

# Even to 7.2 kHz and 0.6 dB lower at 7.4 for an output of 16 kHz; what is above 8.2 kHz is 60 dB down.
_FILTER = {"lowpass_filter_width": 32, "rolloff": 0.96, "resampling_method": "sinc_interp_kaiser", "beta": 7.0}
_LARGEST_KERNEL = 2**22  # elements, about: rates without a common factor have a row for each sample of a second


class LowDelayResampler:
    """Resamples a mono stream: `push` blocks `[1, L]` of any length, then `flush` once.

    The output is aligned in time and as long as that of `Resampler`; it does not depend on the blocks.
    """

    def __init__(self, from_rate: int, to_rate: int) -> None:
        self._rates = from_rate, to_rate
        common = math.gcd(*self._rates)
        self._n_in, self._n_out = from_rate // common, to_rate // common  # samples of a period, in and out
        self._resample = Resample(*self._rates, **_FILTER)
        self._n_before = -(-self._resample.width // self._n_in) * self._n_in
        self._rest = torch.zeros(1, self._n_before)  # what the next samples need, from the start of a period on
        self._n_sent = self._n_before // self._n_in * self._n_out  # samples out, from that start on
        self._n_pushed = self._n_given = 0

    @property
    def lag_seconds(self) -> float:
        """From a sample to the output at its time."""
        return self._resample.width / self._rates[0]

    def push(self, block: Audio) -> Audio:
        """`[1, L]` -> `[1, L']`: the output so far, which lags by half the filter's length."""
        self._n_pushed += block.shape[1]
        return self._push(torch.from_numpy(block))

    def flush(self) -> Audio:
        """The rest `[1, L']`. The stream ends here."""
        n_left = resampled_length(self._n_pushed, *self._rates) - self._n_given
        return self._push(torch.zeros(1, self._resample.width + self._n_in))[:, :n_left]

    def _push(self, block: torch.Tensor) -> Audio:
        samples = torch.cat([self._rest, block], dim=1)
        n_ready = max(self._n_sent, (samples.shape[1] - self._resample.width) * self._n_out // self._n_in)
        out = self._resample(samples)[:, self._n_sent : n_ready]
        n_periods = max(0, n_ready // self._n_out - self._n_before // self._n_in)  # that are needed no longer
        self._rest, self._n_sent = samples[:, n_periods * self._n_in :], n_ready - n_periods * self._n_out
        self._n_given += out.shape[1]
        return out.numpy()


def can_resample(from_rate: int, to_rate: int) -> bool:
    """Whether the filter of these rates is small enough."""
    n_in, n_out = (rate // math.gcd(from_rate, to_rate) for rate in (from_rate, to_rate))
    return n_in * n_out < _LARGEST_KERNEL
