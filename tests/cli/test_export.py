"""`codecctl export`."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from codecctl.config.load import load_config
from codecctl.inference.checkpoint import Checkpoint, write_checkpoint
from tests.cli.conftest import Finished
from tests.conftest import TINY, lively

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


@pytest.fixture
def trained(prepared: Path, tmp_path: Path) -> Path:
    """A checkpoint of a run whose log is damaged."""
    config = load_config("smoke", overrides=[f"data.path={shutil.copytree(prepared, tmp_path / 'data')}"])
    values = config.model_dump(mode="json", by_alias=True) | {"model": TINY.model_dump(mode="json")}
    facts = {"config": values, "versions": {"codecctl": "0"}, "n_ranks": 1}
    write_checkpoint(tmp_path / "last.pt", TINY, lively(TINY).state_dict(), 20, run=facts)
    scores = b'{"kind": "validation", "step": %s, "stoi": 0.5}\n'
    (tmp_path / "metrics.jsonl").write_bytes(scores % b"null" + b"\xff\n" + scores % b"10" + scores % b'"9"')
    return tmp_path / "last.pt"


def test_the_card_of_a_run_with_a_damaged_log(codecctl: Program, trained: Path) -> None:
    output = trained.with_suffix(".safetensors")
    done = codecctl("export", trained, "-o", output)
    assert done.code == 0, done.stderr
    card = output.with_suffix(".md").read_text()
    assert f"fingerprint: `{Checkpoint.read(output).fingerprint}`" in card
    assert "validation at step 10" in card


def test_damaged_data_is_no_reason_not_to_export(codecctl: Program, trained: Path) -> None:
    (trained.parent / "data" / "manifest.jsonl").write_text("{")
    output = trained.with_suffix(".safetensors")
    done = codecctl("export", trained, "-o", output)
    assert done.code == 0
    assert output.exists()
    assert "The prepared data cannot be read here" in output.with_suffix(".md").read_text()


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
