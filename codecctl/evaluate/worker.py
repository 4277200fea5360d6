"""What a process that computes perceptual metrics runs: they take most of the time, and one core each."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # nothing heavy is imported here: a worker sets its thread limits before it imports numpy
    from codecctl.audio import Audio
    from codecctl.evaluate.metrics.metric import Context

SystemScores = dict[str, dict[str, float]]  # by system and metric


def start_worker() -> None:
    """Ctrl-C is handled by the main process, which ends the workers. One core each."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = "1"


def score_systems(
    pairs: dict[str, tuple[Audio, Audio]], original: Audio, metrics: tuple[str, ...], context: Context
) -> SystemScores:
    """The perceptual scores of reference and decoded [L] of each system, and of the original, at 16 kHz."""
    from codecctl.evaluate.perceptual import score_all

    return score_all(pairs, original, metrics, context)
