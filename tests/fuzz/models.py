"""Model files: a training's checkpoint, a codec's, and exports. What loads must be what was written."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from functools import cache, lru_cache
from pathlib import Path
from unittest.mock import patch

import torch
from torch import Tensor

from codecctl.config.model import ModelConfig, QuantizerConfig, StridedConfig, TransformerConfig
from codecctl.config.schema import Config
from codecctl.inference.checkpoint import Checkpoint, shell, write_checkpoint
from codecctl.inference.load import export_codec
from codecctl.model.codec import Codec
from tests.fuzz.harness import Target

MODEL = ModelConfig(
    front=StridedConfig(strides=(2, 3), base_channels=2, kernel_size=3, dilations=(1,)),
    transformer=TransformerConfig(width=4, n_layers=1, n_heads=1, feedforward_width=4, look_back_frames=4),
    quantizer=QuantizerConfig(codebook_sizes=(4, 2)),
)


@cache
def _files() -> Mapping[str, bytes]:
    torch.manual_seed(0)
    weights = Codec(MODEL).state_dict()
    run = {"config": Config(model=MODEL).model_dump(mode="json", by_alias=True), "versions": {}, "n_ranks": 1}
    training = {"optimizer": {"state": [torch.ones(3), 1.5, None]}, "rng": torch.arange(9, dtype=torch.uint8)}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_checkpoint(folder / "codec.pt", MODEL, weights)
        write_checkpoint(folder / "last.pt", MODEL, weights, 7, run=run, training=training)
        source = Checkpoint.read(folder / "codec.pt")
        for precision in ("int8", "float32"):
            export_codec(source, folder / f"{precision}.safetensors", precision)
        return {path.name: path.read_bytes() for path in folder.glob("*.*")}


@cache
def _weights(name: str) -> Mapping[str, Tensor]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)
        path.write_bytes(_files()[name])
        return {key: weight.clone() for key, weight in Checkpoint.read(path).weights.items()}


def _of_kind(suffix: str) -> Mapping[str, bytes]:
    return {name: data for name, data in _files().items() if name.endswith(suffix)}


_shell = lru_cache(maxsize=8)(shell)  # building the shapes of the same config again takes half the time of a case


def _read(path: Path) -> None:
    with patch("codecctl.inference.checkpoint.shell", _shell):
        checkpoint = Checkpoint.read(path, with_training=True)
    checkpoint.config()
    assert any(
        all(torch.equal(weight, checkpoint.weights[key]) for key, weight in _weights(name).items())
        for name in _of_kind(path.suffix)
    ), "other weights than were written"


PT = Target("pt", lambda: _of_kind(".pt"), _read)
SAFETENSORS = Target("safetensors", lambda: _of_kind(".safetensors"), _read)
