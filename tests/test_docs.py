"""Each block of commands in README and docs is run, or marked with what it needs; tables and facts are computed."""

from __future__ import annotations

import os
import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
import typer

import codecctl
from codecctl.bitstream import PackedReader
from codecctl.cli.main import app
from codecctl.config.load import load_config
from codecctl.evaluate.metrics.perceptual import PERCEPTUAL_METRICS
from codecctl.model.codec import Codec
from tests.documents import NAMES, PROJECT, RUNNABLE, TEXTS, VARY, Finished, blocks, can_run, commands, is_printed, play
from tests.train.tiny import tiny_yaml

README = TEXTS["README.md"]
RUN_HERE = [block for block in blocks(*RUNNABLE) if block.needs is None]
LINKS = [(name, target) for name, text in TEXTS.items() for target in re.findall(r"\]\(([^)\s]+)\)", text)]
_KEY = r"\b((?:data|model|loss|train|validate)\.[a-z_.]+[a-z])[=`]"
UNKNOWN = "train.batchsize"  # shown with the error that it gives
KEYS = {key for name in NAMES for key in re.findall(_KEY, TEXTS[name]) if name != "CONTRIBUTING.md"} - {UNKNOWN}
KEYS = {key for key in KEYS if not key.endswith(".safetensors")}


@dataclass
class Played:
    """What the documents did."""

    folder: Path
    finished: list[list[Finished]] = field(default_factory=list)  # of the steps of each block of RUN_HERE
    names: dict[str, dict[str, Any]] = field(default_factory=dict)  # of the Python, by document


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory, speech_files: list[Path]) -> Played:
    """All blocks in order, in one folder that looks like a clone, with a smaller `smoke` and fewer steps."""
    folder = tmp_path_factory.mktemp("docs")
    done = Played(folder)
    (folder / "codecctl").symlink_to(PROJECT / "codecctl")
    soundfile.write(folder / "in.wav", *soundfile.read(speech_files[2]))
    sizes = "model.quantizer.codebook_sizes=[32,16,16,16,16,16,16,16]"
    more = ("data.validation_share=0.3", "validate.metrics=[stoi]")
    tiny_yaml(folder, Path("data/prepared"), sizes, *more).rename(folder / "smoke")  # a file wins over a shipped name
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("COLUMNS", "200")
        for block in blocks("yaml"):
            Path(block.body.splitlines()[0].removeprefix("# ")).write_text(block.body, encoding="utf-8")
        for block in RUN_HERE:
            if block.language == "python":
                exec(block.body, done.names.setdefault(block.document, {}))
            done.finished.append([play(line) for line, _ in block.steps] if block.language != "python" else [])
    return done


@pytest.mark.parametrize("block", blocks(*RUNNABLE), ids=lambda block: f"{block.document}:{block.body[:40]!r}")
def test_a_block_can_be_run_or_says_what_it_needs(block: Any) -> None:
    assert block.note in ("", VARY, "needs: card", "needs: network")
    if block.needs is None and block.language != "python":
        assert all(can_run(line) for line, _ in block.steps)


@pytest.mark.parametrize("line", commands())
def test_every_command_and_option_exists(line: str) -> None:
    name, *arguments = shlex.split(line.split(" > ")[0])[1:]
    command = typer.main.get_command(app).commands[name]  # type: ignore[attr-defined]
    command.make_context(name, arguments)  # raises for an unknown option


@pytest.mark.slow
def test_commands_succeed_or_fail_as_shown(played: Played) -> None:
    for block, finished in zip(RUN_HERE, played.finished, strict=True):
        for (line, shown), done in zip(block.steps if finished else [], finished, strict=True):
            fails = any(each.startswith("error: ") for each in shown)
            assert bool(done.code) == fails or torch.cuda.is_available(), f"{block.document}: {line}\n{done.output}"


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a card")
def test_transcripts_show_what_is_printed(played: Played) -> None:
    wrong = []
    for block, finished in zip(RUN_HERE, played.finished, strict=True):
        for (line, shown), done in zip(block.steps if finished else [], finished, strict=True):
            missing = [each for each in shown if not is_printed(each, done.output, exactly=block.note != VARY)]
            if missing:
                wrong.append("\n".join([f"{block.document}: {line} does not print", *missing, "but", done.output]))
    assert not wrong, "\n\n".join(wrong)


@pytest.mark.slow
def test_a_run_leaves_the_files_of_the_table(played: Played) -> None:
    table = TEXTS["docs/training.md"].split("The folder of a run:")[1].split("##")[0]
    promised = set(re.findall(r"^\| `([\w.]+)/?` \|", table, re.MULTILINE))
    assert promised == {path.name for path in (played.folder / "runs" / "smoke").glob("[!.]*")}


@pytest.mark.slow
def test_the_python_of_the_readme_returns_what_its_comments_say(played: Played) -> None:
    names = played.names["README.md"]
    audio, codec = names["audio"], names["codec"]
    assert names["codes"].shape == (1, codec.n_codebooks, codec.n_frames(audio.shape[-1]))
    assert names["decoded"].shape == audio.shape
    assert names["coarse"].shape[1] == 2
    assert names["streamed"].shape[-1] == codec.n_frames(audio.shape[-1]) * codec.hop_length


@pytest.mark.slow
def test_the_documented_reader_reads_the_first_frame(played: Played) -> None:
    with PackedReader(played.folder / "speech.cctl") as reader:
        assert played.names["docs/formats.md"]["first_frame"] == reader.read(0, 1)[:, 0].tolist()


def test_the_readme_is_short_and_installs_without_the_tests() -> None:
    assert len(README.splitlines()) <= 160
    assert "pip install . && codecctl quickstart" in README
    assert 'pip install -e ".[dev]" && pytest' in README


def test_the_table_of_models_is_computed() -> None:
    rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in re.findall(r"^\|.*\|$", README, re.M)]
    assert rows[0] == ["", "production", "starter", "smoke"]
    assert {row[0]: row[1:] for row in rows[2:]} == _facts("production", "starter", "smoke")


def test_the_bitrate_and_the_frame_are_computed() -> None:
    model = load_config("production").model
    sentence = f"{model.frame_rate:g} frames a second of {model.bits_per_frame} bits each: {model.bitrate_kbps:g} kbps"
    assert sentence in README.replace("\n", " ")
    assert f"{1000 / model.frame_rate:g} ms at a time" in README


def test_the_table_of_metrics_is_complete() -> None:
    rows = re.findall(r"^\| `(\w+)` \| .* \| `(.*)` \|$", TEXTS["docs/evaluation.md"], re.MULTILINE)
    assert dict(rows) == {name: measure.install for name, measure in PERCEPTUAL_METRICS.items()}


@pytest.mark.parametrize("key", sorted(KEYS))
def test_config_keys_exist(key: str) -> None:
    values: Any = load_config("production", gpu="rtx4090").model_dump(by_alias=True)
    *sections, last = key.split(".")
    for section in sections:
        values = values[section]
    assert last in values or sections[-1] == "require"


@pytest.mark.parametrize(("name", "target"), LINKS)
def test_links_lead_somewhere(name: str, target: str) -> None:
    if target.startswith("https://"):
        return
    path, _, heading = target.partition("#")
    linked = (PROJECT / name).parent / path if path else PROJECT / name
    assert linked.exists()
    assert linked.resolve().is_relative_to(PROJECT)
    if heading:
        headings = re.findall(r"^#+ (.*)$", linked.read_text(encoding="utf-8"), re.MULTILINE)
        assert heading in [re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings]


@pytest.mark.parametrize("name", NAMES)
def test_no_document_refers_to_folders_outside(name: str) -> None:
    outside = ["shared/", "../../", f"{PROJECT.resolve().parent}/"]
    assert not [path for path in outside if path in TEXTS[name]]


def test_the_ci_does_what_the_readme_says() -> None:
    lines = (PROJECT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert any(line.startswith("pip install") and line.endswith('-e ".[dev]"') for line in lines)
    assert any(line.startswith("pytest") for line in lines)
    assert os.access(PROJECT / ".ci" / "run", os.X_OK)


def test_the_changelog_has_this_version() -> None:
    changelog = (PROJECT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"^## {re.escape(codecctl.__version__)}\b", changelog, re.MULTILINE)


def _facts(*names: str) -> dict[str, list[str]]:
    """The rows of the table of models, from their configs."""
    models = [load_config(name).model for name in names]
    with torch.device("meta"):
        counts = [sum(parameter.numel() for parameter in Codec(model).parameters()) / 1e6 for model in models]
    sizes = [model.quantizer.codebook_sizes for model in models]
    return {
        "parameters, million": [f"{count:.1f}" if count >= 1 else f"{count:.2f}" for count in counts],
        "sample rate, Hz": [str(model.sample_rate) for model in models],
        "hop length, samples": [str(model.hop_length) for model in models],
        "frames a second": [f"{model.frame_rate:g}" for model in models],
        "latent width": [str(model.latent_width) for model in models],
        "transformer layers, each side": [str(model.transformer.n_layers) for model in models],
        "codebooks": [f"{first} + {len(rest)} x {rest[0]}" for first, *rest in sizes if len(set(rest)) == 1],
        "bits a frame": [str(model.bits_per_frame) for model in models],
        "kbps": [f"{model.bitrate_kbps:g}" for model in models],
    }
