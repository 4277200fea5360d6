"""A corpus of codes, and folders of recordings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from codecctl.codes.job import encode_corpus
from tests.conftest import write_audio


@pytest.fixture(scope="session")
def corpus(model: Path, prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The codes of the bundled clips, prepared. For reading only."""
    out = tmp_path_factory.mktemp("corpus") / "codes"
    encode_corpus([prepared], out, model)
    return out


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Four folders of recordings of unequal length and rate, each a unit of its own."""
    root, random = tmp_path_factory.mktemp("recordings"), np.random.default_rng(0)
    for number in range(24):
        path = root / f"part{number % 4}" / f"{number}.wav"
        path.parent.mkdir(exist_ok=True)
        audio = random.normal(0, 0.1, (1, int(random.integers(2000, 30_000)))).astype(np.float32)
        write_audio(path, audio, (16_000, 44_100)[number % 2])
    return sorted(root.iterdir())
