"""Spectrograms as PNG."""

from __future__ import annotations

import base64
import struct
import zlib

import numpy as np
import torch
from numpy.typing import NDArray

from codecctl.audio import Audio
from codecctl.audio.spectrum import Stft

_RANGE_DB = 80  # below the loudest point of the original
_COLOURS = np.array([[4, 4, 20], [70, 20, 100], [170, 50, 90], [240, 120, 40], [250, 220, 120], [255, 255, 240]])


def spectrogram_png(audio: Audio, loudest: float | None = None) -> tuple[str, float]:
    """[L] -> a PNG as a data URI, time to the right, 0 to Nyquist upwards, and the power of the loudest point.

    `loudest` is the power of the brightest colour, so that pictures can be compared; None: that of the loudest point.
    """
    power = Stft(512)(torch.from_numpy(np.ascontiguousarray(audio))[None])[0].abs().square().numpy()
    loudest = float(power.max()) if loudest is None else loudest
    level = 10 * np.log10(np.maximum(power, 1e-20) / max(loudest, 1e-20))
    shade = np.clip((level / _RANGE_DB + 1) * 255, 0, 255).astype(np.uint8)[::-1]
    return f"data:image/png;base64,{base64.b64encode(png(shade)).decode()}", loudest


def png(shades: NDArray[np.uint8]) -> bytes:
    """[rows, columns] of shades from dark to bright, in colour (PNG specification, colour type 3)."""
    places = np.linspace(0, 255, len(_COLOURS))
    palette = np.stack([np.interp(np.arange(256), places, _COLOURS[:, c]) for c in range(3)], axis=1).astype(np.uint8)
    rows = np.pad(shades, ((0, 0), (1, 0)))  # a filter byte before each row: none
    header = struct.pack(">IIBBBBB", shades.shape[1], shades.shape[0], 8, 3, 0, 0, 0)
    chunks = (
        (b"IHDR", header),
        (b"PLTE", palette.tobytes()),
        (b"IDAT", zlib.compress(rows.tobytes(), 9)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
