"""Signs of a failing training: gradients that are not finite, codebooks that collapse, scores that stall."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from codecctl.evaluate.codebooks import CodebookStats
    from codecctl.train.state import TrainState


N_RECENT = 3  # validations that are compared with all before them
_STALLED = 5  # validations without a new best
_NOTABLE = 0.005  # smaller gains are none
ROLL_BACK_AFTER = 5  # steps in a row whose gradient is not finite
MAX_ROLLBACKS = 3  # in a run
_WARN_AFTER = 10  # lines of the log in a row: perplexities are low early in training
_STOP_AFTER = 20  # lines of the log in a row
_MIN_PERPLEXITY = 0.01  # share of a codebook's size below which it counts as collapsed


@dataclass(frozen=True)
class Trend:
    """How the score of a validation, lower being better, compares with those before."""

    since_best: int | None  # validations since the best one, 0: it is this one; None: the score is not a number
    gain: float | None = None  # relative, of the best of the last `N_RECENT` over the best before; None: too few

    @property
    def verdict(self) -> str:
        """`stalled`, `still improving`, `hardly improving`, `too early to tell` or `not a number`."""
        if self.since_best is None:
            return "not a number"
        if self.since_best >= _STALLED:
            return "stalled"
        if self.gain is None:
            return "too early to tell"
        return "still improving" if self.gain >= _NOTABLE else "hardly improving"


def trend(earlier: Sequence[float], now: float) -> Trend:
    """Of scores in order. One that is not a number counts as no validation."""
    if math.isnan(now):
        return Trend(None)
    scores = [*(score for score in earlier if not math.isnan(score)), now]
    since_best = len(scores) - 1 - scores.index(min(scores))
    if len(scores) <= N_RECENT:
        return Trend(since_best)
    recent, before = min(scores[-N_RECENT:]), min(scores[:-N_RECENT])
    return Trend(since_best, 1 - recent / before if before else 0.0)


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
