"""Whatever a path is or a stream does: one line, and the other files go on."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from codecctl.inference.load import Codec
from tests.cli.conftest import Finished

Program = Callable[..., Finished]
COMMAND = [sys.executable, "-m", "codecctl"]
FULL = Path("/dev/full")


def error_line(finished: Finished, code: int) -> str:
    """The only line of a command that did nothing."""
    assert (finished.code, finished.stdout) == (code, b""), finished.stderr
    assert finished.stderr.startswith("error: ")
    assert finished.stderr.count("\n") == 1, finished.stderr
    return finished.stderr.removeprefix("error: ").rstrip()


@pytest.fixture
def codes(codecctl: Program, model: Path, wav: Path, tmp_path: Path) -> Path:
    assert codecctl("encode", wav, "-o", tmp_path / "x.cctl", "--checkpoint", model).code == 0
    return tmp_path / "x.cctl"


def shell(line: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """`$@` in the line is the command."""
    command = ["sh", "-c", line, "sh", *COMMAND, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_a_closed_stdout_is_one_line(model: Path, wav: Path, codes: Path) -> None:
    for arguments in (
        ["encode", wav, "--checkpoint", model],
        ["decode", codes, "--checkpoint", model],
        ["info", codes],
        ["info", codes, "--json"],
        ["--help"],
    ):
        done = shell('"$@" >&-', *arguments)
        assert (done.returncode, done.stderr) == (1, "error: stdout: Bad file descriptor\n"), arguments


@pytest.mark.slow
def test_a_closed_stdout_that_is_not_needed_does_no_harm(model: Path, wav: Path, codes: Path, tmp_path: Path) -> None:
    done = shell('"$@" >&-', "encode", wav, "-o", tmp_path / "y.cctl", "--checkpoint", model)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "y.cctl").read_bytes() == codes.read_bytes()


@pytest.mark.slow
def test_closed_stdin_and_stderr(codes: Path) -> None:
    done = shell('"$@" <&-', "info", "-")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "stdin, which is closed" in done.stderr
    assert (shell('"$@" 2>&-', "info", codes.parent / "gone").returncode) == 1
    assert (shell('"$@" <&- >&- 2>&-', "info", codes).returncode) == 1


@pytest.mark.slow
@pytest.mark.skipif(not FULL.exists(), reason="no device that is always full")
def test_a_full_stdout_stops_before_the_work(codecctl: Program, model: Path, wav: Path) -> None:
    with FULL.open("wb") as full:
        command = [*COMMAND, "encode", str(wav), "--checkpoint", str(model)]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "error: stdout: No space left on device\n")


@pytest.mark.slow
def test_a_missing_input_is_answered_without_torch() -> None:
    for arguments in (["encode", "gone.wav"], ["decode", "gone.npy", "-o", "x.wav"], ["info", "gone.wav"]):
        script = (
            "import sys; from codecctl.cli.main import run; "
            f"sys.exit(10 * ('torch' in sys.modules) + run({arguments!r}) + 10 * ('torch' in sys.modules))"
        )
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (1, f"error: {arguments[1]}: no such file\n")


def test_a_folder_of_codes_is_decoded_as_it_was_encoded(
    codecctl: Program, model: Path, wav: Path, tmp_path: Path
) -> None:
    (tmp_path / "in" / "deep").mkdir(parents=True)
    for name in ("a.wav", "deep/b.wav"):
        shutil.copy(wav, tmp_path / "in" / name)
    with_model = ["--checkpoint", model]
    done = codecctl("encode", tmp_path / "in", "--out-dir", tmp_path / "codes", "--format", "cctl", *with_model)
    assert done.code == 0, done.stderr
    (tmp_path / "codes" / "bad.cctl").write_bytes(b"CCTL")
    gone = tmp_path / "gone.cctl"
    done = codecctl("decode", tmp_path / "codes", gone, "--out-dir", tmp_path / "out", "--format", "flac", *with_model)
    assert (done.code, done.stdout) == (1, b"")
    assert "failed: " in done.stderr
    assert f"{gone}: no such file" in done.stderr
    assert "2 of 4 files failed" in done.stderr
    found = sorted(path.relative_to(tmp_path / "out") for path in (tmp_path / "out").rglob("*.*"))
    assert found == [Path("a.flac"), Path("deep/b.flac")]
    assert all(soundfile.info(tmp_path / "out" / path).frames == 16_789 for path in found)


def test_several_files_need_a_folder(codecctl: Program, codes: Path) -> None:
    assert "need --out-dir" in error_line(codecctl("decode", codes, codes), 2)
    assert "need --out-dir" in error_line(codecctl("decode", codes.parent), 2)
    wrong = codecctl("decode", codes, "--out-dir", codes.parent / "out", "--format", "mp3")
    assert error_line(wrong, 2) == "--format mp3: expected wav or flac"
    empty = codes.parent / "empty"
    empty.mkdir()
    assert "holds no files of codes" in error_line(codecctl("decode", empty, "--out-dir", codes.parent / "o"), 1)


@pytest.mark.slow
def test_odd_names_among_many_do_not_stop_the_others(codecctl: Program, model: Path, wav: Path, tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    long = "x" * 240
    names = ["a.wav", f"{long}.wav", "y" * 250 + ".wav", os.fsdecode(b"n\xff.wav"), "esc\x1b[31m\x07.wav", "[red].wav"]
    for name in names:
        shutil.copy(wav, folder / name)
    soundfile.write(folder / "a.aiff", np.zeros(4000), 16_000)
    done = codecctl("encode", folder, "--out-dir", out, "--format", "cctl", "--checkpoint", model)
    made = {path.name for path in out.iterdir()}
    assert {"a.wav.cctl", "a.aiff.cctl", os.fsdecode(b"n\xff.cctl"), "esc\x1b[31m\x07.cctl", "[red].cctl"} <= made
    assert done.code == int(len(made) < 7), done.stderr
    assert "\x1b" not in done.stderr
    assert r"n\udcff.wav -> " in done.stderr
    assert r"esc\x1b[31m\x07.wav -> " in done.stderr
    again = codecctl("decode", out, "--out-dir", tmp_path / "audio", "--checkpoint", model)
    assert again.code in (0, 1)
    assert (tmp_path / "audio" / os.fsdecode(b"n\xff.wav")).stat().st_size == 44 + 2 * 16_789


@pytest.mark.slow
def test_an_output_of_another_kind_is_one_line(codecctl: Program, model: Path, wav: Path, tmp_path: Path) -> None:
    use, file, long = ["--checkpoint", model], tmp_path / "file", "x" * 300
    file.write_text("notes")
    folder = tmp_path / "folder.npy"
    folder.mkdir()
    for code, arguments in (
        (2, ["encode", wav, "--out-dir", file, *use]),
        (2, ["encode", wav, "--out-dir", file / "sub", *use]),
        (2, ["encode", wav, "-o", folder, *use]),
        (2, ["encode", wav, "-o", tmp_path / "gone" / "x.npy", *use]),
        (1, ["encode", wav, "-o", tmp_path / f"{long}.npy", *use]),
        (2, ["export", model, "-o", tmp_path / "gone" / "x.safetensors"]),
        (1, ["export", model, "-o", tmp_path / f"{long}.safetensors"]),
        (1, ["prepare", wav, "--out", file]),
        (1, ["validate", model, "--data", wav, "--report", file, "--set", "validate.metrics=[]"]),
        (1, ["info", "x" * 300]),
    ):
        error_line(codecctl(*arguments), code)
    assert file.read_text() == "notes"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.npy", "in.wav"]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="no file that exists and cannot be read")
def test_a_file_that_cannot_be_read_is_named(codecctl: Program, model: Path, wav: Path, tmp_path: Path) -> None:
    odd, out = "/proc/self/mem", tmp_path / "x.npy"
    for arguments in (
        ["info", odd],
        ["encode", odd, "-o", out, "--checkpoint", model],
        ["encode", wav, "-o", out, "--checkpoint", odd],
        ["decode", odd, "-o", tmp_path / "x.wav", "--checkpoint", model],
        ["export", odd, "-o", tmp_path / "x.safetensors"],
        ["validate", model, "--data", odd],
        ["train", "--config", odd],
    ):
        finished = codecctl(*arguments)
        assert odd in error_line(finished, finished.code)
        assert finished.code in (1, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["in.wav"]


@pytest.mark.slow
def test_no_temporary_folder_is_needed_for_a_file(
    codecctl: Program, model: Path, wav: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:  # pytest itself needs one
        patch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
        done = codecctl("encode", wav, "-o", tmp_path / "x.npy", "--checkpoint", model)
        piped = codecctl("encode", wav, "--checkpoint", model)
    assert done.code == 0, done.stderr
    assert str(tmp_path / "gone") in error_line(piped, 1)


def test_brackets_in_paths_are_no_markup(codecctl: Program, tmp_path: Path) -> None:
    root = tmp_path / "x[" / "y]"
    done = codecctl("download", "ljspeech", "--dry-run", "--root", root)
    assert f"{root}: needs" in done.stderr
    assert str(root) in error_line(codecctl("validate", root), 1)


@pytest.mark.slow
def test_info_of_a_shipped_model_and_of_a_run(codecctl: Program, model: Path, tmp_path: Path) -> None:
    assert codecctl("info", "starter").stdout == codecctl("info").stdout
    (tmp_path / "run").mkdir()
    shutil.copy(model, tmp_path / "run" / "best.pt")
    fingerprint = Codec.load(model, "cpu").fingerprint or ""
    assert fingerprint in codecctl("info", tmp_path / "run").stdout.decode()
    assert "neither best.pt nor last.pt" in error_line(codecctl("info", tmp_path), 1)


def test_a_run_is_never_asked_of_the_hub(
    codecctl: Program, wav: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # no folder runs/ is here
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *_, **__: pytest.fail("asked the hub"))
    said = error_line(codecctl("encode", wav, "-o", "x.npy", "--checkpoint", "runs/smoke"), 2)
    assert said.startswith("runs/smoke: no such file or folder")


def test_codes_of_stdin_and_of_a_folder_are_not_mixed(codecctl: Program, tmp_path: Path) -> None:
    assert "stdin has no name" in error_line(codecctl("decode", "-", "--out-dir", tmp_path), 2)


@pytest.mark.parametrize(
    ("option", "value"), [("--seconds", "inf"), ("--seconds", "nan"), ("--seconds", "1e9"), ("--threads", "100000")]
)
def test_a_bench_of_impossible_size_is_refused(codecctl: Program, model: Path, option: str, value: str) -> None:
    done = codecctl("bench", "--checkpoint", model, option, value)
    assert (done.code, done.stdout) == (2, b"")
    assert option in done.stderr
    assert "Traceback" not in done.stderr


def test_wav_on_stdout_has_no_suffix_to_choose(codecctl: Program, model: Path, codes: Path) -> None:
    done = codecctl("decode", codes, "--checkpoint", model)
    assert soundfile.info(io.BytesIO(done.stdout)).format == "WAV"
