"""A model that encodes a minute in a second, and folders of recordings."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from codecctl.codes.job import encode_corpus
from codecctl.inference.load import Codec, save_codec
from tests.conftest import lively, write_audio
from tests.inference.conftest import TINY


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a tiny codec: a hop of 40 samples, codebooks of 64, 16 and 8 codewords."""
    path = tmp_path_factory.mktemp("model") / "tiny.pt"
    save_codec(lively(TINY), path)
    return path


@pytest.fixture(scope="session")
def codec(model: Path) -> Codec:
    return Codec.load(model, "cpu")


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
