"""Whether validation still improves, in words."""

from __future__ import annotations

import math
from collections.abc import Sequence

_LAST = 3  # validations that are compared with all before them
_STALLED = 5  # validations without a new best
_NOTABLE = 0.005  # smaller gains are none


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
