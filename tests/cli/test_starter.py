"""The codec that comes with the package, and how a command finds its model."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from huggingface_hub import constants

import codecctl as package
from codecctl.cli.checkpoint import find_checkpoint
from codecctl.config import load_config
from codecctl.errors import CodecctlError, UsageError
from codecctl.evaluate.metrics.ratios import si_sdr_db
from codecctl.evaluate.metrics.spectral import MelDistance
from codecctl.evaluate.perceptual import score
from codecctl.inference.load import Codec, read_checkpoint, read_config
from tests.cli.conftest import Finished

Program = Callable[..., Finished]
ASSETS = Path(package.__file__).parent / "assets"


def test_it_is_small_and_what_its_config_says() -> None:
    path = find_checkpoint(None)
    assert path == ASSETS / "starter.safetensors"
    assert path.stat().st_size <= 12e6
    model = read_config(read_checkpoint(path), path).model
    assert model == load_config("starter").model
    assert model.bitrate_kbps == 4.05
    card = (ASSETS / "starter.md").read_text(encoding="utf-8")
    assert str(Codec.load(path, "cpu").fingerprint) in card


def test_speech_comes_back_as_good_as_its_card_says(speech_files: list[Path]) -> None:
    """Weights that were lost, mixed up or replaced by worse ones fall below these. The clips were in its training."""
    codec, distance = Codec.load(find_checkpoint("starter"), "cpu"), MelDistance(16_000)
    scores = []
    for path in speech_files:
        speech = torch.from_numpy(soundfile.read(path, dtype="float32")[0])[None]
        with torch.inference_mode():
            decoded = codec(speech[:, None]).audio[:, 0]
        heard = score(speech[0].numpy(), decoded[0].numpy(), ["stoi"])
        scores.append((float(si_sdr_db(speech, decoded)), float(distance(speech, decoded)), heard["estoi"]))
    sdr_db, mel, estoi = np.mean(scores, axis=0)
    assert sdr_db > 6.5
    assert mel < 0.48
    assert estoi > 0.88


def test_encode_to_a_pipe_and_back_without_naming_a_model(codecctl: Program, wav: Path, tmp_path: Path) -> None:
    done = codecctl("encode", wav)
    codes = np.load(io.BytesIO(done.stdout), allow_pickle=False)
    assert codes.shape[0] == 8
    (tmp_path / "codes.npy").write_bytes(done.stdout)
    assert codecctl("decode", tmp_path / "codes.npy", "-o", tmp_path / "out.wav").code == 0
    assert b"starter" in codecctl("info").stdout


def test_bench_measures_the_model(codecctl: Program, model: Path) -> None:
    done = codecctl("bench", "--checkpoint", model, "--seconds", "0.2", "--json")
    facts = json.loads(done.stdout)
    assert facts["encode_real_time_factor"] > 0
    assert 0 < facts["decode_frame_ms"] <= facts["decode_frame_slowest_ms"]


def test_export_writes_the_model_and_its_card(codecctl: Program, model: Path, tmp_path: Path) -> None:
    target = tmp_path / "small.safetensors"
    done = codecctl("export", model, "-o", target, "--precision", "float16")
    assert done.code == 0, done.stderr
    fingerprint = str(Codec.load(target, "cpu").fingerprint)
    assert fingerprint in done.stderr
    assert fingerprint in target.with_suffix(".md").read_text(encoding="utf-8")


def test_a_file_wins_over_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "starter").touch()
    assert find_checkpoint("starter") == Path("starter")
    assert find_checkpoint("runs/gone/last.pt") == Path("runs/gone/last.pt")  # reading it says that it is not there


def test_what_is_neither_file_nor_name_is_refused() -> None:
    with pytest.raises(UsageError, match=r"no such file, and no shipped model \(starter\)"):
        find_checkpoint("startr")


def test_a_hub_model_comes_from_the_cache_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the hub out of reach, what lies in its cache is used; what does not is a line that says so."""
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
