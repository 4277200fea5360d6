"""The codec that comes with the package, and the commands that use it without naming it."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import codecctl as package
from codecctl.config.load import load_config
from codecctl.evaluate.metrics.ratios import si_sdr_db
from codecctl.evaluate.metrics.spectral import MelDistance
from codecctl.evaluate.perceptual import score
from codecctl.inference.checkpoint import Checkpoint
from codecctl.inference.find import find_checkpoint
from codecctl.inference.load import Codec
from tests.cli.conftest import Finished

pytestmark = pytest.mark.slow

Program = Callable[..., Finished]
ASSETS = Path(package.__file__).parent / "assets"


def test_it_is_small_and_what_its_config_says() -> None:
    path = find_checkpoint(None)
    assert path == ASSETS / "starter.safetensors"
    assert path.stat().st_size <= 12e6
    model = Checkpoint.read(path).model
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
    for way in ("encode", "decode", "both_ways"):
        assert 0 < facts[f"{way}_frame_ms_p50"] <= facts[f"{way}_frame_ms_p95"] <= facts[f"{way}_frame_ms_p99"]
    assert facts["streams_per_core"] > 0
    assert facts["start_up_seconds"] > 0
    assert facts["precision"] in ("float32", "bfloat16", "int8")


def test_export_writes_the_model_and_its_card(codecctl: Program, model: Path, tmp_path: Path) -> None:
    target = tmp_path / "small.safetensors"
    done = codecctl("export", model, "-o", target, "--precision", "float32")
    assert done.code == 0, done.stderr
    fingerprint = str(Codec.load(target, "cpu").fingerprint)
    assert fingerprint in done.stderr
    assert fingerprint in target.with_suffix(".md").read_text(encoding="utf-8")


def test_export_replaces_no_text_of_somebody_else(codecctl: Program, model: Path, tmp_path: Path) -> None:
    notes = tmp_path / "small.md"
    notes.write_text("my notes", encoding="utf-8")
    done = codecctl("export", model, "-o", tmp_path / "small.safetensors")
    assert (done.code, done.stderr.count("\n")) == (2, 1)
    assert "small.md: exists and is not a model card" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["small.md"]
    notes.unlink()
    for _ in range(2):  # a card of ours is replaced
        assert codecctl("export", model, "-o", tmp_path / "small.safetensors").code == 0


def test_export_into_no_folder_is_one_line(codecctl: Program, model: Path, tmp_path: Path) -> None:
    done = codecctl("export", model, "-o", tmp_path / "missing" / "x.safetensors")
    assert (done.code, done.stderr.count("\n")) == (2, 1)
    assert "there is no folder" in done.stderr
