"""A codec exported for use alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor

from codecctl.config.model import ModelConfig
from codecctl.errors import CodecctlError, UsageError
from codecctl.inference.checkpoint import Checkpoint
from codecctl.inference.describe import describe
from codecctl.inference.find import find_checkpoint
from codecctl.inference.load import Codec, export_codec, save_codec
from codecctl.model import codec as model
from codecctl.model.codec import FRONTS


@pytest.fixture
def checkpoint(tiny_codec: model.Codec, tmp_path: Path) -> Path:
    path = tmp_path / "codec.pt"
    save_codec(tiny_codec, path)
    return path


@pytest.mark.slow
def test_float32_loses_nothing(checkpoint: Path, tmp_path: Path, speech: Tensor) -> None:
    export_codec(Checkpoint.read(checkpoint), tmp_path / "codec.safetensors", "float32")
    before, after = Codec.load(checkpoint, "cpu"), Codec.load(tmp_path / "codec.safetensors", "cpu")
    codes = before.encode(speech)
    assert torch.equal(after.encode(speech), codes)
    assert torch.equal(after.decode(codes), before.decode(codes))
    assert after.fingerprint == before.fingerprint


@pytest.mark.slow
def test_gains_go_along_and_count_for_the_fingerprint(tiny_codec: model.Codec, tmp_path: Path, speech: Tensor) -> None:
    config = tiny_codec.config
    shaped = config.model_copy(update={"quantizer": config.quantizer.model_copy(update={"gain": True})})
    codec = model.Codec(shaped).eval()
    codec.quantizer.gains.uniform_(0.5, 2, generator=torch.Generator().manual_seed(0))
    save_codec(codec, tmp_path / "codec.pt")
    export_codec(Checkpoint.read(tmp_path / "codec.pt"), tmp_path / "codec.safetensors", "float32")
    before, after = Codec.load(tmp_path / "codec.pt", "cpu"), Codec.load(tmp_path / "codec.safetensors", "cpu")
    assert torch.equal(after.encode(speech), before.encode(speech))
    assert torch.equal(after.quantizer.left_over, after.quantizer.gains.square())
    assert after.fingerprint == before.fingerprint
    codec.quantizer.gains *= 1.1
    save_codec(codec, tmp_path / "other.pt")
    assert Codec.load(tmp_path / "other.pt", "cpu").fingerprint != before.fingerprint


def test_int8_rounds_each_row_by_half_a_step_at_most(tiny: ModelConfig, tmp_path: Path) -> None:
    wide = tiny.model_copy(update={"transformer": tiny.transformer.model_copy(update={"feedforward_width": 512})})
    codec, path = model.Codec(wide), tmp_path / "codec.pt"
    name = "encoder.transformer.layers.0.feedforward.expand.weight"
    weight = codec.get_parameter(name).detach()
    weight *= torch.logspace(-3, 3, len(weight))[:, None]  # rows of very different size
    save_codec(codec, path)
    read = export_codec(Checkpoint.read(path), tmp_path / "x.safetensors").weights
    step = weight.abs().amax(dim=1, keepdim=True) / 127
    assert not torch.equal(read[name], weight)
    assert ((read[name] - weight).abs() <= 0.5001 * step).all()
    small = "encoder.transformer.layers.0.attention_scale"
    assert torch.equal(read[small], codec.get_parameter(small))


def test_codebooks_and_precise_weights_have_16_bits(tmp_path: Path) -> None:
    path = find_checkpoint("starter")
    codec = Checkpoint.read(path)
    with safetensors.safe_open(path, "pt") as file:
        types = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118 - it is no dict
    precise = FRONTS["refined"].precise_weights
    assert set(precise) < codec.weights.keys()
    halves = {name for name in types if name.endswith(".codewords")} | set(precise)
    assert {name for name, kind in types.items() if kind == "F16"} == halves


def test_an_export_is_a_checkpoint_like_any_other(checkpoint: Path, tmp_path: Path) -> None:
    source, exported = (
        Checkpoint.read(checkpoint),
        export_codec(Checkpoint.read(checkpoint), tmp_path / "x.safetensors"),
    )
    assert exported.weights.keys() == source.weights.keys()
    assert (exported.model, exported.step, exported.run) == (source.model, source.step, None)
    facts = describe(exported.path)
    assert (facts["kind"], facts["fingerprint"]) == ("checkpoint", exported.fingerprint)


def test_foreign_and_broken_files_are_refused_in_one_line(checkpoint: Path, tmp_path: Path) -> None:
    foreign, broken = tmp_path / "foreign.safetensors", tmp_path / "broken.safetensors"
    safetensors.torch.save_file({"x": torch.zeros(2)}, foreign)
    export_codec(Checkpoint.read(checkpoint), broken)
    broken.write_bytes(broken.read_bytes()[:-10])
    with pytest.raises(CodecctlError, match="not a codecctl codec"):
        Checkpoint.read(foreign)
    with pytest.raises(CodecctlError, match="copied whole"):
        Checkpoint.read(broken)
    with pytest.raises(UsageError, match=r"suffix must be \.safetensors"):
        export_codec(Checkpoint.read(checkpoint), tmp_path / "codec.pt")


@pytest.mark.parametrize("change", ["gone", "short", "double"])
def test_int8_without_a_scale_for_each_row_is_refused(tmp_path: Path, change: str) -> None:
    source, target = find_checkpoint("starter"), tmp_path / "x.safetensors"
    with safetensors.safe_open(source, "pt") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    name = next(name for name in tensors if name.endswith(".row_scale"))
    scale = tensors.pop(name)
    if change != "gone":
        tensors[name] = scale[1:] if change == "short" else scale.double()
    safetensors.torch.save_file(tensors, target, metadata)
    with pytest.raises(CodecctlError, match=r"has no scale for each of its rows"):
        Checkpoint.read(target)
