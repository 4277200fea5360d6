"""The adversaries: which gradients flow, what the losses are worth, and that nothing in a run can upset them."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from codecctl.config.schema import AdversarialConfig
from codecctl.train.discriminators import (
    Discriminators,
    Judgement,
    adversarial_loss,
    discriminator_loss,
    feature_loss,
    frozen,
)

SMALL = AdversarialConfig(channels=2, periods=(2, 5), stft_windows=(64, 256))


@pytest.fixture
def judges() -> Discriminators:
    torch.manual_seed(0)
    return Discriminators(SMALL)


@pytest.fixture
def real(speech: Tensor) -> Tensor:
    return speech[..., 8000:12000].repeat(2, 1, 1) * torch.tensor([1.0, 0.3])[:, None, None]


def gradients(module: torch.nn.Module) -> list[Tensor | None]:
    return [parameter.grad for parameter in module.parameters()]


def test_in_the_codecs_pass_the_audio_has_the_only_gradient(judges: Discriminators, real: Tensor) -> None:
    decoded = (real + 0.01 * torch.randn_like(real)).requires_grad_()
    judges.all[0].last.bias.requires_grad_(False)
    with torch.no_grad():
        target = judges(real)
    with frozen(judges):
        judged = judges(decoded)
    (adversarial_loss(judged) + feature_loss(target, judged)).backward()
    assert all(gradient is None for gradient in gradients(judges))
    assert decoded.grad is not None
    assert decoded.grad.abs().amax(dim=-1).gt(0).all()
    required = [parameter.requires_grad for parameter in judges.parameters()]
    assert required.count(False) == 1, "what was frozen before stays so, all else comes back"


def test_in_their_own_pass_every_weight_has_a_gradient_and_the_codec_none(judges: Discriminators, real: Tensor) -> None:
    decoded = (0.5 * real).requires_grad_()
    discriminator_loss(judges(real), judges(decoded.detach())).backward()
    assert decoded.grad is None
    assert all(gradient is not None and gradient.abs().sum() > 0 for gradient in gradients(judges))


def test_each_loss_is_what_its_equation_says(judges: Discriminators, real: Tensor) -> None:
    a, b = judges(real), judges(real.flip(-1))
    expected = sum(((1 - x.score) ** 2).mean() + (y.score**2).mean() for x, y in zip(a, b, strict=True))
    torch.testing.assert_close(discriminator_loss(a, b), expected)
    torch.testing.assert_close(adversarial_loss(b), sum(((1 - y.score) ** 2).mean() for y in b))
    assert feature_loss(a, a) == 0
    target = [Judgement(x.score, [feature.detach().requires_grad_() for feature in x.features]) for x in a]
    feature_loss(target, b).backward()
    assert all(feature.grad is None for x in target for feature in x.features), "real speech is not to be moved"
    doubled = [Judgement(x.score, [2 * feature for feature in x.features]) for x in a]
    torch.testing.assert_close(feature_loss(a, doubled), torch.tensor(float(len(a))))  # each map is off by its own size


def test_a_batch_weighs_what_its_halves_do(judges: Discriminators, real: Tensor) -> None:
    decoded = real.flip(-1)
    whole, decoded_whole = judges(real), judges(decoded)
    halves = [(judges(a[None]), judges(b[None])) for a, b in zip(real, decoded, strict=True)]
    for loss in (discriminator_loss, feature_loss):
        torch.testing.assert_close(loss(whole, decoded_whole), sum(loss(a, b) for a, b in halves) / 2)
    torch.testing.assert_close(adversarial_loss(whole), sum(adversarial_loss(a) for a, _ in halves) / 2)


@pytest.mark.slow
def test_they_learn_to_tell_decoded_from_real(judges: Discriminators, real: Tensor) -> None:
    decoded = real + 0.05 * real.std() * torch.randn_like(real)
    optimizer = torch.optim.AdamW(judges.parameters(), lr=1e-2, betas=(0.8, 0.99))
    losses = []
    for _ in range(20):
        loss = discriminator_loss(judges(real), judges(decoded))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.slow
def test_a_codec_can_follow_their_gradient(judges: Discriminators, real: Tensor) -> None:
    """Down the feature loss alone, noise turns into something nearer to the features of speech."""
    decoded = (real.std() * torch.randn_like(real)).requires_grad_()
    target = [Judgement(judgement.score, [f.detach() for f in judgement.features]) for judgement in judges(real)]
    optimizer = torch.optim.Adam([decoded], lr=1e-2)
    before = feature_loss(target, judges(decoded)).item()
    for _ in range(20):
        optimizer.zero_grad()
        with frozen(judges):
            feature_loss(target, judges(decoded)).backward()
        optimizer.step()
    assert feature_loss(target, judges(decoded)).item() < 0.8 * before


def test_silence_has_finite_and_moderate_gradients(judges: Discriminators) -> None:
    silence = torch.zeros(2, 1, 2000, requires_grad=True)
    target, judged = judges(torch.zeros(2, 1, 2000)), judges(silence)
    (adversarial_loss(judged) + feature_loss(target, judged) + discriminator_loss(target, judged)).backward()
    assert silence.grad is not None
    assert silence.grad.isfinite().all()
    assert silence.grad.abs().max() < 10
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients(judges))


def test_level_is_nothing_to_them_until_it_is_near_silence(judges: Discriminators, real: Tensor) -> None:
    loud, soft = judges(real), judges(0.1 * real / real.std() * 0.2)
    for a, b in zip(loud, soft, strict=True):
        torch.testing.assert_close(a.score[:1], b.score[:1], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("n_samples", [1, 4, 63, 1001, 1600])
def test_any_length_is_judged(judges: Discriminators, n_samples: int) -> None:
    for judgement in judges(torch.randn(2, 1, n_samples)):
        assert judgement.score.shape[:2] == (2, 1)
        assert judgement.score.isfinite().all()


def test_bands_share_out_every_frequency_once(judges: Discriminators) -> None:
    bands = judges.all[-1].bands
    covered = [frequency for low, high in bands for frequency in range(low, high)]
    assert covered == list(range(256 // 2 + 1))
    assert len(bands) == 5


def test_bfloat16_changes_little(real: Tensor) -> None:
    torch.manual_seed(0)
    # A window of 64 leaves the lowest band one column, of which oneDNN makes NaN where the processor has AMX.
    judges = Discriminators(SMALL.model_copy(update={"stft_windows": (256, 512)}))
    exact = judges(real)
    with torch.autocast("cpu", torch.bfloat16):
        rough = judges(real)
        loss = discriminator_loss(exact, rough)
    assert loss.dtype == torch.float32
    for a, b in zip(exact, rough, strict=True):
        assert b.score.dtype == torch.bfloat16
        torch.testing.assert_close(a.score, b.score.float(), rtol=0.1, atol=0.02)


@pytest.mark.slow
def test_the_production_size_can_be_planned_without_a_card() -> None:
    with FakeTensorMode(), torch.device("cuda"):
        judges = Discriminators(AdversarialConfig())
        judged = judges(torch.randn(2, 1, 16000))
        assert adversarial_loss(judged).device.type == "cuda"
    assert sum(parameter.numel() for parameter in judges.parameters()) == 42_519_760
    assert [parameter.device.type for parameter in judges.parameters()].count("cuda") == len(list(judges.parameters()))


@pytest.mark.slow
def test_they_compile_as_one_graph(judges: Discriminators, real: Tensor) -> None:
    judges.all = judges.all[1:3]  # one of each kind
    compiled = torch.compile(judges, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(adversarial_loss(compiled(real)), adversarial_loss(judges(real)))


def test_one_discriminator_is_the_least() -> None:
    with pytest.raises(ValidationError, match="both empty"):
        AdversarialConfig(periods=(), stft_windows=())
