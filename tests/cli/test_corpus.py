"""Corpora of codes, as a user of the commands meets them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import write_audio

Command = Callable[..., Any]


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Two recordings, and a file that is none."""
    folder = tmp_path / "raw"
    folder.mkdir()
    for n in (1, 2):
        audio = np.random.default_rng(n).normal(0, 0.1, (1, 8000 * n)).astype(np.float32)
        write_audio(folder / f"{n}.wav", audio, 16_000)
    (folder / "bad.wav").write_bytes(b"RIFF")
    return folder


def test_from_recordings_to_codes_and_back(codecctl: Command, model: Path, raw: Path, tmp_path: Path) -> None:
    codes, given = tmp_path / "codes", ("--checkpoint", model)
    done = codecctl("encode", raw, "--out-dir", codes, "--format", "shards", "--workers", 1, *given)
    assert (done.code, done.stdout) == (0, b"")
    lines = done.stderr.splitlines()
    assert lines[0].startswith("3 of 3 recordings, ")
    assert "s of audio a second, waiting for reading " in lines[0]
    assert lines[0].endswith("%, 1 failed")
    assert lines[-2].startswith(f"{codes}: 2 recordings, 2 s, 3 codebooks of the model ")
    assert lines[-1] == f"1 recording failed; see {codes / 'failed.jsonl'} for the reasons"
    (failed,) = [json.loads(line) for line in (codes / "failed.jsonl").read_text().splitlines()]
    assert (failed["source"], failed["id"]) == ("bad.wav", "raw/bad")

    checked = codecctl("validate", codes)
    assert checked.code == 0
    assert f"{codes}: 2 recordings, 2 s, 1 failed, 3 codebooks of the model".encode() in checked.stdout
    assert b"perplexity" in checked.stdout
    as_json = codecctl("validate", codes, "--json")
    assert as_json.code == 0
    facts = json.loads(as_json.stdout)
    names = ("folder", "container", "n_utterances", "n_failed", "n_shards", "seconds", "problems")
    assert [facts[name] for name in names] == [str(codes), "shards", 2, 1, 1, 1.5, []]
    assert facts["seconds_by"]["language"] == {"unknown": 1.5}
    assert [each["codebook_size"] for each in facts["codebooks"]] == facts["codebook_sizes"]
    assert all(1 <= each["perplexity"] <= each["codebook_size"] for each in facts["codebooks"])

    decoded = codecctl("decode", codes, "--out-dir", tmp_path / "wav", "--id", "raw/2", *given)
    assert (decoded.code, decoded.stderr) == (0, f"{codes} -> {tmp_path / 'wav'}: 1 recording\n")
    assert [path.name for path in tmp_path.rglob("wav/**/*.wav")] == ["2.wav"]


def test_prepared_data_become_a_corpus_without_a_format(
    codecctl: Command, model: Path, prepared: Path, tmp_path: Path
) -> None:
    arguments = ("encode", prepared, "--out-dir", tmp_path / "codes", "--checkpoint", model, "--workers", 1)
    assert codecctl(*arguments).code == 0
    assert (tmp_path / "codes" / "codes.json").is_file()
    again = codecctl(*arguments)
    assert again.code == 0
    assert again.stderr.startswith(f"{tmp_path / 'codes'}: 12 recordings, 1 min, ")


def test_damage_is_named(codecctl: Command, model: Path, raw: Path, tmp_path: Path) -> None:
    codes = tmp_path / "codes"
    codecctl("encode", raw, "--out-dir", codes, "--format", "webdataset", "--workers", 1, "--checkpoint", model)
    (shard,) = (codes / "shards").iterdir()
    shard.write_bytes(shard.read_bytes()[:1000])
    done = codecctl("validate", codes)
    assert done.code == 1
    assert done.stderr.splitlines()[0].startswith(f"damaged: {shard}: damaged (")
    assert done.stderr.splitlines()[-1] == f"error: {codes}: 1 of its files are damaged or do not fit"
    as_json = codecctl("validate", codes, "--json")
    assert (as_json.code, as_json.stderr) == (1, done.stderr)
    assert len(json.loads(as_json.stdout)["problems"]) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["encode", "raw", "--format", "shards"], "a corpus is written to a folder; add --out-dir DIR"),
        (["encode", "raw", "--out-dir", "x", "--workers", "2"], "are for a corpus; add --format shards"),
        (["encode", "raw", "--out-dir", "x", "--format", "shard"], "expected npy or cctl or shards or webdataset or"),
        (["encode", "raw", "--out-dir", "x", "--format", "shards", "--shard", "3/2"], "expected i/n"),
        (
            ["encode", "raw", "--out-dir", "x", "--format", "shards", "--devices", "2", "--device", "cpu"],
            "0 CUDA cards",
        ),
        (["encode", "raw", "--out-dir", "x", "--format", "shards", "--executor", "moon"], "expected 'processes' or"),
        (["decode", "raw", "--out-dir", "x", "--id", "a"], "--id names utterances of a corpus of codes"),
    ],
)
def test_wrong_use_is_one_line(
    codecctl: Command, model: Path, raw: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(raw.parent)
    done = codecctl(*arguments, "--checkpoint", model)
    assert (done.code, done.stdout) == (2, b"")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
