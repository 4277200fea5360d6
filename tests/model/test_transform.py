"""The transform front: before any training it is a transform coder."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from codecctl.config.schema import ModelConfig
from codecctl.model.codec import Codec
from codecctl.model.transform import CompandedTransform


@pytest.fixture
def fresh(tiny: ModelConfig) -> Codec:
    return Codec(tiny.model_copy(update={"front": "transform"})).double()


def test_the_latents_of_a_fresh_codec_hold_the_whole_signal(fresh: Codec, speech: Tensor) -> None:
    audio = speech[..., :12000].double()
    fresh.fit_front(audio)
    latents = fresh.encoder(audio)
    assert latents.shape == (1, fresh.config.latent_width, 1000)
    assert latents.std().item() == pytest.approx(1, abs=0.05)
    torch.testing.assert_close(fresh.decoder(latents), audio, rtol=0, atol=1e-5)


def test_every_part_of_a_fresh_codec_learns(fresh: Codec, speech: Tensor) -> None:
    """The layers that start at zero let the gradient reach all others after the first step."""
    audio = speech[..., :2400].double()
    optimizer = torch.optim.SGD(fresh.parameters(), lr=1e-2)
    for _ in range(2):
        optimizer.zero_grad()
        output = fresh(audio)
        ((output.audio - audio).square().mean() + output.commitment_loss.mean()).backward()
        optimizer.step()
    silent = [name for name, p in fresh.named_parameters() if p.grad is None or not p.grad.any()]
    assert not silent


def test_the_transform_is_orthonormal() -> None:
    transform = CompandedTransform(320, 0.7)
    torch.testing.assert_close(transform.basis @ transform.basis.mT, torch.eye(320), rtol=0, atol=2e-6)
    tone = torch.cos(torch.pi / 320 * (torch.arange(320) + 0.5) * 16)  # 400 Hz at 16 kHz
    assert transform.from_frames(tone.reshape(1, 1, -1)).abs().argmax() == 16
