"""The README cannot rot: what it shows is run, what it states is computed."""

from __future__ import annotations

import os
import re
import shlex
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import typer

import codecctl
from codecctl.cli.main import app
from codecctl.config import load_config
from codecctl.model.codec import Codec
from tests.train.tiny import tiny_yaml

PROJECT = Path(__file__).resolve().parents[1]
README = (PROJECT / "README.md").read_text(encoding="utf-8")
PROGRAM = f'#!/bin/sh\nexec "{sys.executable}" -m codecctl.cli.main "$@"\n'
NOT_HERE = (  # hours, or the internet: that they parse is enough
    "codecctl train --config starter",
    "codecctl download slr66-te",
    "codecctl prepare data/raw",
    "codecctl prepare data/speech",
    "codecctl export runs/starter",
    "codecctl prepare data/mine",
    "codecctl validate runs/mine",
    "codecctl train --from",
    "codecctl train --gpu rtx4090 --dry-run",
    "codecctl validate runs/smoke/best.pt --report",
)


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


def typed() -> list[str]:
    """Every line that the README tells one to type, in order."""
    found = []
    for language, block in re.findall(r"^```(bash|console)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE):
        lines = block.splitlines()
        found += lines if language == "bash" else [line[2:] for line in lines if line.startswith("$ ")]
    return found


def commands() -> list[str]:
    return [line for line in typed() if line.startswith("codecctl ")]


def run(line: str, folder: Path, program_folder: Path) -> subprocess.CompletedProcess[str]:
    """A line in a shell that finds `codecctl`."""
    path = f"{program_folder}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(PROJECT), "COLUMNS": "200"}
    return subprocess.run(line, shell=True, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def program_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bin")
    (folder / "codecctl").write_text(PROGRAM)
    (folder / "codecctl").chmod(stat.S_IRWXU)
    return folder


@pytest.fixture(scope="module")
def played(
    tmp_path_factory: pytest.TempPathFactory, speech_files: list[Path], program_folder: Path
) -> tuple[Path, dict[str, subprocess.CompletedProcess[str]]]:
    """The README's commands run in order, in miniature: on the bundled clips, with a smaller `smoke`, in 8 steps."""
    folder = tmp_path_factory.mktemp("readme")
    import soundfile

    samples, rate = soundfile.read(speech_files[0])
    soundfile.write(folder / "in.wav", samples, rate)
    books = "model.quantizer.codebook_sizes=[32,16,16,16,16,16,16,16]"
    more = ("data.validation_share=0.3", "validate.metrics=[stoi]")
    tiny_yaml(folder, Path("data/prepared"), books, *more).rename(folder / "smoke")
    clips = Path(codecctl.__file__).parent / "assets" / "clips"
    scale = {"../shared/speech/train": str(clips), "--steps 300": "--steps 4", "--steps 600": "--steps 8"}
    done = {}
    for line in commands():
        small = line
        for name, value in scale.items():
            small = small.replace(name, value)
        if not line.startswith(NOT_HERE):
            done[line] = run(small, folder, program_folder)
    return folder, done


def test_the_seven_commands_are_there() -> None:
    wanted = ("prepare", "train", "resume", "validate", "encode", "decode", "info", "download")
    assert set(wanted) <= {line.split()[1] for line in commands()}
    assert 'pip install -e ".[dev]" && codecctl quickstart' in typed()
    assert 'pip install -e ".[dev]" && pytest' in typed()


@pytest.mark.parametrize("line", commands())
def test_every_command_and_option_exists(line: str) -> None:
    name, *arguments = shlex.split(line.split(" > ")[0])[1:]
    group = typer.main.get_command(app)
    command = group.commands[name]  # type: ignore[attr-defined]
    command.make_context(name, arguments)  # raises for an option that is not there


def test_every_command_does_what_it_should(
    played: tuple[Path, dict[str, subprocess.CompletedProcess[str]]],
) -> None:
    folder, done = played
    assert len(done) >= 11
    for line, finished in done.items():
        if "--gpu" not in line:
            assert finished.returncode == 0, f"{line}\n{finished.stderr}"
    for name in ("codes.npy", "out.wav", "speech.cctl", "speech.flac", "scores.json", "data/prepared/manifest.jsonl"):
        assert (folder / name).stat().st_size > 0, name


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a card")
def test_the_card_that_is_not_there_is_told_in_these_words(
    played: tuple[Path, dict[str, subprocess.CompletedProcess[str]]],
) -> None:
    finished = played[1]["codecctl train --gpu rtx4090"]
    assert finished.returncode == 2
    assert f"$ codecctl train --gpu rtx4090\n{finished.stderr}```" in README


def test_the_lines_that_are_shown_look_like_those_that_are_printed(
    played: tuple[Path, dict[str, subprocess.CompletedProcess[str]]],
) -> None:
    """Numbers and frames aside: every line of the transcript has a twin in what the commands print."""
    printed = {_shape(line) for done in played[1].values() for line in (done.stdout + done.stderr).splitlines()}
    (transcript,) = (block for block in blocks("console") if "prepare" in block)
    for line in transcript.splitlines():
        if not line.startswith(("$ ", "...")):
            assert _shape(line) in printed, line


def test_a_run_leaves_what_is_promised(played: tuple[Path, dict[str, subprocess.CompletedProcess[str]]]) -> None:
    promised = set(re.findall(r"^\| `([\w.]+)/?` \|", README, re.MULTILINE))
    assert promised == {path.name for path in (played[0] / "runs" / "smoke").glob("[!.]*")}


def test_the_python_runs(
    played: tuple[Path, dict[str, subprocess.CompletedProcess[str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(played[0])
    names: dict[str, object] = {}
    assert len(blocks("python")) == 2
    for block in blocks("python"):
        exec(block, names)
    audio, decoded, codec = names["audio"], names["decoded"], names["codec"]
    assert isinstance(audio, torch.Tensor)
    assert isinstance(decoded, torch.Tensor)
    assert isinstance(codec, Codec)
    assert decoded.shape == audio.shape
    codec.double()  # or a tie may fall differently in the stream, and everything after it with it
    exec(blocks("python")[1], names)
    streamed = names["streamed"]
    assert isinstance(streamed, torch.Tensor)
    whole = codec.decode(codec.encode(audio.double()), length=audio.shape[-1])
    torch.testing.assert_close(streamed[..., : audio.shape[-1]], whole)


def test_the_table_of_models_is_computed() -> None:
    rows = [
        [cell.strip() for cell in row.strip("|").split("|")] for row in re.findall(r"^\|.*\|$", README, re.MULTILINE)
    ]
    start = next(number for number, row in enumerate(rows) if row == ["", "production", "starter", "smoke"])
    told = {row[0]: row[1:] for row in rows[start + 2 : start + 11]}
    assert told == _facts("production", "starter", "smoke")


def test_what_is_said_about_the_bitrate_is_computed() -> None:
    model = load_config("production").model
    sentence = f"{model.frame_rate:g} frames a second of {model.bits_per_frame} bits each: {model.bitrate_kbps:g} kbps"
    assert sentence in README.replace("\n", " ")
    assert f"{1000 / model.frame_rate:g} ms at a time" in README


@pytest.mark.parametrize("target", re.findall(r"\]\(([^)#]+)\)", README))
def test_links_lead_somewhere(target: str) -> None:
    assert target.startswith("https://") or (PROJECT / target).exists()


def test_the_ci_does_what_the_readme_says() -> None:
    lines = (PROJECT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert any(line.startswith("pip install") and line.endswith('-e ".[dev]"') for line in lines)
    assert "pytest" in lines
    assert os.access(PROJECT / ".ci" / "run", os.X_OK)


def test_the_changelog_knows_this_version() -> None:
    changelog = (PROJECT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"^## {re.escape(codecctl.__version__)}\b", changelog, re.MULTILINE)


def _facts(*names: str) -> dict[str, list[str]]:
    """The rows of the table of models, from their configs."""
    models = [load_config(name).model for name in names]
    with torch.device("meta"):
        sizes = [sum(parameter.numel() for parameter in Codec(model).parameters()) / 1e6 for model in models]
    first = [model.quantizer.codebook_sizes for model in models]
    return {
        "parameters, million": [f"{size:.1f}" if size >= 1 else f"{size:.2f}" for size in sizes],
        "sample rate, Hz": [str(model.sample_rate) for model in models],
        "hop, samples": [str(model.hop_length) for model in models],
        "frames a second": [f"{model.frame_rate:g}" for model in models],
        "latent width": [str(model.latent_width) for model in models],
        "transformer layers, each side": [str(model.transformer.n_layers) for model in models],
        "books": [f"{sizes[0]} + {len(sizes[1:])} x {sizes[1]}" for sizes in first if len(set(sizes[1:])) == 1],
        "bits a frame": [str(model.bits_per_frame) for model in models],
        "kbps": [f"{model.bitrate_kbps:g}" for model in models],
    }


def _shape(line: str) -> str:
    """What is left of a line without its numbers, spaces and the frames of tables, in which the two runs differ."""
    line = re.sub(r", [\d.]+ (s|min|h) left|; mel_distance .*", " ", line)  # how fast it was, and whether it got better
    line = re.sub(r"[-+]?\d[\d.]*(e[-+]?\d+)?|[±↑→↓]", " ", line)
    return " ".join(re.sub(r"[─│┃━]+", " ", line).split())
