"""The transform front: before any training it is a transform coder."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from codecctl.config.model import ModelConfig
from codecctl.model.causal import StreamState
from codecctl.model.codec import Codec
from codecctl.model.cosine import CosineTransform, Noise
from tests.conftest import TINY_TRANSFORM


@pytest.fixture
def fresh(tiny: ModelConfig) -> Codec:
    return Codec(tiny.model_copy(update={"front": TINY_TRANSFORM})).double()


def test_a_fresh_codec_keeps_the_low_coefficients_and_the_levels_above(fresh: Codec, speech: Tensor) -> None:
    audio = speech[..., :12000].double()
    fresh.fit_front(audio)
    latents = fresh.encoder(audio)
    assert latents.shape == (1, fresh.config.latent_width, 1000)
    assert latents[:, : TINY_TRANSFORM.low_coefficients].std().item() == pytest.approx(1, abs=0.05)
    before, after = (CosineTransform(12)(x.reshape(1, -1, 12)) for x in (audio, fresh.decoder(latents)))
    n = TINY_TRANSFORM.low_coefficients
    torch.testing.assert_close(after[..., :n], before[..., :n], rtol=0, atol=1e-4)
    decibels = 10 * (after[..., n:].square().mean() / before[..., n:].square().mean()).log10()
    assert -9 < decibels < 3  # noise, a little softer than what it stands for


def test_bands_among_the_low_coefficients_fill_what_these_leave_out(tiny: ModelConfig, speech: Tensor) -> None:
    front = TINY_TRANSFORM.model_copy(update={"low_coefficients": 7})
    codec, audio = Codec(tiny.model_copy(update={"front": front})).double(), speech[..., :12000].double()
    codec.fit_front(audio)
    latents = codec.encoder(audio)
    transform = CosineTransform(12)
    before = transform(audio.reshape(1, -1, 12))
    power, errors = before[..., 5:7].square().mean(), []
    for share in (1, 0):  # of the coefficients that the bands cover, too
        latents[:, 5:7] *= share
        after = transform(codec.decoder(latents).reshape(1, -1, 12))
        torch.testing.assert_close(after[..., :5], before[..., :5], rtol=0, atol=1e-4)
        assert -9 < 10 * (after[..., 5:7].square().mean() / power).log10() < 3
        errors.append((after[..., 5:7] - before[..., 5:7]).square().mean())
    assert errors[0] < 0.7 * power < errors[1]


def test_predicted_levels_are_restored_and_vary_less(tiny: ModelConfig, speech: Tensor) -> None:
    audio, decoded, variances = speech[..., :12000].double(), [], []
    for share in (0.0, 0.4):
        torch.manual_seed(0)
        front = TINY_TRANSFORM.model_copy(update={"level_prediction": share})
        codec = Codec(tiny.model_copy(update={"front": front})).double()
        codec.fit_front(audio)
        latents = codec.encoder(audio)
        variances.append(float(latents[:, 5:].detach().var(dim=-1).sum()))
        whole, state = codec.decoder(latents), StreamState()
        parts = [codec.decoder(part, state) for part in latents.split([1, 2, 50, 947], dim=-1)]
        torch.testing.assert_close(torch.cat(parts, dim=-1), whole, rtol=0, atol=1e-9)
        decoded.append(whole)
    assert variances[1] < 0.6 * variances[0]
    torch.testing.assert_close(*decoded, rtol=0, atol=1e-6)


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
    transform = CosineTransform(320)
    basis = transform.basis.double()  # its own rounding, not that of the product, which differs between processors
    torch.testing.assert_close(basis @ basis.mT, torch.eye(320).double(), rtol=0, atol=2e-6)
    tone = torch.cos(torch.pi / 320 * (torch.arange(320) + 0.5) * 16)  # 400 Hz at 16 kHz
    assert transform(tone.reshape(1, 1, -1)).abs().argmax() == 16


def test_the_noise_of_a_stream_is_that_of_the_file() -> None:
    noise, state = Noise(12), StreamState()
    whole = noise(torch.zeros(1, 300, 4))
    parts = [noise(torch.zeros(1, n, 4), state)[0] for n in (1, 126, 1, 172)]
    assert torch.equal(torch.cat(parts), whole)
    assert whole.std().item() == pytest.approx(1, abs=0.05)


def test_no_gradient_makes_the_latents_larger(fresh: Codec, speech: Tensor) -> None:
    """Or the encoder amplifies the low coefficients, and the codebooks code the bands less and less finely."""
    audio, weight = speech[..., :2400].double(), fresh.encoder.network.last.weight
    latents = fresh.encoder(audio)
    torch.testing.assert_close(latents, fresh.eval().encoder(audio), rtol=0, atol=0)
    for part in latents.tensor_split([TINY_TRANSFORM.low_coefficients], dim=1):
        sums = part.square().sum(), part.abs().sum()
        larger, other = (torch.autograd.grad(x, weight, retain_graph=True)[0].abs().max() for x in sums)
        assert larger < 1e-6 * other


def test_both_sides_are_float32_under_autocast(fresh: Codec, speech: Tensor) -> None:
    audio = speech[..., : 40 * fresh.hop_length]
    latents = fresh.encode_latents(audio)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(fresh.encode_latents(audio), latents)
        decoded = fresh.decoder(latents)
    assert torch.equal(decoded, fresh.decoder(latents))
