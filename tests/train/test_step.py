"""One update: what it draws, what it changes, and that it learns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from codecctl.config.load import load_config
from codecctl.config.schema import Config
from codecctl.evaluate.codebooks import CodebookCounter
from codecctl.train import step
from codecctl.train.discriminators import Discriminators
from codecctl.train.setup import start_state
from codecctl.train.state import TrainState
from codecctl.train.step import (
    StepContext,
    adversarial_losses,
    at_full_weight,
    draw_n_quantizers,
    draw_stretch,
    gradients,
    plan_step,
    train_step,
)
from tests.train.tiny import ADVERSARIAL, tiny_config, tiny_context

CPU = torch.device("cpu")
ALONE = Fabric(accelerator="cpu", devices=1)


@pytest.fixture
def config() -> Config:
    return tiny_config(Path("unused"), "train.n_steps=100", "train.learning_rate=1e-2", "train.warmup_steps=0")


@pytest.fixture
def state(config: Config) -> TrainState:
    return start_state(config, CPU)


@pytest.fixture
def context(state: TrainState, config: Config) -> StepContext:
    return tiny_context(state, config)


@pytest.fixture
def crops(speech: Tensor) -> Tensor:
    """[2, 1, L]: speech."""
    return speech[..., 16000 : 16000 + 2 * 3200].reshape(2, 1, 3200)


def shares(probability: float, n_steps: int = 500, batch_size: int = 16) -> Tensor:
    """[K]: how often 1, 2, ... K books were drawn."""
    changes = [f"model.quantizer.quantizer_dropout={probability}"]
    config = load_config("smoke", overrides=changes)
    drawn = torch.cat([draw_n_quantizers(config, step, batch_size, ALONE) for step in range(n_steps)])
    assert drawn.min() >= 1
    return torch.bincount(drawn - 1, minlength=config.model.n_codebooks) / len(drawn)


@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_quantizer_dropout_is_the_share_of_crops_with_fewer_codebooks(probability: float) -> None:
    expected = torch.full((8,), probability / 8)
    expected[7] += 1 - probability
    assert shares(probability).numpy() == pytest.approx(expected.numpy(), abs=0.015)  # four deviations of 8000 draws


def test_draws_follow_from_the_step() -> None:
    config = load_config("smoke")
    first, again = draw_n_quantizers(config, 5, 16, ALONE), draw_n_quantizers(config, 5, 16, ALONE)
    assert torch.equal(first, again)
    assert any(not torch.equal(first, draw_n_quantizers(config, step, 16, ALONE)) for step in range(6, 9))


def test_discriminators_get_heard_seconds_of_each_crop(crops: Tensor) -> None:
    heard: list[tuple[int, ...]] = []
    config = tiny_config(Path("unused"), *ADVERSARIAL, "train.adversarial.heard_seconds=0.05")
    state = start_state(config, CPU, steps_per_epoch=1)
    context = tiny_context(state, config)
    assert state.discriminators is not None
    state.discriminators.register_forward_pre_hook(lambda _, inputs: heard.append(tuple(inputs[0].shape)))
    train_step(state, [crops], context, config)
    assert heard == [(4, 1, 800), (2, 1, 800)]  # original and decoded crops to learn, the decoded ones to judge
    starts = {draw_stretch(config, step, 3200).start for step in range(400)}
    assert min(starts) < 50
    assert 2350 < max(starts) <= 2400


def gradients_of(module: torch.nn.Module) -> list[Tensor]:
    return [parameter.grad.clone() for parameter in module.parameters() if parameter.grad is not None]


@pytest.mark.slow
@pytest.mark.parametrize("accumulate", [1, 2])
def test_features_of_real_audio_computed_once_give_the_same_gradients_bit_for_bit(
    crops: Tensor, accumulate: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def anew(audio: Tensor, decoded: Tensor, discriminators: Discriminators, fabric: Fabric, *_: Any) -> Any:
        """The judgements of the same batch once more."""
        with torch.no_grad():
            judged = discriminators(torch.cat([audio, decoded]))
        return adversarial_losses(audio, decoded, discriminators, fabric, [both.halves()[0] for both in judged])

    config = tiny_config(Path("unused"), *ADVERSARIAL)
    found = []
    for is_shared in (True, False):
        if not is_shared:
            monkeypatch.setattr(step, "adversarial_losses", anew)
        state = start_state(config, CPU, steps_per_epoch=1)
        batches, context = list(crops.chunk(accumulate)), tiny_context(state, config)
        gradients(plan_step(at_full_weight(state, config), batches, context, config), batches, context, config)
        assert state.discriminators is not None
        found.append(gradients_of(state.generator) + gradients_of(state.discriminators))
    assert all(map(torch.equal, *found))
    assert len(found[0]) == len(found[1]) > 50


def test_teach_every_two_updates_discriminators_every_second_step(crops: Tensor) -> None:
    config = tiny_config(Path("unused"), *ADVERSARIAL, "train.adversarial.teach_every=2")
    state = start_state(config, CPU, steps_per_epoch=1)
    context = tiny_context(state, config)
    assert state.discriminators is not None
    moved = []
    for _ in range(4):
        before = torch.nn.utils.parameters_to_vector(state.discriminators.parameters())
        result = train_step(state, [crops], context, config)
        moved.append(not torch.equal(before, torch.nn.utils.parameters_to_vector(state.discriminators.parameters())))
        assert ("discriminator" in result.losses) == moved[-1] == (result.discriminator_gradient_norm is not None)
        assert result.losses["feature"] > 0
    assert moved == [True, False, True, False]


class HostReads(TorchDispatchMode):
    """Fails where the host would wait for a device: for a value, a shape that values decide, or a copy of them."""

    WAITING = ("_local_scalar_dense", "is_nonzero", "nonzero", "masked_select", "equal", "_unique2", "bincount")

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function._overloadpacket.__name__
        assert name not in self.WAITING, name
        if name in ("index", "index_put_", "index_put"):
            assert not any(index is not None and index.dtype == torch.bool for index in args[1]), "a mask as an index"
        return function(*args, **(kwargs or {}))


FRONT = "{kind: transform, hop_length: 32, low_coefficients: 5, high_bands: 3, first_band: 5}"
TRANSFORM = (f"model.front={FRONT}", "model.quantizer.gain=true")
EVERY_LOSS = tuple(f"loss.{n}_weight=1" for n in ("average_spectrum", "complex", "repetition"))


@pytest.mark.slow
@pytest.mark.parametrize("changes", [("model.quantizer.beam_width=4",), TRANSFORM + EVERY_LOSS])
def test_ten_steps_read_no_value_on_the_host(crops: Tensor, changes: tuple[str, ...]) -> None:
    config = tiny_config(Path("unused"), *ADVERSARIAL, "train.adversarial.heard_seconds=0.05", *changes)
    state = start_state(config, CPU, steps_per_epoch=1)
    context, counter = tiny_context(state, config), CodebookCounter(config.model.quantizer.codebook_sizes)
    with HostReads():
        for number in range(10):
            batch = crops * float("nan") if number == 5 else crops
            result = train_step(state, [batch], context, config)
            counter.update(result.codes)
    assert result.losses.keys() >= {"discriminator", "adversarial", "feature"}
    assert counter.stats()[0].n_codes == 10 * result.codes[:, 0].numel()


def test_host_reads_detects_a_read() -> None:
    with HostReads(), pytest.raises(AssertionError, match="_local_scalar_dense"):
        float(torch.ones(()) + 1)
    with HostReads(), pytest.raises(AssertionError, match="mask"):
        torch.ones(3)[torch.ones(3, dtype=torch.bool)]


def test_a_skipped_step_leaves_no_trace(crops: Tensor) -> None:
    changes = ("model.quantizer.gain=true", "model.quantizer.ema_decay=0.5", "train.adversarial.teach_every=1")
    config = tiny_config(Path("unused"), *ADVERSARIAL, *changes)
    state = start_state(config, CPU, steps_per_epoch=1)
    context = tiny_context(state, config)
    train_step(state, [crops], context, config)

    def all_that_changes() -> list[Tensor]:
        assert state.discriminators is not None
        assert state.discriminator_optimizer is not None
        parts = (state.generator, state.ema, state.discriminators, state.optimizer, state.discriminator_optimizer)
        return [leaf.clone() for leaf in tree_leaves([p.state_dict() for p in parts]) if isinstance(leaf, Tensor)]

    before = all_that_changes()
    assert train_step(state, [crops * float("inf")], context, config).skipped == 1
    after = all_that_changes()
    assert all(map(torch.equal, before, after))
    assert train_step(state, [crops], context, config).skipped == 0
    assert sum(not torch.equal(a, b) for a, b in zip(before, all_that_changes(), strict=True)) > 0.9 * len(before)


@pytest.mark.parametrize("seconds", ["null", "1.0"])
def test_discriminators_get_short_crops_whole(seconds: str) -> None:
    config = load_config("smoke", overrides=[f"train.adversarial.heard_seconds={seconds}"])
    assert all(draw_stretch(config, step, 3200) == slice(0, 3200) for step in range(9))


def test_step_result(state: TrainState, crops: Tensor, context: StepContext, config: Config) -> None:
    before = torch.nn.utils.parameters_to_vector(state.codec.parameters()).detach().clone()
    result = train_step(state, [crops], context, config)
    after = torch.nn.utils.parameters_to_vector(state.codec.parameters()).detach()
    assert state.step == 1
    assert result.learning_rate == config.train.learning_rate == state.optimizer.param_groups[0]["lr"]
    weighted = sum(result.weights[name] * float(value) for name, value in result.losses.items())
    assert float(result.total) == pytest.approx(weighted, rel=1e-5)
    assert result.codes.shape == (2, config.model.n_codebooks, 100)
    assert not any(value.requires_grad for value in (result.total, *result.losses.values()))
    assert result.gradient_norm > 0
    assert not torch.equal(before, after)


@pytest.mark.slow
def test_the_same_step_twice_is_the_same_step(crops: Tensor, config: Config) -> None:
    states = [start_state(config, CPU) for _ in range(2)]
    for state in states:
        context = tiny_context(state, config)
        for _ in range(3):
            train_step(state, [crops], context, config)
    first, second = (state.codec.state_dict() for state in states)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.slow
def test_repeated_steps_on_a_crop_lower_its_loss(
    state: TrainState, crops: Tensor, context: StepContext, config: Config
) -> None:
    totals = [float(train_step(state, [crops], context, config).total) for _ in range(60)]
    assert sum(totals[-5:]) < 0.8 * sum(totals[:5])


@pytest.mark.parametrize("level", [0.0, 1.0])
def test_silence_and_full_scale_leave_weights_finite(
    state: TrainState, context: StepContext, config: Config, level: float
) -> None:
    for _ in range(3):
        result = train_step(state, [torch.full((2, 1, 3200), level)], context, config)
        assert result.total.isfinite()
    assert all(value.isfinite().all() for value in state.codec.state_dict().values())


def test_bfloat16_keeps_weights_and_codebooks_in_float32(state: TrainState, crops: Tensor, config: Config) -> None:
    half = config.model_copy(update={"train": config.train.model_copy(update={"precision": "bfloat16"})})
    result = train_step(state, [crops], tiny_context(state, half), half)
    assert result.total.isfinite()
    assert {value.dtype for value in state.codec.state_dict().values()} == {torch.float32}


@pytest.mark.parametrize("teach_every", [1, 3])
def test_full_weight_is_that_of_a_step_that_updates_the_discriminators(teach_every: int) -> None:
    """Or memory would be planned without that update."""
    late = ("train.adversarial.warmup_steps=2", f"train.adversarial.teach_every={teach_every}")
    config = tiny_config(Path("unused"), *ADVERSARIAL, *late)
    state = start_state(config, CPU, steps_per_epoch=100)
    plan = plan_step(at_full_weight(state, config), [torch.zeros(2, 1, 3200)], tiny_context(state, config), config)
    assert plan.adversary is not None
    assert plan.updates_discriminators
    assert plan.weights["adversarial"] == config.loss.adversarial_weight
