"""Programs that use an export where codecctl is not installed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from codecctl.errors import CodecctlError
from codecctl.export import web
from codecctl.export.web import write_web
from codecctl.inference.checkpoint import Checkpoint
from codecctl.inference.find import find_checkpoint

_ALONE = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("codecctl", "einops", "pydantic", "typer"):
            raise ModuleNotFoundError(f"No module named {name!r}")

sys.meta_path.insert(0, Absent())
import torch
torch.set_num_threads(1)
"""


@pytest.fixture(scope="session")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Run a program in a process that cannot import codecctl or what only codecctl needs, without a network."""
    folder = tmp_path_factory.mktemp("alone")

    def run(program: str, *arguments: object) -> str:
        environment = {**os.environ, "HF_HOME": str(folder / "home"), "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(
            [sys.executable, "-c", _ALONE + program, *map(str, arguments)],
            env=environment, cwd=folder, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The npm package onnxruntime-web, where npm can fetch it."""
    try:
        return web.fetch_package(tmp_path_factory.mktemp("package"))
    except CodecctlError as error:
        pytest.skip(f"the page of export --to web is not tested: {error}")


@pytest.fixture(scope="session")
def site(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The starter as a page."""
    folder = tmp_path_factory.mktemp("site") / "web"
    write_web(Checkpoint.read(find_checkpoint("starter")), folder, runtime=package)
    return folder
