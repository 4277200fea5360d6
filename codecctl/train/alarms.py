"""Signs of a failing training: gradients that are not finite, codebooks that collapse, scores that stall."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from codecctl.evaluate.codebooks import CodebookStats
    from codecctl.train.state import TrainState


_LAST = 3  # validations that are compared with all before them
_STALLED = 5  # validations without a new best
_NOTABLE = 0.005  # smaller gains are none
ROLL_BACK_AFTER = 5  # steps in a row whose gradient is not finite
MAX_ROLLBACKS = 3  # in a run
_WARN_AFTER = 10  # lines of the log in a row: perplexities are low early in training
_STOP_AFTER = 20  # lines of the log in a row
_MIN_PERPLEXITY = 0.01  # share of a codebook's size below which it counts as collapsed


def trend(earlier: Sequence[float], now: float) -> str:
    """Scores of validations in order, lower being better -> e.g. `best so far, 4.0% better than 3 validations ago:
    still improving`. A score that is not a number counts as no validation."""
    if math.isnan(now):
        return "not a number"
    scores = [*(score for score in earlier if not math.isnan(score)), now]
    since_best = len(scores) - 1 - scores.index(min(scores))
    if since_best >= _STALLED:
        return f"no better for {since_best} validations: stalled"
    place = "best so far"
    if since_best:
        place = f"no better for {since_best} validation{'s' if since_best > 1 else ''}"
    if len(scores) <= _LAST:
        return f"{place}: too early to tell"
    recent, before = min(scores[-_LAST:]), min(scores[:-_LAST])
    gain = 1 - recent / before if before else 0.0
    compared = f"{abs(gain):.1%} {'better' if gain > 0 else 'worse'} than {_LAST} validations ago"
    if since_best:  # the compared score is the best of the last ones
        compared = f"the best of the last {_LAST} {compared}"
    return f"{place}, {compared}: {'still improving' if gain >= _NOTABLE else 'hardly improving'}"


class Skips:
    """Collects `StepResult.skipped` of each step, so that the host reads many at once."""

    def __init__(self) -> None:
        self._flags: dict[int, Tensor] = {}  # by step

    def add(self, step: int, skipped: Tensor) -> None:
        self._flags[step] = skipped

    def read(self, state: TrainState) -> list[int]:
        """The skipped steps since the last call; updates `state.n_skipped`. Waits for the device."""
        flags = torch.stack([*self._flags.values()]).tolist() if self._flags else []
        skipped = [step for step, flag in zip(self._flags, flags, strict=True) if flag]
        for flag in flags:
            state.n_skipped = state.n_skipped + 1 if flag else 0
        self._flags.clear()
        return skipped


def check_codebooks(state: TrainState, codebooks: Sequence[CodebookStats]) -> tuple[list[str], str]:
    """Count the log lines in a row in which each codebook counts as collapsed.

    Returns a warning for each that reaches the limit now, and the reason to stop the run, empty without one.
    """
    warnings, reasons = [], []
    for k, stats in enumerate(codebooks):
        share = stats.perplexity / max(1, min(stats.codebook_size, stats.n_codes))
        collapsed = stats.n_codes and share < _MIN_PERPLEXITY
        state.n_alarms[k] = state.n_alarms[k] + 1 if collapsed else 0
        if state.n_alarms[k] == _WARN_AFTER:
            warnings.append(f"codebook {k + 1} collapses: perplexity {stats.perplexity:.1f}")
        if state.n_alarms[k] >= _STOP_AFTER:
            reasons.append(
                f"codebook {k + 1} has collapsed (perplexity {stats.perplexity:.1f} of {stats.codebook_size}) for "
                f"{state.n_alarms[k]} logs"
            )
    return warnings, next(iter(reasons), "")
