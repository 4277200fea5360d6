"""What a person with a card runs first: `pytest -m cuda -n 0`. Each check says at the end what it found."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from codecctl.config import Config
from codecctl.inference.load import find_device, read_checkpoint
from codecctl.train.device import make_fabric, pinned, sent
from codecctl.train.loop import Watcher, resume, train
from codecctl.train.state import start_state
from codecctl.train.step import StepResult, assemble, train_step
from tests.conftest import lively
from tests.train.tiny import ADVERSARIAL, tiny_config, tiny_yaml

pytestmark = pytest.mark.cuda

CARD, CPU = torch.device("cuda"), torch.device("cpu")
Say = Callable[[str], None]
# Wide enough for the kernels that the production model uses; long enough to fill them.
MODEL = (
    "model.strides=[4,8,10]", "model.base_channels=16", "model.kernel_size=7", "model.dilations=[1,3]",
    "model.transformer={width: 128, n_layers: 2, n_heads: 4, feedforward_width: 256, look_back_frames: 50}",
    "model.quantizer.codebook_sizes=[256,128,128]", "train.batch_size=4", "data.crop_seconds=1",
)  # fmt: skip


@pytest.fixture
def crops(speech: Tensor) -> Tensor:
    """[4, 1, L]: a second of speech each."""
    return speech[..., : 4 * 16000].reshape(4, 1, 16000)


def steps(config: Config, device: torch.device, crops: Tensor, n_steps: int = 3) -> list[StepResult]:
    """The first steps of a training on the same crops."""
    fabric = make_fabric(config, device)
    state = start_state(config, fabric.device, steps_per_epoch=100)
    machine = assemble(state, config, fabric, None)
    results = [train_step(state, [sent(crops, fabric.device)], machine, config) for _ in range(n_steps)]
    assert {value.dtype for value in state.codec.state_dict().values()} == {torch.float32}
    return results


def furthest(first: list[StepResult], second: list[StepResult]) -> float:
    """The largest relative difference of any loss in any step."""
    pairs = [(a.losses[name], b.losses[name]) for a, b in zip(first, second, strict=True) for name in a.losses]
    assert all(bool(x.isfinite()) and bool(y.isfinite()) for x, y in pairs)
    return max(abs(float(x) - float(y)) / max(1e-6, abs(float(x))) for x, y in pairs)


def config_of(*changes: str) -> Config:
    return tiny_config(Path("unused"), *ADVERSARIAL, *MODEL, *changes)


def test_the_card_is_found(said: Say) -> None:
    assert find_device("auto").type == CARD.type
    found = torch.cuda.get_device_properties(0)
    said(
        f"{torch.cuda.device_count()} x {found.name}, {found.total_memory / 1e9:.0f} GB, compute "
        f"{found.major}.{found.minor}, torch {torch.__version__}, CUDA {torch.version.cuda}, "
        f"bfloat16 {torch.cuda.is_bf16_supported()}"
    )


def test_its_settings_are_on(said: Say, crops: Tensor) -> None:
    config = config_of()
    fabric = make_fabric(config, CARD)
    assert torch.get_float32_matmul_precision() == "high"
    assert torch.backends.cudnn.benchmark
    state = start_state(config, fabric.device, steps_per_epoch=100)
    assert state.discriminator_optimizer is not None
    assert all(o.defaults["fused"] for o in (state.optimizer, state.discriminator_optimizer))
    waiting = pinned(crops, CARD)
    assert waiting.is_pinned()
    assert torch.equal(sent(waiting, fabric.device).cpu(), crops)
    said("TF32, cuDNN's search, fused AdamW, pinned memory, copies beside the computation")


def test_a_step_is_that_of_the_cpu(said: Say, crops: Tensor) -> None:
    far = furthest(steps(config_of(), CPU, crops), steps(config_of(), CARD, crops))
    said(f"three float32 steps, losses within {far:.2%} of the CPU's")
    assert far < 0.05


def test_a_bfloat16_step_is_near_the_float32_one(said: Say, crops: Tensor) -> None:
    half = config_of("train.precision=bfloat16")
    far = furthest(steps(config_of(), CARD, crops), steps(half, CARD, crops))
    said(f"three steps, losses within {far:.2%} of float32, weights and books float32")
    assert far < 0.15


def test_the_quantizer_is_float32_under_autocast(said: Say, crops: Tensor) -> None:
    codec = lively(config_of().model).to(CARD)
    latents = codec.encoder(crops.to(CARD)).detach()
    with torch.autocast(CARD.type, torch.bfloat16):
        inside = codec.quantizer(latents)
    outside = codec.quantizer(latents)
    assert inside.latents.dtype == inside.commitment_loss.dtype == torch.float32
    assert torch.equal(inside.codes, outside.codes)
    said(f"{inside.codes.numel()} codes the same with and without bfloat16 around it")


@torch.inference_mode()
def test_codes_are_those_of_the_cpu(said: Say, crops: Tensor) -> None:
    codec = lively(config_of().model)
    codes, sound = codec.encode(crops), codec.decode(codec.encode(crops))
    codec.to(CARD)
    theirs = codec.encode(crops.to(CARD)).cpu()
    by_book = [float(share) for share in (theirs == codes).float().mean(dim=(0, 2))]
    error = float((codec.decode(codes.to(CARD)).cpu() - sound).abs().max())
    said(f"equal codes per book {', '.join(f'{share:.2%}' for share in by_book)}; decoded within {error:.1e}")
    assert by_book[0] > 0.95  # TF32 moves latents a little, and a tie falls the other way
    assert error < 1e-2


def test_a_compiled_step_is_near_the_plain_one(said: Say, crops: Tensor) -> None:
    compiled = config_of("train.compile=true")
    far = furthest(steps(config_of(), CARD, crops), steps(compiled, CARD, crops))
    said(f"torch.compile: three steps, losses within {far:.2%}")
    assert far < 0.05


def test_a_run_goes_on_elsewhere(said: Say, prepared: Path, tmp_path: Path) -> None:
    config = tiny_config(prepared, *ADVERSARIAL, *MODEL, "train.n_steps=6")
    run = train(config, tmp_path / "run", CARD, Watcher(), stop_step=2)
    resume(run.folder, CPU, Watcher(), stop_step=4)
    resume(run.folder, CARD, Watcher())
    events = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    losses = [event["total_loss"] for event in events if event["kind"] == "train"]
    assert len(losses) == 6
    assert read_checkpoint(run.last)["step"] == 6
    said("two steps on the card, two on the CPU, two on the card: loss " + " ".join(f"{x:.2f}" for x in losses))


def test_two_cards_keep_one_codec(said: Say, prepared: Path, tmp_path: Path) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("one card only")
    config, run = (
        tiny_yaml(tmp_path, prepared, *ADVERSARIAL, *MODEL, "train.checkpoint_every_steps=2"),
        tmp_path / "run",
    )
    command = [sys.executable, "-m", "codecctl.cli.main", "train", "--config", config, "--run", run, "--devices", "2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert read_checkpoint(run / "last.pt")["n_ranks"] == 2
    said("six steps over NCCL, codebooks equal at each of three saves")
