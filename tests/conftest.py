"""What several tests share: real speech, a tiny codec, a prepared folder."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the processes that tests start, as set_num_threads is for this one

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

import codecctl
from codecctl.audio.files import AudioWriter
from codecctl.config.load import load_config
from codecctl.config.model import (
    ModelConfig,
    QuantizerConfig,
    RefinedConfig,
    StridedConfig,
    TransformConfig,
    TransformerConfig,
)
from codecctl.data.prepare import prepare
from codecctl.inference.load import Codec as LoadedCodec
from codecctl.inference.load import save_codec
from codecctl.model.codec import Codec

# Where the suite runs in the background of a script, the shell has it ignore SIGINT, and a process hands that down to
# those that it starts: Ctrl-C could not be tested.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
torch.set_num_threads(1)  # tensors are tiny, and several test processes may share the cores

TINY_TRANSFORM = TransformConfig(hop_length=12, low_coefficients=5, high_bands=3, first_band=5, level_prediction=0)
TINY_REFINED = RefinedConfig(
    hop_length=12, low_coefficients=5, high_bands=3, first_band=5, fine_channels=8, n_fine_blocks=1
)  # fmt: skip
TINY = ModelConfig(
    front=StridedConfig(strides=(2, 4, 5), base_channels=4, dilations=(1, 3)),  # hop 40
    transformer=TransformerConfig(width=16, n_layers=2, n_heads=2, feedforward_width=32, look_back_frames=20),
    quantizer=QuantizerConfig(codebook_sizes=(64, 16, 8)),
)
CLIPS = Path(codecctl.__file__).parent / "assets" / "clips"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Benchmarks and tests of a card count as slow; these are skipped without one, also where they were asked for."""
    for item in items:
        if item.get_closest_marker("bench") or item.get_closest_marker("cuda"):
            item.add_marker("slow")
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("cuda"):
                item.add_marker(pytest.mark.skip(reason="this machine has no CUDA card"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """A markdown table of what tests recorded, see `record`; also from other processes."""
    found = [report for reports in terminalreporter.stats.values() for report in reports]
    reports = [report for report in found if isinstance(report, pytest.TestReport)]
    rows = [
        (report.nodeid, text)
        for report in reports
        for name, text in report.user_properties
        if name == "recorded" and report.when == "teardown"
    ]
    if rows:
        rows += [(report.nodeid, f"FAILED: {_reason(report)}") for report in reports if report.failed]
        terminalreporter.write_line("| check | found |\n|---|---|")
    for nodeid, text in rows:
        terminalreporter.write_line(f"| {nodeid.rpartition('::test_')[2].replace('_', ' ')} | {text} |")


def _reason(report: pytest.TestReport) -> str:
    """The first line of what a failed test raised."""
    crash = getattr(report.longrepr, "reprcrash", None)
    return str(crash.message if crash else report.longrepr).splitlines()[0]


@pytest.fixture(autouse=True)
def _same_start() -> None:
    """Every run of a test draws the same weights and noise, on one thread whatever a command before it set."""
    torch.manual_seed(0)
    torch.set_num_threads(1)


@pytest.fixture
def record(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Note what was measured, for the table at the end."""
    return lambda text: request.node.user_properties.append(("recorded", text))


@pytest.fixture(scope="session")
def speech_folder() -> Path:
    """The bundled clips: a minute of three voices."""
    return CLIPS


@pytest.fixture(scope="session")
def speech_files(speech_folder: Path) -> list[Path]:
    return sorted(speech_folder.rglob("*.flac"))


@pytest.fixture(scope="session")
def speech(speech_files: list[Path]) -> Tensor:
    """[1, 1, L]: one clip, about five seconds."""
    audio, _ = soundfile.read(speech_files[0], dtype="float32")
    return torch.from_numpy(np.asarray(audio)).reshape(1, 1, -1)


@pytest.fixture(scope="session")
def tiny() -> ModelConfig:
    """Four channels, three codebooks, a hop of 12: every mechanism of the codec at no cost."""
    return ModelConfig(
        front=StridedConfig(strides=(2, 2, 3), base_channels=4, kernel_size=3, dilations=(1, 3)),
        transformer=TransformerConfig(width=16, n_layers=2, n_heads=2, feedforward_width=24, look_back_frames=9),
        quantizer=QuantizerConfig(codebook_sizes=(32, 16, 16)),
    )


@pytest.fixture(scope="session", params=[None, TINY_TRANSFORM, TINY_REFINED], ids=["strided", "transform", "refined"])
def tiny_of_each_front(tiny: ModelConfig, request: pytest.FixtureRequest) -> ModelConfig:
    return tiny.model_copy(update={"front": request.param}) if request.param else tiny


@pytest.fixture
def tiny_codec(tiny_of_each_front: ModelConfig) -> Codec:
    """A random codec of each front whose transformer matters: at its start LayerScale would all but switch it off."""
    return lively(tiny_of_each_front)


@pytest.fixture(scope="session")
def smoke_model() -> ModelConfig:
    return load_config("smoke").model


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a codec that takes milliseconds for a second of audio: a hop of 40 samples, codebooks of 64, 16
    and 8 codewords."""
    path = tmp_path_factory.mktemp("model") / "tiny.pt"
    save_codec(lively(TINY), path)
    return path


@pytest.fixture(scope="session")
def codec(model: Path) -> LoadedCodec:
    return LoadedCodec.load(model, "cpu")


def lively(config: ModelConfig) -> Codec:
    """A random codec with its layer scales at one and its codebooks at the size of its latents."""
    torch.manual_seed(7)  # before the first weight is drawn: the same codec in every process
    codec = Codec(config)
    with torch.no_grad():
        for name, parameter in codec.named_parameters():
            if name.endswith("_scale"):
                parameter.fill_(1.0)
            elif parameter.dim() == 1 or not parameter.any():  # a network's last layer may start at zero
                parameter.add_(0.1 * torch.randn_like(parameter))
        latents = codec.encoder(torch.randn(4, 1, 64 * codec.hop_length))
        codec.quantizer.fit(latents.mT.flatten(0, 1), torch.Generator().manual_seed(7))
    return codec.eval()


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled clips, prepared."""
    out = tmp_path_factory.mktemp("prepared") / "data"
    prepare([CLIPS], out, load_config("smoke").data)
    return out


@pytest.fixture(scope="session")
def network_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library to preload: with `NO_DIRSYNC=1` fsync of a folder fails."""
    if shutil.which("gcc") is None:
        pytest.skip("no C compiler")
    source, library = Path(__file__).parent / "inputs" / "network_folder.c", tmp_path_factory.mktemp("c") / "folder.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    return library


def write_audio(path: Path, audio: np.ndarray, sample_rate: int) -> None:
    """float32 `[C, L]` -> a 16-bit WAV or FLAC, by suffix."""
    with AudioWriter(path, sample_rate, audio.shape[0]) as writer:
        writer.write(audio)
