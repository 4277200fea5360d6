"""Codecs with all parts of the real one, so small that a second of speech takes milliseconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from einops import rearrange
from torch import Tensor, nn

from codecctl.config.model import ModelConfig, QuantizerConfig, StridedConfig, TransformerConfig
from codecctl.config.schema import ValidateConfig
from codecctl.evaluate.rendering import Plan, Renderer
from codecctl.evaluate.utterances import ReferenceUtterance, find_utterances
from codecctl.model.causal import StreamState
from codecctl.model.codec import Codec
from tests.conftest import lively

_TRANSFORMER = TransformerConfig(width=16, n_layers=1, n_heads=2, feedforward_width=16, look_back_frames=50)


@pytest.fixture(scope="session")
def codec() -> Codec:
    """Random weights, hop 320."""
    quantizer = QuantizerConfig(codebook_sizes=(32, 16, 16))
    config = ModelConfig(
        front=StridedConfig(base_channels=2, kernel_size=3, dilations=(1,)),
        transformer=_TRANSFORMER,
        quantizer=quantizer,
    )
    return lively(config)


class _Frames(nn.Module):
    """Samples to vectors of 16 samples."""

    def forward(self, audio: Tensor, state: StreamState | None = None) -> Tensor:
        return rearrange(audio, "b 1 (t d) -> b d t", d=16)


class _Samples(nn.Module):
    """The inverse, delayed by some samples as the filters of a codec may be."""

    def __init__(self, delay: int) -> None:
        super().__init__()
        self.delay = delay
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, latents: Tensor, state: StreamState | None = None) -> Tensor:
        audio = rearrange(latents, "b d t -> b 1 (t d)")
        return nn.functional.pad(audio, (self.delay, 0))[..., : audio.shape[-1]] * self.weight


def waveform_codec(speech_files: list[Path], delay: int = 0) -> Codec:
    """A codec whose codewords are 16 samples of waveform each."""
    quantizer = QuantizerConfig(codebook_sizes=(256, 128, 128))
    made = Codec(
        ModelConfig(front=StridedConfig(strides=(4, 4), base_channels=2), transformer=_TRANSFORMER, quantizer=quantizer)
    )
    made.encoder, made.decoder = _Frames(), _Samples(delay)  # type: ignore[assignment]
    audio = np.concatenate([soundfile.read(path, dtype="float32")[0] for path in speech_files[:4]])
    vectors = torch.from_numpy(audio[: len(audio) // 16 * 16].reshape(-1, 16))[::5]
    made.quantizer.fit(vectors, torch.Generator().manual_seed(0), n_iterations=4)
    return made.eval()


def renderer_of(codec: Codec, config: ValidateConfig, *, against: Codec | None = None, parts: bool = False) -> Renderer:
    return Renderer(codec, Plan.of(codec, config, parts=parts), against)


@pytest.fixture(scope="session")
def speaking(speech_files: list[Path]) -> Codec:
    """A codec whose output is intelligible."""
    return waveform_codec(speech_files)


@pytest.fixture(scope="session")
def late(speech_files: list[Path]) -> Codec:
    """The same with a delay of 37 samples."""
    return waveform_codec(speech_files, delay=37)


@pytest.fixture(scope="session")
def clips(speech_files: list[Path]) -> list[ReferenceUtterance]:
    """All the bundled clips: three languages, two speakers."""
    return find_utterances(next(parent for parent in speech_files[0].parents if (parent / "metadata.tsv").is_file()))
