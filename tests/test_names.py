"""Names that are not UTF-8, beside good ones: everything is done, and the names come back the same."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch

from codecctl.audio.files import AudioReader, AudioWriter
from codecctl.cli.main import run
from codecctl.config.load import load_config
from codecctl.data.crops import Crops
from codecctl.data.manifest import read_manifest
from codecctl.data.prepare import prepare
from codecctl.inference.checkpoint import write_checkpoint
from codecctl.model.codec import Codec
from tests.train.tiny import tiny_config

ODD = os.fsdecode(b"caf\xe9")


@pytest.fixture
def folder(tmp_path: Path, speech_files: list[Path]) -> Path:
    """A recording under a good name and one under an odd one, in a folder of an odd name."""
    folder = tmp_path / ODD
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    for source, name in zip(speech_files, ("good", ODD), strict=False):
        shutil.copy(source, folder / f"{name}.flac")
    return folder


def test_audio_is_read_and_written(folder: Path) -> None:
    with AudioReader(folder / f"{ODD}.flac") as reader, AudioWriter(folder / f"{ODD}.wav", 16_000) as writer:
        for block in reader.blocks():
            writer.write(block)
    with AudioReader(folder / f"{ODD}.wav") as copy:
        assert copy.info.n_samples == reader.info.n_samples


def test_prepared_names_are_those_of_the_files(folder: Path, tmp_path: Path) -> None:
    prepare([folder], tmp_path / "out", load_config("smoke").data)
    utterances = list(read_manifest(tmp_path / "out" / "manifest.jsonl"))
    assert {utterance.source for utterance in utterances} == {f"{ODD}.flac", "good.flac"}
    lines = (tmp_path / "out" / "manifest.jsonl").read_text(encoding="utf-8").splitlines()  # it is UTF-8
    assert all((folder / json.loads(line)["source"]).is_file() for line in lines)
    assert Crops(tmp_path / "out", "train", 1600, 0).batch(0, 1).shape == (1, 1, 1600)
    assert prepare([folder], tmp_path / "out", load_config("smoke").data).n_units_done == 0  # all is known


@pytest.mark.slow
def test_commands_take_them(folder: Path, tmp_path: Path) -> None:
    config = tiny_config(tmp_path)
    torch.manual_seed(0)
    model = tmp_path / "model.pt"
    write_checkpoint(model, config.model, Codec(config.model).state_dict())
    assert run(["encode", str(folder), "--out-dir", str(tmp_path / "codes"), "--checkpoint", str(model)]) == 0
    assert {path.name for path in (tmp_path / "codes").iterdir()} == {"good.npy", f"{ODD}.npy"}
    assert run(["info", str(folder / f"{ODD}.flac")]) == 0
    report = tmp_path / "report"
    options = ["--workers", "0", "--set", "validate.metrics=[]", "--report", str(report)]
    assert run(["validate", str(model), "--data", str(folder), *options]) == 0
    ids = [json.loads(line)["id"] for line in (report / "rows.jsonl").read_text().splitlines()[1:]]
    assert any(ODD in name for name in ids)
