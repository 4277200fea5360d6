"""Whether validation still improves, in words."""

from __future__ import annotations

import math

import pytest

from codecctl.cli.watch import describe_trend
from codecctl.train.alarms import trend

NAN = math.nan


@pytest.mark.parametrize(
    ("earlier", "now", "words"),
    [
        ([], 2.0, "best so far: too early to tell"),
        ([2.0, 1.0], 1.5, "no new best in the last validation: too early to tell"),
        ([2.0, 1.0, 0.99], 0.96, "best so far, 52.0% better than 3 validations ago: still improving"),
        ([1.0, 1.0, 1.0], 0.998, "best so far, 0.2% better than 3 validations ago: hardly improving"),
        (
            [1.0, 0.9, 0.8],
            0.85,
            "no new best in the last validation; the best of the last 3 is 20.0% better than the best before them: "
            "still improving",
        ),
        (
            [1.0, 0.8, 1.0, 1.0],
            0.88,
            "no new best in the last 3 validations; the best of the last 3 is 10.0% worse than the best before them: "
            "hardly improving",
        ),
        ([0.8, 1.0, 1.0, 1.0, 1.0], 0.9, "no new best in the last 5 validations: stalled"),
        ([0.8] * 5, 0.8, "no new best in the last 5 validations: stalled"),
        ([2.0, NAN, 1.0], 0.5, "best so far: too early to tell"),
        ([2.0], NAN, "not a number"),
    ],
)
def test_a_history_in_words(earlier: list[float], now: float, words: str) -> None:
    assert describe_trend(trend(earlier, now)) == words
