"""Commands in this process, and what they are given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile

from codecctl.cli.main import run


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


@pytest.fixture
def wav(tmp_path: Path) -> Path:
    """A second and a bit of noise."""
    path = tmp_path / "in.wav"
    soundfile.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, 16_789), 16000)
    return path
