"""A codec so small that a second of audio takes milliseconds, as a checkpoint and loaded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from codecctl.config.model import ModelConfig, QuantizerConfig, StridedConfig, TransformerConfig
from codecctl.inference.load import Codec, save_codec
from tests.conftest import lively

TINY = ModelConfig(
    front=StridedConfig(strides=(2, 4, 5), base_channels=4, dilations=(1, 3)),  # hop 40
    transformer=TransformerConfig(width=16, n_layers=2, n_heads=2, feedforward_width=32, look_back_frames=20),
    quantizer=QuantizerConfig(codebook_sizes=(64, 16, 8)),
)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """Threads only stand in each other's way on a model of this size."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "tiny.pt"
    save_codec(lively(TINY), path)
    return path


@pytest.fixture(scope="session")
def codec(checkpoint: Path) -> Codec:
    return Codec.load(checkpoint, "cpu")


@pytest.fixture(scope="session")
def tiny_config() -> ModelConfig:
    return TINY
