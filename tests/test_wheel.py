"""The wheel: built, installed into an environment of its own, and used from another folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

import codecctl

pytestmark = pytest.mark.slow  # builds a wheel and an environment

PROJECT = Path(__file__).resolve().parents[1]
PYPROJECT = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Installed:
    folder: Path  # of the environment
    away: Path  # a folder far from the project

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """A program of the environment, run away from the project and without its sources on the path."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        program, *arguments = command
        words = [str(self.folder / "bin" / program), *arguments]
        return subprocess.run(words, cwd=self.away, env=clean, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, PROJECT]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = out.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """The wheel in a new environment, which borrows the libraries of this one: torch weighs gigabytes."""
    folder, away = tmp_path_factory.mktemp("environment"), tmp_path_factory.mktemp("away")
    venv.create(folder)
    pip = [sys.executable, "-m", "pip", "--python", folder / "bin" / "python"]
    done = subprocess.run([*pip, "install", "--no-deps", "--no-index", wheel], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")  # behind the wheel's own
    return Installed(folder, away)


def test_it_holds_the_package_its_configs_and_its_clips(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for path in (PROJECT / "configs").rglob("*.yaml"):
        assert f"codecctl/{path.relative_to(PROJECT)}" in names
    for path in (PROJECT / "codecctl").rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            assert str(path.relative_to(PROJECT)) in names
    assert "codecctl/assets/clips/ATTRIBUTION.md" in names
    assert sum(name.endswith(".flac") for name in names) == 12
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_it_holds_nothing_else(wheel: Path) -> None:
    version = codecctl.__version__
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {"codecctl", f"codecctl-{version}.dist-info"}
    assert not [name for name in names if re.search(r"(^|/)tests?(/|_)", name) or name.endswith((".pyc", ".partial"))]
    assert {Path(name).suffix for name in names if name.startswith("codecctl/configs/")} == {".yaml"}
    assert wheel.stat().st_size < 15e6


def test_the_version_is_one(wheel: Path) -> None:
    assert PYPROJECT["project"]["version"] == codecctl.__version__
    assert wheel.name.startswith(f"codecctl-{codecctl.__version__}-py3")


def test_the_program_starts(installed: Installed) -> None:
    done = installed.run("codecctl", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "quickstart" in done.stdout


def test_it_is_the_wheel_that_is_used(installed: Installed) -> None:
    done = installed.run("python", "-c", "import codecctl; print(codecctl.__file__)")
    assert Path(done.stdout.strip()).is_relative_to(installed.folder)


def test_configs_are_found_by_name_from_anywhere(installed: Installed) -> None:
    code = (
        "from codecctl.config.load import load_config; from codecctl.data.download.recipes import read_recipes; "
        "print(load_config('smoke', gpu='rtx4090').train.batch_size, load_config().model.bits_per_frame, "
        "len(read_recipes()) > 100)"
    )
    assert installed.run("python", "-c", code).stdout == "24 81 True\n"


def test_the_clips_can_be_prepared_and_a_training_starts(installed: Installed) -> None:
    code = "import codecctl, pathlib; print(pathlib.Path(codecctl.__file__).parent / 'assets' / 'clips')"
    clips = installed.run("python", "-c", code).stdout.strip()
    done = installed.run("codecctl", "prepare", clips, "--out", "prepared", "--config", "smoke")
    assert done.returncode == 0, done.stderr
    assert "12 recordings" in done.stdout
    small = [
        f"--set={change}" for change in ("train.kmeans_vectors=100", "validate.n_utterances=1", "validate.metrics=[]")
    ]
    steps = ["--steps", "1", "--data", "prepared", "--device", "cpu"]
    done = installed.run("codecctl", "train", "--config", "smoke", *steps, *small)
    assert done.returncode == 0, done.stderr
    assert (installed.away / "runs" / "smoke" / "last.pt").is_file()
