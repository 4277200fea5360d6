"""Recordings of unequal length go through the model together, and each gets the codes that it gets alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from codecctl.audio.files import read_audio
from codecctl.codes.batches import BatchEncoder
from codecctl.codes.sources import read_items
from codecctl.data.prepare.items import AudioItem
from codecctl.inference.load import Codec
from tests.conftest import CLIPS, write_audio


@pytest.fixture(scope="module")
def beginnings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first quarter of each clip."""
    folder = tmp_path_factory.mktemp("beginnings")
    for number, path in enumerate(sorted(CLIPS.rglob("*.flac"))):
        audio, sample_rate = read_audio(path)
        write_audio(folder / f"{number:02}.flac", audio[:, : audio.shape[1] // 4], sample_rate)
    return folder


def encode_together(codec: Any, folder: Path) -> tuple[list[AudioItem], list[np.ndarray], list[int]]:
    """The items, their codes, and how many went through the model in each call."""
    items, sizes = read_items(folder, "clips", note=lambda line: None), list[int]()
    whole = codec.encode
    codec.encode = lambda audio, **options: (sizes.append(len(audio)), whole(audio, **options))[1]
    try:
        encoded = sorted(BatchEncoder(codec).encode(folder, items), key=lambda each: each.number)
    finally:
        del codec.encode
    assert [each.number for each in encoded] == list(range(len(items)))
    return items, [each.codes for each in encoded if each.codes is not None], sizes


@torch.inference_mode()
def assert_as_alone(codec: Any, folder: Path) -> list[int]:
    items, together, sizes = encode_together(codec, folder)
    assert len(items) == len(together)
    for item, codes in zip(items, together, strict=True):
        audio, _ = read_audio(folder / item.place)
        alone = codec.encode(torch.from_numpy(audio)[None].double())[0]
        assert np.array_equal(codes, alone.numpy()), item.place
    return sizes


def test_speech_gets_the_codes_that_it_gets_alone(tiny_codec: Any, beginnings: Path) -> None:
    """Each front, in float64, bit for bit."""
    sizes = assert_as_alone(tiny_codec.double(), beginnings)
    assert sum(sizes) == 12
    assert max(sizes) > 3


@pytest.mark.slow
def test_speech_gets_the_codes_of_the_starter_that_it_gets_alone(beginnings: Path) -> None:
    assert_as_alone(Codec.load("starter", "cpu").double(), beginnings)


def test_channel_gets_the_codes_of_a_file_of_its_own(tiny_codec: Any, beginnings: Path, tmp_path: Path) -> None:
    speech = [read_audio(path) for path in sorted(beginnings.iterdir())[:2]]
    n_samples, (_, sample_rate) = min(audio.shape[1] for audio, _ in speech), speech[0]
    channels = [audio[:, :n_samples] for audio, _ in speech]
    write_audio(tmp_path / "call.flac", np.concatenate(channels), sample_rate)
    for number, channel in enumerate(channels):
        write_audio(tmp_path / f"{number}.flac", channel, sample_rate)
    lines = [{"path": "call.flac", "channel": number} for number in (0, 1)] + [{"path": f"{n}.flac"} for n in (0, 1)]
    (tmp_path / "list.jsonl").write_text("\n".join(map(json.dumps, lines)))
    items = read_items(tmp_path / "list.jsonl", "list", note=print)
    encoded = {
        items[each.number].place: each.codes for each in BatchEncoder(tiny_codec.double()).encode(tmp_path, items)
    }
    assert not np.array_equal(encoded["0.flac"], encoded["1.flac"])
    for number in (0, 1):
        assert np.array_equal(encoded[f"call.flac-ch{number}"], encoded[f"{number}.flac"])


@pytest.mark.slow
def test_a_recording_longer_than_a_batch_gets_the_codes_that_it_gets_alone(tiny_codec: Any, tmp_path: Path) -> None:
    clips = np.concatenate([read_audio(path)[0] for path in sorted(CLIPS.rglob("*.flac"))], axis=1)
    write_audio(tmp_path / "long.flac", clips[:, :490_001], 16_000)  # 30.6 s
    write_audio(tmp_path / "short.flac", clips[:, :5000], 16_000)
    assert assert_as_alone(tiny_codec.double(), tmp_path)[-1] == 1


def test_a_recording_without_audio_is_named_and_the_others_are_encoded(codec: Codec, tmp_path: Path) -> None:
    write_audio(tmp_path / "a.wav", np.full((1, 1000), 0.1, np.float32), 16_000)
    (tmp_path / "b.wav").write_bytes(b"RIFF")
    items = read_items(tmp_path, "set", note=lambda line: None)
    first, second = sorted(BatchEncoder(codec).encode(tmp_path, items), key=lambda each: each.number)
    assert first.codes is not None
    assert first.codes.shape == (3, 25)
    assert second.codes is None
    assert second.failure
    assert "b.wav" not in second.failure
