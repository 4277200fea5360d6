"""A folder for transformers: the same codes and audio where codecctl is not installed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from codecctl import Codec
from codecctl.config.load import load_config
from codecctl.config.model import ModelConfig
from codecctl.errors import CodecctlError, UsageError
from codecctl.export.huggingface import standalone, write_huggingface
from codecctl.inference.checkpoint import Checkpoint, write_checkpoint
from codecctl.inference.find import find_checkpoint
from codecctl.inference.load import save_codec
from codecctl.model import codec as model
from tests.conftest import TINY_REFINED, TINY_TRANSFORM, lively

_ENCODE_AND_DECODE = """
from pathlib import Path
from transformers import AutoFeatureExtractor, AutoModel

def exchange(folder):
    audio = torch.load(folder.with_suffix(".audio.pt"))
    model = AutoModel.from_pretrained(folder, trust_remote_code=True)
    extractor = AutoFeatureExtractor.from_pretrained(folder)
    inputs = extractor([each.numpy() for each in audio], sampling_rate=16000, return_tensors="pt")
    encoded = model.encode(**inputs)
    single = [model.encode(each[None, None]).audio_codes for each in audio]
    decoded = [model.decode(codes, fingerprint=encoded.fingerprint).audio_values for codes in single]
    both = model(**inputs)
    assert torch.equal(both.audio_codes, encoded.audio_codes)
    together = model.decode(encoded.audio_codes, inputs["padding_mask"]).audio_values
    assert together.shape == inputs["input_values"].shape
    assert torch.equal(both.audio_values, together)
    encoder, decoder = (AutoModel.from_pretrained(folder, trust_remote_code=True, part=name) for name in PARTS)
    assert max(encoder.num_parameters(), decoder.num_parameters()) < model.num_parameters()
    assert torch.equal(encoder.encode(**inputs).audio_codes, encoded.audio_codes)
    assert torch.equal(decoder.decode(single[0]).audio_values, decoded[0])
    return {
        "padded": encoded.audio_codes, "mask": encoded.audio_codes_mask, "single": single,
        "decoded": decoded, "together": together,
        "no encoder": refusal(decoder.encode, **inputs),
        "other model": refusal(model.decode, single[0], fingerprint="0" * 16),
    }

def refusal(call, *arguments, **named):
    try:
        call(*arguments, **named)
    except ValueError as error:
        return str(error)

PARTS = ("encoder", "decoder")
for folder in map(Path, sys.argv[1:]):
    with torch.no_grad():
        torch.save(exchange(folder), folder.with_suffix(".found.pt"))
"""
_FRONTS = {"strided": None, "transform": TINY_TRANSFORM, "refined": TINY_REFINED}
_NAMES = [*_FRONTS, "starter"]


def recordings(name: str, speech: Tensor) -> list[Tensor]:
    """One, and a part of it: [L] each."""
    audio = speech[0, 0, : 32000 if name == "starter" else 8000]
    return [audio, audio[: len(audio) // 3]]


@pytest.fixture(scope="module")
def exchanged(
    tiny: ModelConfig, speech: Tensor, alone: Callable[..., str], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A folder with an export of each front and of the starter, NAME, its checkpoint, and NAME.found.pt, what the
    export's code makes of recordings in a process without codecctl."""
    root = tmp_path_factory.mktemp("exchanged")
    for name, front in _FRONTS.items():
        save_codec(lively(tiny.model_copy(update={"front": front}) if front else tiny), root / f"{name}.pt")
    for name in _NAMES:
        write_huggingface(Checkpoint.read(checkpoint_of(root, name)), root / name)
        torch.save(recordings(name, speech), root / f"{name}.audio.pt")
    alone(_ENCODE_AND_DECODE, *(root / name for name in _NAMES))
    return root


def checkpoint_of(root: Path, name: str) -> Path:
    return find_checkpoint("starter") if name == "starter" else root / f"{name}.pt"


@pytest.mark.slow
@pytest.mark.parametrize("name", _NAMES)
def test_codes_and_audio_are_the_same_without_codecctl(exchanged: Path, name: str, speech: Tensor) -> None:
    codec, found = Codec.load(checkpoint_of(exchanged, name), "cpu"), torch.load(exchanged / f"{name}.found.pt")
    assert f"these codes are of the model {'0' * 16}, and this is {codec.fingerprint}" in found["other model"]
    assert "decoder alone" in found["no encoder"]
    for i, audio in enumerate(recordings(name, speech)):
        codes = codec.encode(audio[None, None])
        assert torch.equal(found["single"][i], codes)
        assert torch.equal(found["padded"][i][:, found["mask"][i]], codes[0])
        torch.testing.assert_close(found["decoded"][i], codec.decode(codes), rtol=0, atol=1e-5)
        alone = codec.decode(codes, length=len(audio))
        torch.testing.assert_close(found["together"][i : i + 1, :, : len(audio)], alone, rtol=0, atol=1e-5)
    loaded = Codec.from_pretrained(exchanged / name, "cpu")
    assert loaded.fingerprint == codec.fingerprint
    assert torch.equal(loaded.decode(codes), codec.decode(codes))


@pytest.mark.slow
def test_the_card_of_the_starter_names_the_licence_of_its_data(exchanged: Path) -> None:
    card = (exchanged / "starter" / "README.md").read_text(encoding="utf-8")
    assert "CC BY-SA 3.0" in card
    assert card.startswith("---\nlibrary_name: transformers\n")


def test_the_config_says_what_other_programs_ask_for(tiny_codec: model.Codec, tmp_path: Path) -> None:
    save_codec(tiny_codec, tmp_path / "codec.pt")
    source = Checkpoint.read(tmp_path / "codec.pt")
    write_huggingface(source, tmp_path / "folder")
    config = json.loads((tmp_path / "folder" / "config.json").read_text())
    assert (config["fingerprint"], config["sampling_rate"]) == (source.fingerprint, source.model.sample_rate)
    sizes = list(source.model.quantizer.codebook_sizes)
    assert config["codebook_sizes"] == sizes
    of_mimi, of_dac = ("num_quantizers", "num_codebooks", "codebook_size"), ("n_codebooks", "codebook_size")
    assert [config[name] for name in of_mimi + of_dac] == [len(sizes), len(sizes), max(sizes), len(sizes), max(sizes)]


def test_the_code_imports_torch_and_transformers_alone() -> None:
    texts = standalone()
    assert "modeling_codecctl.py" in texts
    imports = [line for text in texts.values() for line in text.splitlines() if line.startswith(("import ", "from "))]
    outside = {line.split()[1].split(".")[0] for line in imports} - {""}
    assert outside == {
        "__future__", "collections", "bisect", "dataclasses", "functools", "itertools", "math", "torch", "transformers",
        "types", "typing", "uuid",
    }  # fmt: skip
    assert not [line for line in imports if "codecctl." in line]


def test_the_card_is_made_from_the_run(tiny_codec: model.Codec, prepared: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    config = load_config("smoke", overrides=[f"data.path={prepared}", "loss.semantic_weight=1"])
    values = config.model_dump(mode="json", by_alias=True) | {"model": tiny_codec.config.model_dump(mode="json")}
    facts = {"config": values, "versions": {"codecctl": "0"}, "n_ranks": 1}
    write_checkpoint(run / "last.pt", tiny_codec.config, tiny_codec.state_dict(), 20, run=facts)
    events = [
        {"step": 10, "kind": "validation", "mel_distance": 1.5, "trend": "falls"},
        {"step": 20, "kind": "validation", "mel_distance": 1.25, "stoi": 0.5, "perplexity": [3.0]},
        {"step": 30, "kind": "validation", "mel_distance": 1.0},  # after the checkpoint
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events) + '{"step": 3')
    write_huggingface(Checkpoint.read(run / "last.pt"), tmp_path / "folder")
    card = (tmp_path / "folder" / "README.md").read_text(encoding="utf-8")
    assert "| mel_distance | 1.25 |\n| stoi | 0.5 |\n" in card
    assert f"teacher `{config.train.semantic.teacher}`" in card
    assert "hours in all" in card
    assert "## Limits" in card


def test_a_folder_with_files_is_left_alone(tiny_codec: model.Codec, tmp_path: Path) -> None:
    save_codec(tiny_codec, tmp_path / "codec.pt")
    source = Checkpoint.read(tmp_path / "codec.pt")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "mine.txt").touch()
    with pytest.raises(UsageError, match="folder: exists and is not empty"):
        write_huggingface(source, tmp_path / "folder")
    with pytest.raises(UsageError, match=r"there is no folder .*gone"):
        write_huggingface(source, tmp_path / "gone" / "folder")
    (tmp_path / "folder" / "mine.txt").unlink()
    write_huggingface(source, tmp_path / "folder")
    assert not list(tmp_path.glob(".*.partial"))


def test_changed_weights_are_refused(tiny_codec: model.Codec, tmp_path: Path) -> None:
    save_codec(tiny_codec, tmp_path / "codec.pt")
    write_huggingface(Checkpoint.read(tmp_path / "codec.pt"), tmp_path / "folder")
    path = tmp_path / "folder" / "model.safetensors"
    data = bytearray(path.read_bytes())
    place = len(data) // 2
    data[place : place + 4] = b"\0\0\0\x3f"
    path.write_bytes(data)
    with pytest.raises(CodecctlError, match="checksum differs"):
        Codec.from_pretrained(tmp_path / "folder", "cpu")
