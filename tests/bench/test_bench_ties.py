"""How often float32 codes depend on where a stream is cut: ties between two codewords, over real speech."""

from __future__ import annotations

from pathlib import Path

import pytest
import soundfile
import torch

from codecctl.config.load import load_config
from codecctl.inference.stream import StreamEncoder
from tests.conftest import lively

pytestmark = pytest.mark.bench


@torch.inference_mode()
def test_ties_are_rare(speech_files: list[Path]) -> None:
    codec = lively(load_config("smoke").model)
    n_codes = n_ties = n_other = n_samples = 0
    for number, path in enumerate(speech_files):
        samples, _ = soundfile.read(path, dtype="float32")
        audio = torch.from_numpy(samples).reshape(1, 1, -1)
        stream, n_frames = StreamEncoder(codec), (1, 2, 5, 7, 50)[number % 5]
        pieces = [stream.push(chunk) for chunk in audio.split(n_frames * codec.hop_length, dim=-1)]
        differs = torch.cat([*pieces, stream.flush()], dim=-1) != codec.encode(audio)  # [1, K, T]
        n_ties += int(differs.any(dim=1).sum())  # the books after a tie code another residual and differ with it
        n_other += int(differs.sum())
        n_codes, n_samples = n_codes + differs.numel(), n_samples + len(samples)
    print(f"{n_samples / 16000 / 60:.1f} min, {n_codes} codes: {n_ties} ties, {n_other} codes differ")
    assert n_ties <= max(1, n_codes / 100_000)
