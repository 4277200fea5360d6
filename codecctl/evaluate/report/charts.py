"""What the charts of `charts.svg.j2` show, and spectrograms as PNG."""

from __future__ import annotations

import base64
import math
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from markupsafe import Markup
from numpy.typing import NDArray

from codecctl.audio import Audio
from codecctl.audio.spectrum import Stft
from codecctl.evaluate.metrics.table import METRICS
from codecctl.evaluate.report.templates import TEMPLATES
from codecctl.evaluate.systems import CODEC, FEWER, UNQUANTIZED, is_opus

if TYPE_CHECKING:
    from codecctl.evaluate.result import System, Validation

_RANGE_DB = 80  # below the loudest point of the original
_COLOURS = np.array([[4, 4, 20], [70, 20, 100], [170, 50, 90], [240, 120, 40], [250, 220, 120], [255, 255, 240]])
_BOX = {"width": 340, "height": 210, "left": 46, "right": 328, "top": 12, "bottom": 176}
_SVG: Any = TEMPLATES.get_template("charts.svg.j2").module  # its macros


@dataclass(frozen=True)
class Point:
    x: float
    y: float
    label: str
    low: float = math.nan
    high: float = math.nan

    def __str__(self) -> str:
        return f"{self.label}: {self.y:.3g} at {self.x:.2f} kbps"


@dataclass(frozen=True)
class _Axis:
    low: float
    high: float
    first: float  # pixel of `low`
    last: float

    def at(self, value: float) -> float:
        return self.first + (value - self.low) / (self.high - self.low) * (self.last - self.first)

    def ticks(self) -> list[tuple[float, str]]:
        rough = (self.high - self.low) / 4
        scale = 10 ** math.floor(math.log10(rough))
        step = scale * min((1, 2, 5, 10), key=lambda s: abs(s - rough / scale))
        first = math.ceil(self.low / step)
        return [(i * step, f"{i * step:g}") for i in range(first, math.floor(self.high / step) + 1)]


def rate_charts(result: Validation) -> list[tuple[str, Markup]]:
    """A title and a chart for each metric of the codec."""
    first = [s for s in result.systems if s.name == CODEC or s.name.startswith(FEWER)]
    ours = sorted(first, key=lambda system: system.bitrate_kbps or 0)
    opus = [system for system in result.systems if is_opus(system.name)]
    without = result.system(UNQUANTIZED)
    charts = []
    for name in result.means:
        level = without.metrics[name].mean if without and name in without.metrics else math.nan
        title = METRICS[name].label
        charts.append((title, rate_chart(title, _points(ours, name), _points(opus, name), level)))
    return charts


def _points(systems: Sequence[System], metric: str) -> list[Point]:
    scores = [(system, system.metrics[metric]) for system in systems if metric in system.metrics]
    return [Point(system.bitrate_kbps or 0, s.mean, system.label, s.low, s.high) for system, s in scores]


def rate_chart(title: str, ours: Sequence[Point], opus: Sequence[Point], level: float) -> Markup:
    """A metric over the true bitrate: the codec's curve over codebooks with its interval, Opus, and the level with the
    quantizer off, which may be NaN."""
    ys = [v for p in (*ours, *opus) for v in (p.y, p.low, p.high) if not math.isnan(v)]
    if not math.isnan(level):
        ys.append(level)
    low, high = min(ys, default=0), max(ys, default=1)
    margin = 0.08 * (high - low) or 0.5
    up = _Axis(low - margin, high + margin, _BOX["bottom"], _BOX["top"])
    across = _Axis(0.0, 1.05 * max([p.x for p in (*ours, *opus)], default=1.0), _BOX["left"], _BOX["right"])
    lines = {kind: [p for p in line if not math.isnan(p.y)] for kind, line in (("opus", opus), ("ours", ours))}
    band = [p for p in ours if not math.isnan(p.low)]
    edge = [(p.x, p.low) for p in band] + [(p.x, p.high) for p in reversed(band)]
    return Markup(_SVG.rate(_BOX, title, across, up, lines, edge if len(band) > 1 else [], level))


def histograms(result: Validation) -> list[tuple[str, Markup]]:
    """A title and a chart for each codebook."""
    charts = []
    for k, hits in enumerate(result.histograms, start=1):
        title = f"Codebook {k}: hits of its {len(hits)} codewords by rank, {(hits == 0).sum()} without any"
        charts.append((f"codebook {k}", histogram(title, hits)))
    return charts


def histogram(title: str, hits: NDArray[np.int64]) -> Markup:
    """How often each codeword of a codebook was chosen, [V], the most frequent first; the height is logarithmic."""
    falling = np.sort(hits)[::-1].astype(np.float64)
    n_columns = min(len(falling), _BOX["right"] - _BOX["left"])
    heights = np.log10(1 + np.array([part.mean() for part in np.array_split(falling, n_columns)]))
    across = _Axis(0, len(falling), _BOX["left"], _BOX["right"])
    up = _Axis(0, max(1.0, float(heights.max())), _BOX["bottom"], _BOX["top"])
    places = np.repeat(np.arange(n_columns + 1) * len(falling) / n_columns, 2)
    outline = list(zip(places.tolist(), [0.0, *np.repeat(heights, 2).tolist(), 0.0], strict=True))
    ticks = [(math.log10(1 + n), f"{n:g}") for n in (0, 1, 3, 10, 30, 100, 300, 1000, 10_000, 100_000)]
    return Markup(_SVG.histogram(_BOX, title, across, up, [tick for tick in ticks if tick[0] <= up.high], outline))


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
