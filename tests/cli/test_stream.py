"""`encode - --stream | decode - --stream` as processes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from codecctl.inference.load import Codec
from tests.cli.conftest import Finished

CODECCTL = [sys.executable, "-m", "codecctl.cli.main"]


@pytest.mark.slow
def test_sound_comes_out_before_the_input_ends() -> None:
    raw = ["--stream", "--rate", "16000"]
    encode = subprocess.Popen([*CODECCTL, "encode", "-", *raw], stdin=-1, stdout=-1, stderr=-1)
    decode = subprocess.Popen([*CODECCTL, "decode", "-", "--stream"], stdin=encode.stdout, stdout=-1, stderr=-1)
    assert encode.stdin
    assert encode.stdout
    assert decode.stdout
    encode.stdin.write(bytes(2 * 3200))
    encode.stdin.flush()
    n_late = Codec.load("starter", "cpu").config.delay
    assert decode.stdout.read(44 + 2 * (3200 - n_late))[:4] == b"RIFF"  # ten frames, while the input is open
    encode.stdout.close()
    encode.stdin.close()
    assert len(decode.stdout.read()) == 2 * n_late
    for process in (encode, decode):
        assert process.stderr
        assert b"10 frames; " in process.stderr.read()
        assert process.wait() == 0


@pytest.mark.slow
def test_a_reader_that_leaves_ends_the_encoder_quietly(model: Path) -> None:
    command = [*CODECCTL, "encode", "-", "--stream", "--rate", "16000", "--checkpoint", model]
    encode = subprocess.Popen(command, stdin=-1, stdout=-1, stderr=-1)
    assert encode.stdout
    encode.stdout.close()
    _, said = encode.communicate(bytes(64000))
    assert encode.returncode == 1
    assert b"error" not in said
    assert b"Traceback" not in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["encode", "x.wav", "--stream"], "--stream reads from stdin"),
        (["encode", "-", "--stream", "-o", "x.cctl"], "leave out -o"),
        (["encode", "-", "--stream", "--shard", "1/2"], "--shard and --executor"),
        (["encode", "-", "--stream", "--channels", "2"], "add --rate"),
        (["encode", "x.wav", "--rate", "8000"], "add --stream"),
        (["encode", "x.wav", "--channels", "2"], "add --stream"),
        (["encode", "x.wav", "--precision", "int8"], "add --stream"),
        (["decode", "-", "--stream", "-o", "x.wav"], "leave out -o"),
        (["decode", "-", "--stream", "--id", "x"], "--format and --id"),
        (["decode", "x.npy", "--precision", "int8"], "add --stream"),
    ],
)
def test_wrong_use_is_one_line(codecctl: Callable[..., Finished], arguments: list[str], said: str) -> None:
    done = codecctl(*arguments)
    assert (done.code, done.stderr.count("\n")) == (2, 1)
    assert said in done.stderr


@pytest.mark.slow
def test_a_saved_stream_is_no_packed_file(codecctl: Callable[..., Finished], model: Path, tmp_path: Path) -> None:
    encode = [*CODECCTL, "encode", "-", "--stream", "--rate", "16000", "--checkpoint", model]
    saved = tmp_path / "saved.cctl"
    saved.write_bytes(subprocess.run(encode, input=bytes(6400), stdout=-1, stderr=-1, check=True).stdout)
    done = codecctl("decode", saved, "-o", tmp_path / "out.wav")
    assert (done.code, done.stderr.count("\n")) == (1, 1)
    assert "decode - --stream <" in done.stderr
