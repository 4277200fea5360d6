"""Audio for frames that did not arrive: the decoded signal repeats its last pitch period and fades out.

The method of ITU-T G.711 appendix I, without its delay. It works on samples, so it serves every front.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_PERIODS = (0.0025, 0.02)  # seconds: voices from 50 to 400 Hz
_WINDOW = 0.02  # seconds over which periods are compared
_PAST = 0.042  # seconds that are kept: a window, the longest period, and a sample before
_FADE = 0.1  # seconds to silence: what was said is unknown
_CROSSFADE = 0.005  # seconds from the filled frame to the next one that arrived
_JOIN = 0.001  # seconds in which the step where the frame begins decays
_DOUBLING = 4.0  # penalty a second: of a period and its double, which fit equally, the shorter is chosen
_QUIET = 1e-8  # -80 dB: below it there is no pitch


class Concealment:
    """Fills gaps in a batch of decoded signals; `fill` gets all of each signal, in order."""

    def __init__(self, batch_size: int, sample_rate: int, like: Tensor) -> None:
        """`like`: a tensor of the device and precision of the audio."""
        self._rate = sample_rate
        wide = torch.promote_types(like.dtype, torch.float32)
        self._past = torch.zeros(batch_size, round(_PAST * sample_rate), dtype=wide, device=like.device)
        # samples since the last frame that arrived
        self._missing = torch.zeros(batch_size, dtype=torch.int64, device=like.device)
        self.is_active = False  # the last frame of an item did not arrive

    def note(self, audio: Tensor) -> None:
        """[B, L] arrived, of every item."""
        n = self._past.shape[-1]
        self._past = torch.cat([self._past, audio[:, -n:]], dim=-1)[:, -n:]

    def fill(self, audio: Tensor, lost: Tensor) -> Tensor:
        """[B, L], a frame or a part of one -> [B, L], where `lost` [B] the past continued, and a crossfade from it into
        what arrived after."""
        active = (lost | (self._missing > 0)).nonzero()[:, 0]
        if not len(active):
            self.note(audio)
            return audio
        is_lost = lost[active, None]
        n = audio.shape[-1]
        going_on = continue_audio(self._past[active], n, self._rate, self._missing[active] > 0)
        time = self._missing[active, None] + torch.arange(n, device=audio.device)  # since the last that arrived
        fading = going_on * (1 - time / (_FADE * self._rate)).clamp(min=0)
        known, filled = audio.to(going_on), audio.clone()
        arrived = known[active].lerp(fading, self._crossfade(n))
        filled[active] = torch.where(is_lost, fading, arrived).to(audio.dtype)
        known[active] = torch.where(is_lost, going_on, arrived)
        self.note(known)  # what goes on does not fade a second time
        self._missing = torch.where(lost, self._missing + n, 0)
        self.is_active = bool(lost.any())
        return filled

    def _crossfade(self, n: int) -> Tensor:
        """[n], the share of the signal that went on, in a frame that arrived."""
        n_crossed = min(n, round(_CROSSFADE * self._rate))
        angle = torch.linspace(0, math.pi, n_crossed + 2, dtype=self._past.dtype, device=self._past.device)[1:-1]
        return torch.nn.functional.pad((angle.cos() + 1) / 2, (0, n - n_crossed))

    def reset(self, item: int) -> None:
        """A new signal starts in this item."""
        self._past[item] = 0
        self._missing[item] = 0
        self.is_active = bool(self._missing.any())


def continue_audio(past: Tensor, n_samples: int, sample_rate: int, begun: Tensor | None = None) -> Tensor:
    """[N, L] -> [N, n_samples], the last period again and again; the softer, the less the past is periodic.

    `begun` [N], booleans: of these the past ends with such a continuation already, and the level stays.
    """
    period, correlation = _pitch(past, sample_rate)
    n, time = past.shape[-1], torch.arange(n_samples, device=past.device)
    repeated = past.gather(1, n - period + time % period)
    step = past[:, -1:] - past.gather(1, n - period - 1)  # between the end of the past and what follows it
    level = correlation.sqrt() if begun is None else torch.where(begun[:, None], 1.0, correlation.sqrt())
    return level * (repeated + step * (-time / (_JOIN * sample_rate)).exp())


def _pitch(past: Tensor, sample_rate: int) -> tuple[Tensor, Tensor]:
    """[N, L] -> [N, 1] twice: the samples after which the last `_WINDOW` repeats best, and its correlation with what
    it repeats, 0 to 1."""
    shortest, longest = (round(seconds * sample_rate) for seconds in _PERIODS)
    n = round(_WINDOW * sample_rate)
    last = past[:, -n:]
    earlier = past[:, -n - longest : -shortest].unfold(-1, n, 1).flip(1)  # [N, periods, n], the shortest first
    quiet = _QUIET * n
    energy = (earlier.square().sum(dim=-1) + quiet) * (last.square().sum(dim=-1, keepdim=True) + quiet)
    correlation = (earlier @ last[..., None])[..., 0] / energy.sqrt()
    periods = torch.arange(shortest, longest + 1, device=past.device)
    best = (correlation - _DOUBLING / sample_rate * periods).argmax(dim=-1, keepdim=True)
    return periods[best], correlation.gather(1, best).clamp(min=0)
