"""`codecctl decode`, as a user meets it."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from codecctl.inference.load import Codec, save_codec
from tests.conftest import TINY, lively

Command = Callable[..., Any]
PROGRAM = [sys.executable, "-m", "codecctl.cli.main"]


@pytest.fixture
def packed(codecctl: Command, model: Path, wav: Path, tmp_path: Path) -> Path:
    assert codecctl("encode", wav, "-o", tmp_path / "x.cctl", "--checkpoint", model).code == 0
    return tmp_path / "x.cctl"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["out.wav", "out.flac", "out.FLAC"])
def test_to_a_file_by_suffix(codecctl: Command, model: Path, packed: Path, tmp_path: Path, name: str) -> None:
    done = codecctl("decode", packed, "-o", tmp_path / name, "--checkpoint", model)
    audio = soundfile.info(tmp_path / name)
    assert (done.code, done.stdout) == (0, b"")
    assert (audio.frames, audio.samplerate, audio.subtype) == (16_789, 16000, "PCM_16")
    assert f"{name}: 1.05 s at 16000 Hz from 3 codebooks, real_time_factor" in done.stderr


def test_wav_on_stdout_is_that_of_the_file(codecctl: Command, model: Path, packed: Path, tmp_path: Path) -> None:
    codecctl("decode", packed, "-o", tmp_path / "out.wav", "--checkpoint", model)
    done = codecctl("decode", packed, "--checkpoint", model)
    assert done.code == 0
    streamed, _ = soundfile.read(io.BytesIO(done.stdout))
    assert np.array_equal(streamed, soundfile.read(tmp_path / "out.wav")[0])


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_stdout_is_named(model: Path, packed: Path) -> None:
    arguments = [*PROGRAM, "decode", str(packed), "--checkpoint", str(model)]
    with open("/dev/full", "wb") as full:
        done = subprocess.run(arguments, stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (1, "error: stdout: No space left on device\n")


def test_codes_are_recognised_by_their_bytes(codecctl: Command, model: Path, wav: Path, tmp_path: Path) -> None:
    array = tmp_path / "codes.of.mine"
    array.write_bytes(codecctl("encode", wav, "--checkpoint", model).stdout)
    assert codecctl("decode", array, "-o", tmp_path / "out.wav", "--checkpoint", model).code == 0
    assert soundfile.info(tmp_path / "out.wav").frames == 420 * 40  # whole frames


def test_another_model_is_refused_with_both_fingerprints(
    codecctl: Command, model: Path, packed: Path, tmp_path: Path
) -> None:
    other = lively(TINY)
    with torch.no_grad():
        other.quantizer.codebooks[0].codewords[0] += 1
    save_codec(other, tmp_path / "other.pt")
    done = codecctl("decode", packed, "-o", tmp_path / "out.wav", "--checkpoint", tmp_path / "other.pt")
    assert done.code == 1
    for path in (model, tmp_path / "other.pt"):
        assert str(Codec.load(path, "cpu").fingerprint) in done.stderr
    assert "pass --checkpoint" in done.stderr
    assert not (tmp_path / "out.wav").exists()


def test_damaged_codes_are_one_line_and_no_output(codecctl: Command, model: Path, packed: Path, tmp_path: Path) -> None:
    packed.write_bytes(packed.read_bytes()[:-7])
    for arguments in (["-o", tmp_path / "out.wav"], []):
        done = codecctl("decode", packed, *arguments, "--checkpoint", model)
        assert (done.code, done.stdout, done.stderr.count("\n")) == (1, b"", 1)
        assert "x.cctl: truncated" in done.stderr
    assert not (tmp_path / "out.wav").exists()


def test_wrong_use(codecctl: Command, model: Path, packed: Path, tmp_path: Path) -> None:
    for arguments, message in (
        ([packed, "-o", tmp_path / "out.mp3", "--checkpoint", model], "the suffix must be .wav or .flac"),
        ([packed, "-o", tmp_path / "gone" / "out.wav", "--checkpoint", model], "there is no folder"),
    ):
        done = codecctl("decode", *arguments)
        assert (done.code, done.stdout) == (2, b"")
        assert message in done.stderr
