"""A model for the commands, and what they are given."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from codecctl.cli.main import run
from codecctl.inference.load import save_codec
from tests.conftest import lively
from tests.inference.conftest import TINY


@dataclass(frozen=True)
class Finished:
    code: int
    stdout: bytes
    stderr: str


@pytest.fixture
def codecctl(capfdbinary: pytest.CaptureFixture[bytes]) -> Callable[..., Finished]:
    """Run a command in this process."""

    def call(*arguments: object) -> Finished:
        capfdbinary.readouterr()
        code = run([str(argument) for argument in arguments])
        captured = capfdbinary.readouterr()
        return Finished(code, captured.out, captured.err.decode())

    return call


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a tiny codec."""
    path = tmp_path_factory.mktemp("model") / "tiny.pt"
    save_codec(lively(TINY), path)
    return path


@pytest.fixture
def wav(tmp_path: Path) -> Path:
    """A second and a bit of noise."""
    path = tmp_path / "in.wav"
    soundfile.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, 16_789), 16000)
    return path


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
