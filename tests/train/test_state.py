"""The schedule, the optimiser's groups, and randomness as a function of its place."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from codecctl.config.load import parse_config
from codecctl.config.model import ModelConfig
from codecctl.config.schema import Config, TrainConfig
from codecctl.model.codec import Codec
from codecctl.train.setup import make_teacher, start_state
from codecctl.train.state import follow, make_optimizer, schedule, step_generator
from tests.train.tiny import ADVERSARIAL, tiny_config

CPU = torch.device("cpu")
SETTINGS = TrainConfig(n_steps=100, warmup_steps=10, final_rate_share=0.01)


def test_the_schedule_rises_then_falls_to_its_end() -> None:
    rates = [schedule(SETTINGS, step) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == rates[10] == 1 == max(rates)
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[55] == pytest.approx((1 + 0.01) / 2)
    assert rates[100] == pytest.approx(0.01)
    assert schedule(SETTINGS, 1000) == pytest.approx(0.01)


def test_a_schedule_may_have_no_warmup_or_nothing_else() -> None:
    flat = TrainConfig(warmup_steps=0, n_steps=10, final_rate_share=0)
    assert schedule(flat, 0) == 1
    assert schedule(flat, 10) == pytest.approx(0)
    assert 0 < schedule(TrainConfig(warmup_steps=10, n_steps=5), 4) < 1


def test_only_matrices_and_kernels_decay(tiny_codec: Codec) -> None:
    optimizer = make_optimizer(tiny_codec, TrainConfig(weight_decay=0.5), 1e-3)
    decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    names = dict(tiny_codec.named_parameters())
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(decays) == len(names)
    decayed = {name for name, parameter in names.items() if decays[id(parameter)] == 0.5}
    assert all(decays[id(parameter)] in (0, 0.5) for parameter in names.values())
    assert all(names[name].dim() > 1 for name in decayed)
    spared = {name.split(".")[-1] for name in names if name not in decayed}
    assert any("bias" in name for name in spared)
    assert any("scale" in name for name in spared)
    assert any("attention" in name or "weight" in name for name in decayed)
    assert not any(name.endswith(("bias", "_scale", "alpha", "original0")) for name in decayed)


@pytest.mark.slow
def test_the_seed_makes_the_codec_and_leaves_the_world_alone(tiny: ModelConfig) -> None:
    def weights(seed: int) -> torch.Tensor:
        config = Config(model=tiny, train=TrainConfig(seed=seed))
        return torch.nn.utils.parameters_to_vector(start_state(config, CPU).codec.parameters()).detach()

    torch.manual_seed(3)
    first = weights(0)
    drawn = torch.rand(1)
    torch.manual_seed(3)
    assert torch.equal(drawn, torch.rand(1))
    assert torch.equal(first, weights(0))
    assert not torch.equal(first, weights(1))


def test_a_new_state_is_ready_to_train(tiny: ModelConfig) -> None:
    state = start_state(parse_config({"model": tiny.model_dump()}, source="test"), CPU)
    assert state.step == 0
    assert state.codec.training
    assert all(parameter.requires_grad for parameter in state.codec.parameters())
    assert state.best_score == float("inf")


def test_the_average_keeps_what_does_not_change_to_the_sign_of_a_zero(tiny: ModelConfig) -> None:
    """Fingerprints are of bits: frozen codebooks must stay what they are."""
    state = start_state(parse_config({"model": tiny.model_dump()}, source="test"), CPU)
    for codec in (state.codec, state.ema):
        codec.quantizer.codebooks[0].codewords[0] = -0.0
        codec.quantizer.codebooks[0].codewords[1] = 0.0
    follow(state, decay=0.9, skipped=torch.tensor(0.0))
    assert state.ema.quantizer.codebooks[0].codewords[0].signbit().all()
    assert not state.ema.quantizer.codebooks[0].codewords[1].signbit().any()


def test_randomness_follows_from_seed_step_and_purpose() -> None:
    def draw(*place: int) -> float:
        return float(torch.rand(1, generator=step_generator(*place), dtype=torch.float64))

    places = [(seed, step, purpose) for seed in (0, 1, 12345) for step in range(50) for purpose in range(4)]
    values = [draw(*place) for place in places]
    assert values == [draw(*place) for place in places]
    assert len(set(values)) == len(values)


def test_discriminators_start_with_their_epoch_however_many_steps_the_config_has() -> None:
    """A run may be resumed with more steps."""
    config = tiny_config(Path("unused"), *ADVERSARIAL, "train.adversarial.start_epoch=3", "train.n_steps=6")
    assert start_state(config, CPU, steps_per_epoch=7).adversarial_step == 21


def test_the_seed_draws_all_networks() -> None:
    config = tiny_config(Path("unused"), "loss.semantic_weight=1", "train.seed=3")
    with torch.device("meta"):
        teacher = make_teacher(config, load=False)
    heads = [start_state(config, CPU, teacher).semantic_head for _ in range(2)]
    assert all(head is not None for head in heads)
    assert all(torch.equal(a, b) for a, b in zip(*(head.parameters() for head in heads if head), strict=True))
