"""`codecctl export`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Finished

Program = Callable[..., Finished]


def test_a_folder_for_transformers_is_a_model_for_every_command(
    codecctl: Program, model: Path, wav: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "voice"
    done = codecctl("export", model, "--to", "hf", folder)
    assert done.code == 0
    assert f"{model} -> {folder}: " in done.stderr
    assert codecctl("encode", wav, "-o", tmp_path / "a.cctl", "--checkpoint", folder).code == 0
    assert codecctl("decode", tmp_path / "a.cctl", "-o", tmp_path / "a.wav", "--checkpoint", model).code == 0
    assert codecctl("decode", tmp_path / "a.cctl", "-o", tmp_path / "a.wav").code == 1  # the starter is another
    again = codecctl("export", model, "--to", "hf", folder)
    assert (again.code, again.stderr.count("\n")) == (2, 1)
    assert "exists and is not empty" in again.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name the file, -o OUT.safetensors"),
        (["folder"], "--to hf DIR"),
        (["--to", "hf"], "--to hf takes the new folder"),
        (["--to", "hf", "folder", "--precision", "int8"], "neither --output nor --precision"),
        (["--to", "hf", "folder", "--runtime", "package.tgz"], "--runtime is for --to web"),
        (["--runtime", "package.tgz"], "--runtime is for --to web"),
    ],
)
def test_what_does_not_fit_together_is_refused(
    codecctl: Program, model: Path, arguments: list[str], message: str
) -> None:
    done = codecctl("export", model, *arguments)
    assert (done.code, done.stderr.count("\n")) == (2, 1)
    assert message in done.stderr
