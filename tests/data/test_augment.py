"""Augmentations draw from streams of their own, so that one does not change the numbers of another."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch

from codecctl.config.schema import DataConfig
from codecctl.data.augment import Colour, Level, Noise, Speed, augmentations, colour, random_stream
from codecctl.data.crops import Crops


def test_config_without_augmentations_makes_none() -> None:
    assert augmentations(DataConfig(), 1.0) == []


def test_augmentations_are_applied_in_the_order_colour_noise_level() -> None:
    config = DataConfig(colour_augmentation_db=6, noise_snr_db=(20, 40), level_augmentation_db=3, crop_level_db=-26)
    expected = [Colour(6), Noise(20, 40), Level(3, -26, 0.5)]
    assert augmentations(config, 0.5) == expected


def test_another_augmentation_moves_no_crop_and_changes_no_gain(prepared: Path) -> None:
    """Noise of -200 dB cannot be seen, yet it draws."""
    plain = Crops(prepared, "train", 1600, 0, DataConfig(level_augmentation_db=6), math.inf).batch(3, 8)
    config = DataConfig(level_augmentation_db=6, noise_snr_db=(200, 200))
    noisy = Crops(prepared, "train", 1600, 0, config, math.inf).batch(3, 8)
    torch.testing.assert_close(noisy, plain, atol=1e-6, rtol=0)


def test_streams_of_two_names_or_steps_differ() -> None:
    first = random_stream(1, 2, "Noise").random(4)
    assert np.array_equal(first, random_stream(1, 2, "Noise").random(4))
    others = [random_stream(*key).random(4) for key in [(1, 2, "Level"), (1, 3, "Noise"), (2, 2, "Noise")]]
    assert not any(np.allclose(first, other) for other in others)


def test_speed_is_drawn_within_its_bounds() -> None:
    speeds = Speed(0.2).draw(random_stream(0, 0, "Speed"), 1000)
    assert 0.8 <= speeds.min() < 0.81
    assert 1.19 < speeds.max() <= 1.2


def test_colour_response_stays_within_its_bound_in_decibels() -> None:
    impulse = np.zeros((3, 16_000), np.float32)
    impulse[:, 8000] = 1
    weights = np.array([[1, 1, 1], [-1, -1, -1], [0, 0, 0]])
    response_db = 20 * np.log10(np.abs(np.fft.rfft(colour(impulse, weights, 12))))
    np.testing.assert_allclose(np.abs(response_db).max(axis=1), [12, 12, 0], atol=0.01)
