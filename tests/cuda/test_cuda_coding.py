"""Coding on a card: its kernels, codes and streams are those of the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

import codecctl
from codecctl.inference.load import Codec
from codecctl.model import codec as model
from codecctl.model.causal import StreamState
from codecctl.model.snake import Snake
from tests.conftest import lively
from tests.cuda.card import CARD, Record, config_of

pytestmark = pytest.mark.cuda

STARTER = Path(codecctl.__file__).parent / "assets" / "starter.safetensors"


@pytest.fixture
def _without_tf32() -> Iterator[None]:
    """Matrix products and convolutions in full float32."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.set_float32_matmul_precision(before[0])
    torch.backends.cudnn.allow_tf32 = before[1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_fused_snake_is_the_formula(record: Record, dtype: torch.dtype) -> None:
    """x + sin(alpha x)^2 / alpha and its gradients, computed in float64 from the same inputs."""
    from codecctl.train.snake_kernels import use_snake_kernels  # triton is there with CUDA only

    use_snake_kernels()
    snake = Snake(64).to(CARD)
    with torch.no_grad():
        snake.alpha.uniform_(0.1, 3)
    x = torch.randn(4, 64, 3001, device=CARD).to(dtype).requires_grad_()
    gradient = torch.randn(4, 64, 3001, device=CARD).to(dtype)
    exact_x, alpha = (t.detach().double().requires_grad_() for t in (x, snake.alpha))
    exact = exact_x + (alpha * exact_x).sin().square() / (alpha + 1e-9)
    exact.backward(gradient.double())
    found = snake(x)
    found.backward(gradient)
    assert (found.dtype, x.grad.dtype, snake.alpha.grad.dtype) == (dtype, dtype, torch.float32)
    pairs = {"value": (found, exact), "gradient": (x.grad, exact_x.grad), "alpha's": (snake.alpha.grad, alpha.grad)}
    errors = {name: float((a.double() - b).abs().max() / b.abs().max()) for name, (a, b) in pairs.items()}
    record(", ".join(f"{name} within {error:.1e} of the largest" for name, error in errors.items()))
    rounding = 4 * torch.finfo(dtype).eps
    assert errors["value"] < rounding
    assert errors["gradient"] < rounding
    assert errors["alpha's"] < 1e-4  # a float32 sum over 12,000 products


def test_the_quantizer_is_float32_under_autocast(record: Record, crops: Tensor) -> None:
    codec = lively(config_of().model).to(CARD)
    latents = codec.encoder(crops.to(CARD)).detach()
    with torch.autocast(CARD.type, torch.bfloat16):
        inside = codec.quantizer(latents)
    outside = codec.quantizer(latents)
    assert inside.latents.dtype == inside.commitment_loss.dtype == torch.float32
    assert torch.equal(inside.codes, outside.codes)
    record(f"{inside.codes.numel()} codes the same with and without bfloat16 around it")


@torch.inference_mode()
def test_codes_and_sound_are_those_of_the_cpu(record: Record, crops: Tensor) -> None:
    codec = lively(config_of().model)
    codes = codec.encode(crops)
    sound = codec.decode(codes)
    codec.to(CARD)
    found = codec.encode(crops.to(CARD)).cpu()
    by_codebook = [float(share) for share in (found == codes).float().mean(dim=(0, 2))]
    error = float((codec.decode(codes.to(CARD)).cpu() - sound).abs().max())
    shares = ", ".join(f"{share:.2%}" for share in by_codebook)
    record(f"equal codes by codebook {shares}; decoded within {error:.1e}")
    assert by_codebook[0] > 0.95  # TF32 moves latents a little, and a tie falls the other way
    assert error < 1e-2


@pytest.mark.usefixtures("_without_tf32")
@torch.inference_mode()
def test_the_starter_codes_as_on_the_cpu(record: Record, speech: Tensor) -> None:
    here, there = (Codec.load(STARTER, device) for device in ("cpu", CARD.type))
    audio = speech[..., : 100 * here.hop_length]
    codes = here.encode(audio)
    equal = float((there.encode(audio.to(CARD)).cpu() == codes).float().mean())
    error = float((there.decode(codes.to(CARD)).cpu() - here.decode(codes)).abs().max())
    record(f"{equal:.2%} of the codes of two seconds equal, decoded within {error:.1e}")
    assert equal > 0.98
    assert error < 1e-3


@pytest.mark.usefixtures("_without_tf32")
@torch.inference_mode()
def test_a_stream_is_the_whole_signal(record: Record, crops: Tensor) -> None:
    codec: model.Codec = lively(config_of().model).to(CARD)
    audio = crops.to(CARD)
    codes = codec.encode(audio)
    encoder, decoder = StreamState(), StreamState()
    chunks = [codec.encode(chunk, state=encoder) for chunk in audio.split(7 * codec.hop_length, dim=-1)]
    different = int((torch.cat(chunks, dim=-1) != codes).sum())
    pieces = [codec.decode(chunk, state=decoder) for chunk in codes.split(7, dim=-1)]
    error = float((torch.cat(pieces, dim=-1) - codec.decode(codes)).abs().max())
    record(f"{different} of {codes.numel()} codes differ, decoded within {error:.1e}")
    assert different <= 0.01 * codes.numel()  # ties
    assert error < 1e-4
