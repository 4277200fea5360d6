"""Commands on corpora and exports with wrong folders, files and options: one line, and nothing is overwritten."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Command = Callable[..., Any]


@pytest.fixture(scope="module")
def codes(tmp_path_factory: pytest.TempPathFactory, prepared: Path, model: Path) -> Path:
    """A corpus. For reading only."""
    from codecctl.codes.job import encode_corpus

    out = tmp_path_factory.mktemp("corpus") / "codes"
    encode_corpus([prepared], out, model)
    return out


def error(done: Any, code: int) -> str:
    """The message of a command that failed with one line."""
    assert (done.code, done.stdout) == (code, b"")
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    return str(line.removeprefix("error: "))


@pytest.mark.parametrize("below", ["", "new", "new/codes"])
def test_a_file_where_a_folder_is_meant(
    codecctl: Command, model: Path, codes: Path, prepared: Path, tmp_path: Path, below: str
) -> None:
    notes = tmp_path / "notes"
    notes.write_text("mine")
    for command in (["encode", prepared, "--format", "shards"], ["decode", codes], ["encode", prepared]):
        done = codecctl(*command, "--out-dir", notes / below, "--checkpoint", model)
        assert error(done, 2) == f"{notes}: is not a folder; --out-dir takes one"
    assert notes.read_text() == "mine"


def test_options_that_a_check_of_a_corpus_does_not_take(codecctl: Command, codes: Path) -> None:
    for options in (["--json", "--limit", 2], ["--continue"], ["--set", "validate.metrics=[]"], ["--data", codes]):
        assert "is checked alone; only --json goes with it" in error(codecctl("validate", codes, *options), 2)


def test_info_says_what_describes_a_corpus(codecctl: Command, codes: Path) -> None:
    assert f"a corpus of codes; `codecctl validate {codes}`" in error(codecctl("info", codes), 2)


def test_other_arrays_are_no_codes(codecctl: Command, prepared: Path, model: Path, tmp_path: Path) -> None:
    done = codecctl("decode", prepared, "--out-dir", tmp_path / "wav", "--checkpoint", model)
    assert done.code == 1
    assert done.stderr.splitlines()[0].endswith(".npy: codes must be integers, got records")
    assert done.stderr.splitlines()[1] == "error: 1 of 1 files failed"


@pytest.mark.parametrize("to", ["hf", "onnx"])
def test_exports_replace_nothing(codecctl: Command, model: Path, tmp_path: Path, to: str) -> None:
    pytest.importorskip("onnx")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.md").write_text("mine")
    (tmp_path / "link").symlink_to("nowhere")
    for target in ("mine", "mine/notes.md", "link"):
        done = codecctl("export", model, "--to", to, tmp_path / target)
        assert "exists and is not empty; choose another name" in error(done, 2)
    done = codecctl("export", model, "--to", to, tmp_path / "no" / "dir")
    assert f"there is no folder {tmp_path / 'no'}" in error(done, 2)
    assert (tmp_path / "mine" / "notes.md").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "mine"]


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs /proc")
def test_an_export_that_the_system_refuses_names_the_folder(codecctl: Command, model: Path) -> None:
    done = codecctl("export", model, "--to", "hf", "/proc/codec")
    assert error(done, 1) == "/proc/codec: No such file or directory"


def test_onnx_without_its_packages(
    codecctl: Command, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    done = codecctl("export", model, "--to", "onnx", tmp_path / "onnx")
    assert error(done, 2) == 'ONNX files need packages that are not installed: pip install "codecctl[onnx]"'
    assert not (tmp_path / "onnx").exists()


@pytest.mark.slow
def test_a_damaged_shard_is_named_until_it_is_removed(
    codecctl: Command, model: Path, codes: Path, prepared: Path, tmp_path: Path
) -> None:
    own = Path(shutil.copytree(codes, tmp_path / "codes"))
    (shard,) = (own / "shards").iterdir()
    shard.write_bytes(shard.read_bytes()[:-100])
    decode = ("decode", own, "--out-dir", tmp_path / "wav", "--checkpoint", model)
    message = error(codecctl(*decode), 1)
    assert message.startswith(f"{shard}: damaged (")
    assert message.endswith("; remove it and run the same `codecctl encode` again")
    shard.unlink()
    assert "is missing; run the same `codecctl encode` again" in error(codecctl(*decode), 1)
    encode = ("encode", prepared, "--out-dir", own, "--checkpoint", model, "--workers", 1)
    assert codecctl(*encode).code == 0
    assert codecctl(*decode).code == 0
