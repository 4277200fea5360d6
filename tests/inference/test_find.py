"""Which file a model's name means."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from huggingface_hub import constants

from codecctl.errors import CodecctlError, UsageError
from codecctl.inference.checkpoint import Checkpoint
from codecctl.inference.find import find_checkpoint


def test_a_file_wins_over_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "starter").touch()
    assert find_checkpoint("starter") == Path("starter")
    assert find_checkpoint("runs/gone/last.pt") == Path("runs/gone/last.pt")  # reading it says that it is not there


def test_a_name_of_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match=r"startr: no such file or folder, and no shipped model \(starter\)"):
        find_checkpoint("startr")


def test_a_hub_model_comes_from_the_cache_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the hub out of reach, a model in its cache is used; any other is an error of one line."""
    commit, folder = "a" * 40, tmp_path / "models--someone--voice"
    (folder / "snapshots" / commit).mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(commit)
    (folder / "snapshots" / commit / "codec.safetensors").write_bytes(b"weights")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert find_checkpoint("someone/voice").read_bytes() == b"weights"
    with pytest.raises(CodecctlError, match=r"someone/else on the Hugging Face hub: .* not in its cache"):
        find_checkpoint("someone/else")


def test_a_folder_of_a_run_means_its_best_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = Path("runs/one")
    run.mkdir(parents=True)
    with pytest.raises(CodecctlError, match=r"runs/one: a folder with neither best\.pt nor last\.pt"):
        find_checkpoint("runs/one")
    (run / "last.pt").touch()
    assert find_checkpoint("runs/one") == run / "last.pt"
    (run / "best.pt").touch()
    assert find_checkpoint(run) == run / "best.pt"


def test_what_the_system_does_not_show_is_told_and_is_not_asked_of_the_hub(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir()
    user = os.geteuid()
    if user == 0:  # who may see everything
        os.seteuid(65534)
    try:
        closed.chmod(0) if user else None
        for name in (closed / "best.pt", closed / "run"):
            with pytest.raises(CodecctlError, match=rf"{name}: cannot be read \(Permission denied\)"):
                Checkpoint.read(find_checkpoint(name))
    finally:
        os.seteuid(user)
        closed.chmod(0o700)
    for name, why in ((closed, "is no file"), (closed / "x", "no such file"), (closed / (300 * "n"), "File name too")):
        with pytest.raises(CodecctlError, match=rf"{name}: .*{why}"):
            Checkpoint.read(name)


def test_a_path_in_a_folder_that_is_here_is_not_asked_of_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("runs").mkdir()
    with pytest.raises(UsageError, match="runs/oen: no such file or folder"):
        find_checkpoint("runs/oen")
