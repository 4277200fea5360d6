"""Band-limited resampling (libsoxr, high quality), whole or block by block with the same result."""

from __future__ import annotations

import numpy as np
import soxr

from codecctl.audio import Audio

_PIECE = 32_768  # samples in one call: libsoxr's buffers then stay in the cache, which is a third faster


def resampled_length(n_samples: int, from_rate: int, to_rate: int) -> int:
    """ceil(n_samples x to_rate / from_rate): at least one sample for any input."""
    return -(-n_samples * to_rate // from_rate)


class Resampler:
    """Resamples a stream: `push` blocks `[C, L]` of any length, then `flush` once.

    The output has `resampled_length` samples in all and is aligned in time, however the input was cut in blocks.
    """

    def __init__(self, from_rate: int, to_rate: int, n_channels: int = 1) -> None:
        self.from_rate, self.to_rate, self.n_channels = from_rate, to_rate, n_channels
        self._n_in = self._n_out = 0
        self._stream = (
            None if from_rate == to_rate else soxr.ResampleStream(from_rate, to_rate, n_channels, quality="HQ")
        )

    def push(self, block: Audio) -> Audio:
        """`[C, L]` -> `[C, L']`: the output so far, which lags by half the filter's length."""
        if self._stream is None or not block.size:
            return block
        self._n_in += block.shape[1]
        frames = _frames(block)
        starts = range(0, len(frames), _PIECE)
        return self._counted(np.concatenate([self._stream.resample_chunk(frames[at : at + _PIECE]) for at in starts]))

    def flush(self) -> Audio:
        """The rest `[C, L']`. The stream ends here."""
        if self._stream is None:
            return np.zeros((self.n_channels, 0), np.float32)
        n_left = resampled_length(self._n_in, self.from_rate, self.to_rate) - self._n_out
        # libsoxr sometimes rounds its length down; silence behind the end gives the missing sample.
        silence = np.zeros((self.n_channels, 2 * self.from_rate // self.to_rate + 2), np.float32)
        rest = self._stream.resample_chunk(_frames(silence), last=True)
        return self._counted(rest[:n_left])

    def _counted(self, frames: Audio) -> Audio:
        self._n_out += len(frames)
        return np.ascontiguousarray(frames.reshape(-1, self.n_channels).T)  # [C, L']


def resample(audio: Audio, from_rate: int, to_rate: int) -> Audio:
    """`[C, L]` -> `[C, ceil(L x to_rate / from_rate)]`, aligned in time."""
    if from_rate == to_rate:
        return audio
    resampler = Resampler(from_rate, to_rate, audio.shape[0])
    return np.concatenate([resampler.push(audio), resampler.flush()], axis=1)


def _frames(block: Audio) -> Audio:
    """`[C, L]` -> `[L]` or `[L, C]`, as libsoxr takes it."""
    return np.ascontiguousarray(block[0] if block.shape[0] == 1 else block.T, dtype=np.float32)
