"""A codec exported for use alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor

from codecctl.errors import CodecctlError, UsageError
from codecctl.inference.describe import describe
from codecctl.inference.load import Codec, export_codec, read_checkpoint, save_codec
from codecctl.model import codec as model


@pytest.fixture
def checkpoint(tiny_codec: model.Codec, tmp_path: Path) -> Path:
    path = tmp_path / "codec.pt"
    save_codec(tiny_codec, path)
    return path


def test_float32_loses_nothing(checkpoint: Path, tmp_path: Path, speech: Tensor) -> None:
    export_codec(checkpoint, tmp_path / "codec.safetensors", "float32")
    before, after = Codec.load(checkpoint, "cpu"), Codec.load(tmp_path / "codec.safetensors", "cpu")
    codes = before.encode(speech)
    assert torch.equal(after.encode(speech), codes)
    assert torch.equal(after.decode(codes), before.decode(codes))
    assert after.fingerprint == before.fingerprint


def test_gains_go_along_and_count_for_the_fingerprint(tiny_codec: model.Codec, tmp_path: Path, speech: Tensor) -> None:
    config = tiny_codec.config
    shaped = config.model_copy(update={"quantizer": config.quantizer.model_copy(update={"gain": True})})
    codec = model.Codec(shaped).eval()
    codec.quantizer.gains.uniform_(0.5, 2, generator=torch.Generator().manual_seed(0))
    save_codec(codec, tmp_path / "codec.pt")
    export_codec(tmp_path / "codec.pt", tmp_path / "codec.safetensors", "float32")
    before, after = Codec.load(tmp_path / "codec.pt", "cpu"), Codec.load(tmp_path / "codec.safetensors", "cpu")
    assert torch.equal(after.encode(speech), before.encode(speech))
    assert torch.equal(after.quantizer.left_over, after.quantizer.gains.square())
    assert after.fingerprint == before.fingerprint
    codec.quantizer.gains *= 1.1
    save_codec(codec, tmp_path / "other.pt")
    assert Codec.load(tmp_path / "other.pt", "cpu").fingerprint != before.fingerprint


def test_int8_rounds_each_row_by_half_a_step_at_most(tmp_path: Path) -> None:
    from codecctl.inference.compact import read_compact, write_compact

    weight = torch.randn(64, 96) * torch.logspace(-3, 3, 64)[:, None]  # rows of very different size
    small = torch.randn(5)
    weights = {"weight": weight, "small": small, "quantizer.books.0.codebook": weight}
    write_compact(tmp_path / "x.safetensors", {}, weights, 7, "int8")
    read = read_compact(tmp_path / "x.safetensors")
    step = weight.abs().amax(dim=1, keepdim=True) / 127
    assert ((read["model"]["weight"] - weight).abs() <= 0.5001 * step).all()
    assert torch.equal(read["model"]["small"], small)
    assert torch.equal(read["model"]["quantizer.books.0.codebook"], weight.half().float())
    assert read["step"] == 7
    assert (tmp_path / "x.safetensors").stat().st_size < 64 * 96 * 3.2 + 1000


def test_what_is_exported_is_a_checkpoint_like_any_other(checkpoint: Path, tmp_path: Path) -> None:
    export_codec(checkpoint, tmp_path / "codec.safetensors")
    content = read_checkpoint(tmp_path / "codec.safetensors")
    assert content["model"].keys() == read_checkpoint(checkpoint)["model"].keys()
    facts = describe(tmp_path / "codec.safetensors")
    assert facts["kind"] == "checkpoint"
    assert facts["fingerprint"] == Codec.load(tmp_path / "codec.safetensors", "cpu").fingerprint


def test_foreign_and_broken_files_are_refused_in_one_line(checkpoint: Path, tmp_path: Path) -> None:
    foreign, broken = tmp_path / "foreign.safetensors", tmp_path / "broken.safetensors"
    safetensors.torch.save_file({"x": torch.zeros(2)}, foreign)
    export_codec(checkpoint, broken)
    broken.write_bytes(broken.read_bytes()[:-10])
    with pytest.raises(CodecctlError, match="not a codecctl codec"):
        read_checkpoint(foreign)
    with pytest.raises(CodecctlError, match="copied whole"):
        read_checkpoint(broken)
    with pytest.raises(UsageError, match=r"suffix must be \.safetensors"):
        export_codec(checkpoint, tmp_path / "codec.pt")
