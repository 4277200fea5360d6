"""Several channels to one: their mean, or the loudest of them where they cancel."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from codecctl.audio.files import Audio

_CANCELLED = 0.05  # energy of the mean, relative to that of the mean of uncorrelated channels: 13 dB are lost
_AUDIBLE = 1e-5  # mean square, -50 dBFS
_ENOUGH_SECONDS = 10  # of audible sound, to decide


def to_mono(audio: Audio) -> Audio:
    """The mean of the channels: `[C, L]` -> `[1, L]`."""
    return audio if audio.shape[0] == 1 else audio.mean(axis=0, keepdims=True, dtype=np.float32)


def find_dominant_channel(seconds: Iterable[Audio]) -> int | None:
    """The index of the loudest channel if the mean of the channels cancels, else None.

    `seconds` are `[C, L]` of a second each. Reads on until ten of them were audible.
    """
    energies: np.ndarray[tuple[int], np.dtype[np.float64]] | None = None
    mixed, n_audible = 0.0, 0
    for second in seconds:
        energy = np.einsum("cl,cl->c", second, second, dtype=np.float64)
        energies = energy if energies is None else energies + energy
        mixed += float(np.square(to_mono(second), dtype=np.float64).sum())
        n_audible += bool(energy.max() > _AUDIBLE * second.shape[1])
        if n_audible == _ENOUGH_SECONDS:
            break
    if energies is None or mixed >= _CANCELLED * energies.sum() / len(energies) ** 2:
        return None
    return int(energies.argmax())
