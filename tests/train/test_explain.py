"""Values and gradients of each loss; none is without a weight."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from codecctl.config.schema import Config
from codecctl.train.explain import Explained, explain
from codecctl.train.setup import start_state
from codecctl.train.step import at_full_weight, train_step
from tests.train.tiny import ADVERSARIAL, tiny_config, tiny_context

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def config(prepared: Path) -> Config:
    return tiny_config(prepared, *ADVERSARIAL, "loss.adversarial_weight=0.5", "train.adversarial.ramp_steps=100")


@pytest.fixture(scope="module")
def explained(config: Config) -> dict[str, Explained]:
    return {loss.name: loss for loss in explain(config, CPU)}


def test_every_weight_is_there_in_full(config: Config, explained: dict[str, Explained]) -> None:
    weights = {name: weight for name, weight in config.loss.weights.items() if weight}
    assert {name: loss.weight for name, loss in explained.items()} == weights
    assert sum(loss.share for loss in explained.values()) == pytest.approx(1)
    assert all(loss.share > 0 for loss in explained.values())


def test_gradients_are_zero_where_a_loss_does_not_depend(explained: dict[str, Explained]) -> None:
    assert explained["commitment"].gradient_at_audio == 0
    assert all(loss.gradient_at_latents > 0 for loss in explained.values())
    assert all(loss.gradient_at_audio > 0 for name, loss in explained.items() if name != "commitment")


def test_the_gradient_of_the_samples_l1_is_known(config: Config, explained: dict[str, Explained]) -> None:
    """|x - y|, mean over n samples: +-1/n each, so a norm of weight / sqrt(n), but where both are silent."""
    n_samples = config.train.batch_size * 3200
    assert explained["waveform"].gradient_at_audio == pytest.approx(n_samples**-0.5, rel=0.01)


def test_what_is_frozen_has_no_gradient(config: Config) -> None:
    frozen = config.model_copy(update={"train": config.train.model_copy(update={"freeze": ("encoder",)})})
    explained = {loss.name: loss for loss in explain(frozen, CPU)}
    assert all(loss.gradient_at_latents == 0 for loss in explained.values())
    assert explained["waveform"].gradient_at_audio > 0


def test_every_loss_of_a_step_has_a_weight(config: Config) -> None:
    state = start_state(config, CPU, steps_per_epoch=0)
    context = tiny_context(state, config)
    result = train_step(at_full_weight(state, config), [0.1 * torch.randn(2, 1, 3200)], context, config)
    assert set(result.losses) - {"discriminator"} == set(result.weights)
