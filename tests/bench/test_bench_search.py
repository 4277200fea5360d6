"""The cost of a wider beam, and what sorting only promising blocks of codewords saves."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import pytest
import soundfile
import torch
from torch import Tensor

from codecctl.inference.find import find_checkpoint
from codecctl.inference.load import Codec
from codecctl.model import beam

pytestmark = pytest.mark.bench


def by_sorting_all(errors: Tensor, n: int) -> tuple[Tensor, Tensor]:
    smallest, where = errors.flatten(1).topk(min(n, errors[0].numel()), largest=False)
    return smallest, where


@torch.inference_mode()
def test_blocks_against_all(speech_files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """The starter's codebooks and its latents of real speech, one thread, medians of five rounds in turn."""
    codec = Codec.load(find_checkpoint(None), "cpu")
    files = speech_files[:6]
    latents = [codec(torch.from_numpy(soundfile.read(file, dtype="float32")[0])[None, None]).latents for file in files]
    seconds = sum(each.shape[-1] for each in latents) * codec.hop_length / codec.sample_rate
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for beam_width in (1, 6, 16, 24):
            codec.quantizer.config = codec.quantizer.config.model_copy(update={"beam_width": beam_width})
            rounds = [time_round(codec, latents, monkeypatch) for _ in range(5)]
            blocks, everything = (statistics.median(each) / seconds for each in zip(*rounds, strict=True))
            print(f"beam of {beam_width}: {blocks:.4f} of real time, {everything:.4f} by sorting all")
            assert beam_width == 1 or blocks < everything
    finally:
        torch.set_num_threads(threads)


def time_round(codec: Codec, latents: list[Tensor], monkeypatch: pytest.MonkeyPatch) -> tuple[float, float]:
    """Seconds by blocks and by sorting all; their codes are the same."""
    spent, codes = [], []
    for smallest in (beam.smallest, by_sorting_all):
        with monkeypatch.context() as patch:
            patch.setattr(beam, "smallest", smallest)
            start = time.perf_counter()
            codes.append([codec.quantizer.encode(each) for each in latents])
            spent.append(time.perf_counter() - start)
    assert all(torch.equal(*pair) for pair in zip(*codes, strict=True))
    return spent[0], spent[1]
