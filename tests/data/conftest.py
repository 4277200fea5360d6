"""A folder of recordings of noise, by speaker."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

Maker = Callable[..., Path]


@pytest.fixture
def make_recordings(tmp_path: Path) -> Maker:
    """A function (name, {speaker: [seconds, ...]}) -> folder of noise, a subfolder each speaker; `seed` changes it."""

    def make(name: str, speakers: dict[str, list[float]], *, seed: int = 0, sample_rate: int = 16_000) -> Path:
        folder = tmp_path / name
        random = np.random.default_rng(seed)
        for speaker, lengths in speakers.items():
            (folder / speaker).mkdir(parents=True, exist_ok=True)
            for number, seconds in enumerate(lengths):
                audio = 0.1 * random.standard_normal(round(seconds * sample_rate))
                soundfile.write(folder / speaker / f"{number}.wav", audio, sample_rate)
        return folder

    return make
