"""The program as a whole: exit codes, and what a person reads when something goes wrong."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from codecctl import __version__
from tests.cli.conftest import Finished
from tests.train.tiny import FEW_FRAMES, tiny_yaml

Program = Callable[..., Finished]
COMMAND = [sys.executable, "-m", "codecctl.cli.main"]


def words(text: str) -> str:
    """The text without frames and line breaks, which follow the terminal's width."""
    return " ".join(text.translate({ord(mark): " " for mark in "│╭╮╰╯─"}).split())


def refused(finished: Finished, code: int) -> str:
    """What stderr says of a command that did nothing."""
    assert (finished.code, finished.stdout) == (code, b""), finished.stderr
    assert "Traceback" not in finished.stderr
    return words(finished.stderr)


def error_line(finished: Finished, code: int) -> str:
    """The same for an error of ours, which is one line."""
    refused(finished, code)
    assert finished.stderr.startswith("error: ")
    assert finished.stderr.count("\n") == 1
    return finished.stderr.removeprefix("error: ").rstrip()


@pytest.mark.parametrize("ask", ["-h", "--help"])
def test_help_names_every_command(codecctl: Program, ask: str) -> None:
    finished = codecctl(ask)
    assert (finished.code, finished.stderr) == (0, "")
    names = ("quickstart", "prepare", "train", "resume", "validate", "encode", "decode", "info")
    assert all(f" {name} " in finished.stdout.decode() for name in names)


def test_the_version(codecctl: Program) -> None:
    assert codecctl("--version") == Finished(0, f"codecctl {__version__}\n".encode(), "")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
@pytest.mark.parametrize("ask", [["--help"], ["--version"], ["train", "--help"], ["download", "--list"]])
def test_a_full_disk_behind_stdout_is_one_line(ask: list[str]) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run([*COMMAND, *ask], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr in ("error: No space left on device\n", "error: stdout: No space left on device\n")


def test_without_a_command_it_shows_the_help(codecctl: Program) -> None:
    finished = codecctl()
    assert finished.code == 2
    assert b"quickstart" in finished.stdout + finished.stderr.encode()


def test_an_unknown_command_or_option_is_named_with_its_nearest(codecctl: Program) -> None:
    assert "No such command 'trian'. Did you mean 'train'?" in refused(codecctl("trian"), 2)
    unknown = refused(codecctl("train", "--confg", "smoke"), 2)
    assert "No such option: --confg" in unknown
    assert "--config" in unknown
    assert "'--steps'" in refused(codecctl("train", "--steps", "0"), 2)
    assert "Missing argument 'RUN'" in refused(codecctl("resume"), 2)


def test_an_unknown_key_or_config_is_named_with_its_nearest(codecctl: Program) -> None:
    key = codecctl("train", "--config", "smoke", "--set", "train.batchsize=3")
    assert error_line(key, 2) == "smoke: unknown key 'train.batchsize'; did you mean 'batch_size'?"
    config = error_line(codecctl("train", "--config", "smok"), 2)
    assert re.fullmatch(r"no config 'smok': .* production, smoke, .*; did you mean 'smoke'\?", config)
    assert "did you mean 'rtx4090'?" in error_line(codecctl("train", "--gpu", "rtx409"), 2)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a card")
def test_a_card_that_is_not_here_names_the_way_on(codecctl: Program) -> None:
    said = error_line(codecctl("train", "--gpu", "rtx4090"), 2)
    assert "RTX 4090" in said
    assert "--device cpu" in said
    assert "--device cpu" in error_line(codecctl("train", "--device", "cuda"), 2)


def test_a_message_is_shown_as_it_stands(codecctl: Program, tmp_path: Path) -> None:
    """Brackets are no markup; control characters and marks that reorder text are shown as escapes."""
    assert error_line(codecctl("info", "[red]x[/].pt"), 1) == "[red]x[/].pt: no such file"
    assert error_line(codecctl("info", "a\nb\x1b[31m\u202e"), 1) == "a\\nb\\x1b[31m\\u202e: no such file"


def test_what_is_missing_is_named(codecctl: Program, tmp_path: Path) -> None:
    for arguments in (
        ["train", "--config", "smoke", "--data", tmp_path / "none", "--run", tmp_path / "run"],
        ["resume", tmp_path / "none"],
        ["validate", tmp_path / "none"],
        ["info", tmp_path / "none"],
        ["prepare", tmp_path / "none", "--out", tmp_path / "out"],
    ):
        assert str(tmp_path / "none") in error_line(codecctl(*arguments), 1)
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written(codecctl: Program, model: Path, wav: Path, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    said = error_line(codecctl("encode", wav, "--checkpoint", model, "-o", closed / "codes.npy"), 1)
    assert "Permission denied" in said
    assert str(closed) in said


@pytest.mark.slow
def test_ctrl_c_ends_with_130() -> None:
    process = subprocess.Popen(
        [*COMMAND, "info", "-"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdin
    process.stdin.write(bytes(1 << 20))  # far more than a pipe holds: when this is through, the command is reading
    process.stdin.flush()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out, err.decode().strip()) == (130, b"", "interrupted")


@pytest.fixture
def codes(tmp_path: Path) -> Path:
    """640 kB of audio once it is decoded; to be looked at without torch."""
    path = tmp_path / "codes.npy"
    np.save(path, np.zeros((3, 8000), np.uint16))
    return path


@pytest.mark.slow
def test_a_reader_that_went_away_hears_nothing_more(codes: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run([*COMMAND, "info", codes], stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_stdout_is_told(codes: Path) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run([*COMMAND, "info", codes], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "error: stdout: No space left on device\n")


@pytest.fixture
def on_a_small_disk(tmp_path: Path) -> Program:
    """Run a command where DISK, of so many kB, is all the room there is, and nothing of that once the file `until` is
    there; on stdout, what lies there at the end."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = f"mount -t tmpfs -o size=${{KILOBYTES:-100}}k none '{disk}'"
    sandbox = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    if not shutil.which("unshare") or subprocess.run([*sandbox, mount], capture_output=True, check=False).returncode:
        pytest.skip("no disk can be mounted here")

    def call(*arguments: object, kilobytes: int = 100, until: str = "") -> Finished:
        command = [*COMMAND, *(str(argument).replace("DISK", str(disk)) for argument in arguments)]
        environment = {**os.environ, "KILOBYTES": str(kilobytes)}
        fill = (
            f"(until [ -e '{disk}/{until}' ]; do sleep 0.05; done; cat /dev/zero > '{disk}/filler') > /dev/null 2>&1 &"
        )
        command_line = f'{fill} "$@"; code=$?; kill $! 2> /dev/null' if until else '"$@"; code=$?'
        script = f"{mount} || exit; {command_line}; cd '{disk}' && find . -type f; exit $code"
        done = subprocess.run([*sandbox, script, "sh", *command], env=environment, capture_output=True, check=False)
        return Finished(done.returncode, done.stdout, done.stderr.decode())

    return call


@pytest.mark.slow
def test_a_full_disk_is_told_and_leaves_no_half_file(on_a_small_disk: Program, model: Path, codes: Path) -> None:
    said = error_line(on_a_small_disk("decode", codes, "--checkpoint", model, "-o", "DISK/out.wav"), 1)
    assert "disk/out.wav: cannot be written (No space left on device)" in said


@pytest.mark.slow
def test_a_full_disk_stops_a_preparation_in_one_line(on_a_small_disk: Program, speech_files: list[Path]) -> None:
    done = on_a_small_disk("prepare", speech_files[0].parent, "--out", "DISK/prepared")
    assert done.code == 1
    assert "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert "No space left on device" in last
    assert "disk/prepared" in last, "says where"


@pytest.mark.slow
def test_a_small_disk_stops_a_training_before_it_begins(
    on_a_small_disk: Program, prepared: Path, tmp_path: Path
) -> None:
    done = on_a_small_disk("train", "--config", tiny_yaml(tmp_path, prepared), "--run", "DISK/run", "--device", "cpu")
    assert (done.code, done.stdout) == (1, b""), "nothing lies there"
    assert "Traceback" not in done.stderr
    assert re.search(r"disk/run: 3 checkpoints of .* make room, or name", done.stderr.splitlines()[-1])


@pytest.mark.slow
def test_a_training_that_could_not_be_saved_has_failed(
    on_a_small_disk: Program, prepared: Path, tmp_path: Path
) -> None:
    """The disk fills up on the way, and no checkpoint fits any more: that must not look like success."""
    config = tiny_yaml(tmp_path, prepared, *FEW_FRAMES, "train.n_steps=60", "train.log_every_steps=50")
    command = ["train", "--config", config, "--run", "DISK/run", "--device", "cpu"]
    done = on_a_small_disk(*command, kilobytes=5000, until="run/metrics.jsonl")
    assert "./run/last.pt" not in done.stdout.decode().split()
    assert done.code == 1, done.stderr
    assert "could not be saved" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "spins"), [({}, 3000), ({"GOMP_SPINCOUNT": "77"}, 77), ({"OMP_WAIT_POLICY": "passive"}, 0)]
)
def test_threads_that_wait_soon_sleep_unless_the_user_says_otherwise(
    given: dict[str, str], spins: int, model: Path
) -> None:
    finished = subprocess.run(
        [*COMMAND, "info", str(model)],
        env={**os.environ, "OMP_DISPLAY_ENV": "verbose", **given},
        capture_output=True,
        text=True,
    )
    assert f"GOMP_SPINCOUNT = '{spins}'" in finished.stderr
