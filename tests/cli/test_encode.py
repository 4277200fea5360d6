"""`codecctl encode`, as a user meets it."""

from __future__ import annotations

import io
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from codecctl.bitstream import PackedReader

PROGRAM = [sys.executable, "-c", "from codecctl.cli.main import main; main()"]
Command = Callable[..., Any]


def test_codes_go_to_stdout_as_npy(codecctl: Command, model: Path, wav: Path) -> None:
    done = codecctl("encode", wav, "--checkpoint", model)
    codes = np.load(io.BytesIO(done.stdout))
    assert done.code == 0
    assert (codes.dtype, codes.shape) == (np.uint16, (3, 420))
    assert "in.wav -> stdout: 1.05 s, 420 frames x 3 codebooks, 5.20 kbps of codes" in done.stderr
    assert "real_time_factor" in done.stderr


def test_packed_file_says_its_true_kbps(codecctl: Command, model: Path, wav: Path, tmp_path: Path) -> None:
    done = codecctl("encode", wav, "-o", tmp_path / "x.cctl", "--checkpoint", model)
    n_bytes = (tmp_path / "x.cctl").stat().st_size
    assert (done.code, done.stdout) == (0, b"")
    assert f"{8 * n_bytes / (16_789 / 16000) / 1000:.2f} kbps with header" in done.stderr
    piped = codecctl("encode", wav, "--format", "cctl", "--checkpoint", model)
    assert piped.stdout == (tmp_path / "x.cctl").read_bytes()


def test_it_says_what_it_did_to_the_audio(codecctl: Command, model: Path, tmp_path: Path) -> None:
    path = tmp_path / "[red]stereo.flac"
    soundfile.write(path, np.zeros((44100, 2)), 44100)
    done = codecctl("encode", path, "-o", tmp_path / "x.npy", "--n-quantizers", 2, "--checkpoint", model)
    assert "[red]stereo.flac: resampled from 44100 to 16000 Hz and mixed down from 2 channels" in done.stderr
    assert np.load(tmp_path / "x.npy").shape == (2, 400)


def test_a_folder_with_a_bad_file(codecctl: Command, model: Path, wav: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.wav").write_bytes(b"RIFF")
    done = codecctl("encode", tmp_path, "--out-dir", tmp_path / "out", "--format", "cctl", "--checkpoint", model)
    assert done.code == 1
    assert "bad.wav" in done.stderr
    assert "1 of 2 files failed" in done.stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["in.cctl"]
    assert PackedReader(tmp_path / "out" / "in.cctl").header.n_samples == 16_789


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["in.wav", "--checkpoint", "started"], "no such file or folder, and no shipped model (starter)"),
        (["in.wav", "in.wav"], "need --out-dir"),
        (["."], "need --out-dir"),
        (["in.wav", "-o", "x.npy", "--format", "cctl"], "leave out"),
        (["in.wav", "-o", "x.txt", "--checkpoint", "MODEL"], "x.txt: the suffix must be .npy or .cctl"),
        (["in.wav", "-o", "gone/x.npy", "--checkpoint", "MODEL"], "there is no folder gone"),
        (["in.wav", "-o", "x.npy", "--n-quantizers", "4", "--checkpoint", "MODEL"], "must be 1 to 3"),
        (["in.wav", "in.wav", "--out-dir", "out", "--n-quantizers", "0", "--checkpoint", "MODEL"], "must be 1 to 3"),
        (["in.wav", "-o", "x.npy", "--device", "abacus", "--checkpoint", "MODEL"], "--device abacus"),
        (["-", "--out-dir", "out"], "stdin has no name for a file in --out-dir"),
    ],
)
def test_wrong_use_is_one_line_and_code_2(
    codecctl: Command, model: Path, wav: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(wav.parent)
    done = codecctl("encode", *[str(model) if word == "MODEL" else word for word in arguments])
    assert (done.code, done.stdout) == (2, b"")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert not list(wav.parent.rglob("x.*"))


@pytest.mark.parametrize(("name", "content"), [("gone.wav", None), ("text.wav", b"hello"), ("empty.wav", b"")])
def test_no_audio_is_one_line_and_code_1(
    codecctl: Command, model: Path, tmp_path: Path, name: str, content: bytes | None
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    done = codecctl("encode", tmp_path / name, "--checkpoint", model)
    assert (done.code, done.stdout) == (1, b"")
    assert name in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
def test_binary_is_not_written_to_a_terminal(wav: Path) -> None:
    terminal, other_end = pty.openpty()
    done = subprocess.run([*PROGRAM, "encode", str(wav)], stdout=other_end, stderr=subprocess.PIPE, text=True)
    os.close(other_end)
    os.close(terminal)
    assert done.returncode == 2
    assert f"stdout is a terminal; type `codecctl encode {wav} -o codes.npy`" in done.stderr


@pytest.mark.slow
def test_pipes_as_processes(model: Path, wav: Path, tmp_path: Path) -> None:
    """WAV on stdin, packed codes through a pipe, WAV out."""
    encode = [*PROGRAM, "encode", "-", "--format", "cctl", "--checkpoint", str(model)]
    decode = [*PROGRAM, "decode", "-", "--checkpoint", str(model)]
    codes = subprocess.run(encode, input=wav.read_bytes(), capture_output=True, check=True)
    audio = subprocess.run(decode, input=codes.stdout, capture_output=True, check=True)
    assert b"stdin -> stdout" in codes.stderr
    assert soundfile.info(io.BytesIO(audio.stdout)).frames == 16_789


def long_wav(folder: Path, seconds: int) -> Path:
    path = folder / "long.wav"
    soundfile.write(path, np.random.default_rng(0).integers(-9999, 9999, 16000 * seconds, np.int16), 16000)
    return path


@pytest.mark.slow
def test_interrupted_in_the_middle_leaves_nothing(model: Path, tmp_path: Path) -> None:
    source = long_wav(tmp_path, 1200)
    arguments = [*PROGRAM, "encode", str(source), "-o", str(tmp_path / "x.cctl"), "--checkpoint", str(model)]
    process = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob(".*.partial")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert (process.returncode, errors) == (130, "interrupted\n")
    assert [path.name for path in tmp_path.iterdir()] == ["long.wav"]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_and_a_closed_pipe(model: Path, wav: Path) -> None:
    arguments = [*PROGRAM, "encode", str(wav), "--checkpoint", str(model)]
    with open("/dev/full", "wb") as full:
        done = subprocess.run(arguments, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "error: stdout: No space left on device"
    assert "Traceback" not in done.stderr
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(arguments, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
