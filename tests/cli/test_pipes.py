"""Named pipes, as `<(...)` makes them, are read as stdin is; nothing is left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from codecctl.cli.pipes import as_file, binary_stdin
from codecctl.errors import UsageError

PROGRAM = [sys.executable, "-c", "from codecctl.cli.main import main; main()"]
Command = Callable[..., Any]


@contextmanager
def pipe(folder: Path, content: bytes) -> Iterator[Path]:
    """A named pipe through which this content comes."""
    path = folder / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_bytes, args=(content,), daemon=True)
    writer.start()
    yield path
    writer.join(timeout=10)
    assert not writer.is_alive()
    path.unlink()


@pytest.mark.slow
def test_commands_read_pipes_as_files(codecctl: Command, model: Path, wav: Path, tmp_path: Path) -> None:
    with pipe(tmp_path, wav.read_bytes()) as path:
        done = codecctl("encode", path, "-o", tmp_path / "a.cctl", "--checkpoint", model)
    assert done.code == 0, done.stderr
    assert f"{path} -> " in done.stderr
    codecctl("encode", wav, "-o", tmp_path / "b.cctl", "--checkpoint", model)
    codes = (tmp_path / "a.cctl").read_bytes()
    assert codes == (tmp_path / "b.cctl").read_bytes()
    with pipe(tmp_path, codes) as path:
        done = codecctl("decode", path, "-o", tmp_path / "a.wav", "--checkpoint", model)
    assert (done.code, soundfile.info(tmp_path / "a.wav").frames) == (0, 16_789)
    for content, kind in ((codes, "packed codes"), (wav.read_bytes(), "audio"), (model.read_bytes(), "checkpoint")):
        with pipe(tmp_path, content) as path:
            assert json.loads(codecctl("info", path, "--json").stdout)["kind"] == kind


def test_an_empty_pipe_is_named(codecctl: Command, tmp_path: Path) -> None:
    with pipe(tmp_path, b"") as path:
        done = codecctl("info", path)
    assert (done.code, done.stderr) == (1, f"error: {path}: is empty\n")


def test_the_copy_can_be_opened_again_and_again(tmp_path: Path) -> None:
    with pipe(tmp_path, b"0123456789") as path, as_file(path) as (copy, name):
        assert name == str(path)
        assert [copy.read_bytes(), copy.read_bytes()] == [b"0123456789"] * 2
    assert not copy.exists()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="files without a name are opened through /proc")
def test_a_signal_leaves_no_copy_of_stdin(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [*PROGRAM, "info", "-"], stdin=subprocess.PIPE, env={**os.environ, "TMPDIR": str(tmp_path)}
    )
    assert process.stdin is not None
    process.stdin.write(bytes(1 << 20))  # more than the pipe holds: what could be written was read
    process.stdin.flush()
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=30)
    process.stdin.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_cut_off_audio_is_encoded_only_when_asked(codecctl: Command, model: Path, wav: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.wav"
    cut.write_bytes(wav.read_bytes()[:20_044])
    done = codecctl("encode", cut, "-o", tmp_path / "x.npy", "--checkpoint", model)
    assert done.code == 1
    assert "cut.wav: cut off (holds 0.625 s of the 1.049 s that its header claims); --partial takes" in done.stderr
    assert not (tmp_path / "x.npy").exists()
    done = codecctl("encode", cut, "-o", tmp_path / "x.npy", "--partial", "--checkpoint", model)
    assert done.code == 0, done.stderr
    whole = codecctl("encode", wav, "-o", tmp_path / "y.npy", "--checkpoint", model)
    assert whole.code == 0
    there, all_of_it = np.load(tmp_path / "x.npy"), np.load(tmp_path / "y.npy")
    assert there.shape[1] == 250
    np.testing.assert_array_equal(there[:, :240], all_of_it[:, :240])


def test_a_folder_says_what_it_leaves_out_and_which_channel_it_took(
    codecctl: Command, model: Path, tmp_path: Path
) -> None:
    sound = np.random.default_rng(0).uniform(-0.5, 0.5, 16_000)
    (tmp_path / "in").mkdir()
    soundfile.write(tmp_path / "in" / "a.wav", np.stack([sound / 2, -sound / 2.1], axis=1), 16_000)
    soundfile.write(tmp_path / "in" / "b.wav", sound, 16_000)
    (tmp_path / "in" / "c.wav").write_bytes((tmp_path / "in" / "b.wav").read_bytes()[:9000])
    (tmp_path / "in" / "notes.txt").touch()
    done = codecctl("encode", tmp_path / "in", "--out-dir", tmp_path / "out", "--checkpoint", model)
    assert done.code == 1
    assert "left out, no audio by their suffix: 1 .txt" in done.stderr
    assert "a.wav: taken from channel 1 of 2, which cancel when mixed down" in done.stderr
    assert "failed:" in done.stderr
    assert "c.wav: cut off (" in done.stderr
    assert "--partial takes what is there" in done.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.npy", "b.npy"]


def test_a_closed_stdin_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(UsageError, match="stdin, which is closed; pipe a stream"):
        binary_stdin([Path("-")])
    with pytest.raises(UsageError, match="stdin, which is closed; pipe a file"), as_file(Path("-")):
        pass
