import math

import numpy as np
import pytest

from codecctl.evaluate.intervals import mean_of_defined, means


def test_the_interval_of_many_values_is_that_of_the_normal_distribution() -> None:
    values = np.random.default_rng(0).normal(3.0, 2.0, size=(400, 1))
    (mean,) = means(values)
    half = 1.96 * values.std() / math.sqrt(400)
    assert mean.mean == pytest.approx(values.mean())
    assert mean.low == pytest.approx(values.mean() - half, abs=0.03)
    assert mean.high == pytest.approx(values.mean() + half, abs=0.03)


def test_the_interval_contains_the_true_mean_in_about_95_percent_of_experiments() -> None:
    values = np.random.default_rng(1).exponential(1.0, size=(60, 300))  # 300 experiments of 60 recordings, skewed
    held = np.mean([mean.low < 1.0 < mean.high for mean in means(values)])
    assert 0.88 < held < 0.98


def test_undefined_values_are_left_out() -> None:
    first, second, third = means(np.array([[1.0, math.nan, math.nan], [3.0, 5.0, math.nan]]))
    assert (first.mean, first.n) == (2.0, 2)
    assert (second.mean, second.n) == (5.0, 1)
    assert math.isnan(second.low)
    assert math.isnan(third.mean)
    assert third.n == 0
    assert mean_of_defined([1.0, math.nan, 3.0]) == 2.0
    assert math.isnan(mean_of_defined([math.nan]))


def test_paired_differences_show_what_separate_means_hide() -> None:
    random = np.random.default_rng(2)
    levels = random.normal(0, 5, size=50)
    first, second = levels + 0.3, levels + random.normal(0, 0.1, size=50)
    one, other = means(np.stack([first, second], axis=1))
    (difference,) = means((first - second)[:, None])
    assert one.low < other.high
    assert difference.low > 0.2
