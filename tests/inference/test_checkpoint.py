"""Model files: intact or refused in one line, whatever was changed in them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from codecctl.config.model import ModelConfig, TransformConfig
from codecctl.errors import CodecctlError
from codecctl.inference.checkpoint import Checkpoint, shell, write_checkpoint
from codecctl.inference.identity import checksum, fingerprint
from codecctl.inference.load import Codec, export_codec, save_codec
from codecctl.model import codec as model
from tests.conftest import TINY_TRANSFORM


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, tiny: ModelConfig) -> Path:
    path = tmp_path_factory.mktemp("saved") / "tiny.pt"
    save_codec(model.Codec(tiny), path)
    return path


def edited(path: Path, folder: Path, edit: Callable[[dict[str, Any]], object]) -> Path:
    """A copy of a `.pt` file whose content was changed; its checksum is left as it is."""
    content = torch.load(path, weights_only=True)
    edit(content)
    torch.save(content, folder / "edited.pt")
    return folder / "edited.pt"


def test_a_saved_codec_is_read_back(saved: Path, tiny: ModelConfig) -> None:
    read = Checkpoint.read(saved)
    assert (read.model, read.step, read.run, read.training) == (tiny, 0, None, None)
    assert read.fingerprint == fingerprint(tiny, read.weights) == Codec.load(saved, "cpu").fingerprint


def test_a_name_that_is_not_utf8_is_a_name(saved: Path, tmp_path: Path) -> None:
    """torch and safetensors open names in UTF-8 alone."""
    read = Checkpoint.read(saved)
    for suffix in (".pt", ".safetensors"):
        path = tmp_path / os.fsdecode(b"caf\xe9" + suffix.encode())
        path.write_bytes(saved.read_bytes()) if suffix == ".pt" else export_codec(read, path, "float32")
        again = Checkpoint.read(path)
        assert again.path == path
        assert all(torch.equal(weight, read.weights[name]) for name, weight in again.weights.items())


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_any_flipped_bit_of_the_weights_is_found(saved: Path, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x{suffix}"
    read = Checkpoint.read(saved)
    path.write_bytes(saved.read_bytes()) if suffix == ".pt" else export_codec(read, path, "float32")
    whole = path.read_bytes()
    for name in ("encoder.first.conv.bias", "quantizer.codebooks.1.codewords", "decoder.last.conv.bias"):
        place = whole.index(read.weights[name].numpy().tobytes())
        for bit in (1, 64):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1 :])
            with pytest.raises(CodecctlError, match=rf"x{suffix}: was changed or damaged: checksum differs"):
                Checkpoint.read(path)


def test_weights_that_are_not_finite_are_refused_by_name(saved: Path, tmp_path: Path) -> None:
    read = Checkpoint.read(saved)
    weights = {name: weight.clone() for name, weight in read.weights.items()}
    weights["decoder.first.conv.bias"][3] = torch.nan
    write_checkpoint(tmp_path / "x.pt", read.model, weights)
    with pytest.raises(CodecctlError, match=r"x\.pt: weight 'decoder\.first\.conv\.bias' is not finite"):
        Checkpoint.read(tmp_path / "x.pt")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        ("transformer", "width", 16384, "the config asks for"),
        ("transformer", "n_layers", 256, "is missing"),
        ("transformer", "width", 10**7, "model.transformer.width"),
        ("front", "base_channels", 1024, "the config asks for"),
        ("quantizer", "codebook_sizes", [65536] * 255, "the config asks for"),
    ],
)
def test_a_config_that_claims_too_much_is_refused_at_once(
    saved: Path, tmp_path: Path, section: str, key: str, value: object, message: str
) -> None:
    path = edited(saved, tmp_path, lambda content: content["model"][section].update({key: value}))
    started = time.process_time()
    with pytest.raises(CodecctlError, match=rf"edited\.pt: .*{message}"):
        Checkpoint.read(path)
    assert time.process_time() - started < 1


@pytest.mark.slow
@pytest.mark.parametrize("key", ["model", "weights", "step", "fingerprint", "checksum", "version"])
@pytest.mark.parametrize("value", [None, "x", 3.5, [], {"x": 1}, {3: []}, torch.zeros(2)])
def test_a_missing_or_odd_entry_is_one_line(saved: Path, tmp_path: Path, key: str, value: object) -> None:
    for edit in (lambda content: content.pop(key), lambda content: content.update({key: value})):
        with pytest.raises(CodecctlError, match=r"^[^\n]*edited\.pt: [^\n]*$"):
            Checkpoint.read(edited(saved, tmp_path, edit))


@pytest.mark.parametrize("value", [3, None, "x", torch.zeros(2, dtype=torch.int64), torch.zeros(2).to_sparse()])
def test_a_weight_of_an_odd_type_is_one_line(saved: Path, tmp_path: Path, value: object) -> None:
    name = "decoder.last.conv.bias"
    with pytest.raises(CodecctlError, match=f"weight '{name}'"):
        Checkpoint.read(edited(saved, tmp_path, lambda content: content["weights"].update({name: value})))


def test_a_newer_file_is_refused_with_its_version(saved: Path, tmp_path: Path) -> None:
    newer = edited(saved, tmp_path, lambda content: content.update(version=2, codecctl="7.1"))
    with pytest.raises(CodecctlError, match=r"written by a newer codecctl \(7\.1, format version 2\)"):
        Checkpoint.read(newer)
    key = edited(saved, tmp_path, lambda content: (content["model"].update(warp=1), content.update(codecctl="7.1")))
    with pytest.raises(CodecctlError, match=r"unknown key 'model\.warp'.*written by codecctl 7\.1, this is"):
        Checkpoint.read(key)


def test_the_shell_has_the_shapes_of_a_codec(tiny: ModelConfig) -> None:
    for config in (tiny, tiny.model_copy(update={"front": TINY_TRANSFORM})):
        shapes = [{name: x.shape for name, x in c.state_dict().items()} for c in (shell(config), model.Codec(config))]
        assert shapes[0] == shapes[1]


def test_the_fingerprint_follows_from_what_decides_codes(tiny: ModelConfig) -> None:
    weights = model.Codec(tiny).state_dict()
    same = tiny.model_copy(update={"quantizer": tiny.quantizer.model_copy(update={"ema_decay": 0.5})})
    wider = tiny.model_copy(update={"quantizer": tiny.quantizer.model_copy(update={"beam_width": 2})})
    changed = {name: x + 1 if name == "decoder.last.conv.bias" else x for name, x in weights.items()}
    other = {name: x + 1 if name == "quantizer.codebooks.2.codewords" else x for name, x in weights.items()}
    mine = fingerprint(tiny, weights)
    assert mine == fingerprint(same, weights) == fingerprint(tiny, changed)
    assert len({mine, fingerprint(wider, weights), fingerprint(tiny, other)}) == 3


def test_a_checksum_depends_on_values_types_and_places() -> None:
    tensor = torch.arange(6.0)
    contents: list[object] = [
        tensor, tensor.double(), tensor.reshape(2, 3), tensor + 0, -tensor, [tensor, 1], [1, tensor], {"a": 1},
        {"a": 1.0}, {"b": 1}, [[1], 2], [[1, 2]], None, "None", torch.tensor(1.0), torch.ones(1),
    ]  # fmt: skip
    assert len({checksum(content) for content in contents}) == len(contents) - 1  # tensor + 0 is tensor
    assert checksum({"a": 1, "b": 2}) == checksum({"b": 2, "a": 1})


def test_a_tensor_larger_than_its_storage_has_no_checksum() -> None:
    huge: Tensor = torch.zeros(1).expand(10**12)
    with pytest.raises(ValueError, match="storage"):
        checksum(huge)


@pytest.mark.slow
def test_the_starter_is_a_name_a_codec_loads() -> None:
    assert isinstance(Codec.load("starter", "cpu").config.front, TransformConfig)
