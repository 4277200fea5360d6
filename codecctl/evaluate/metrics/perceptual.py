"""The table of perceptual metrics. A new one is a file here and a row below.

Workers import this module, so it does not load torch.
"""

from __future__ import annotations

from codecctl.evaluate.metrics.distillmos import DISTILLMOS
from codecctl.evaluate.metrics.dnsmos import DNSMOS
from codecctl.evaluate.metrics.pesq import PESQ
from codecctl.evaluate.metrics.speaker import SPEAKER
from codecctl.evaluate.metrics.stoi import STOI
from codecctl.evaluate.metrics.visqol import VISQOL
from codecctl.evaluate.metrics.words import WORDS

PERCEPTUAL_METRICS = {row.name: row for row in (PESQ, STOI, VISQOL, DNSMOS, DISTILLMOS, SPEAKER, WORDS)}
