"""The plan: what it says follows from the config, the data and the card's profile."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from codecctl.config import load_config
from codecctl.train.memory import footprint
from codecctl.train.plan import Plan, describe, make_plan, split_batch
from codecctl.train.preflight import checkpoint_bytes
from codecctl.train.state import start_state
from tests.train.tiny import ADVERSARIAL, tiny_config

CARD = "train.gpu={{name: Tiny, memory_gb: {}, price_per_hour_usd: 2, peak_tflops: 1, bandwidth_gb_per_second: 1}}"
FIRST_EPOCH = [*ADVERSARIAL, "train.adversarial.start_epoch=1"]


@pytest.fixture(scope="module")
def plan(prepared: Path) -> Plan:
    """A card with so little beside its own needs that a few crops fit and eight do not."""
    return make_plan(
        tiny_config(prepared, *FIRST_EPOCH, CARD.format(1.015), "train.batch_size=8", "train.n_steps=1000")
    )


def test_the_largest_batch_fits_and_one_more_does_not(plan: Plan) -> None:
    assert plan.largest_batch is not None
    assert not plan.fits
    for batch_size, fits in ((plan.largest_batch, True), (plan.largest_batch + 1, False)):
        settings = plan.config.train.model_copy(update={"batch_size": batch_size})
        step = footprint(plan.config.model_copy(update={"train": settings}))
        assert replace(plan, step=step).fits is fits
    assert f"the largest batch that does is {plan.largest_batch}" in describe(plan)["fits"]
    assert "--set train.accumulate=" in describe(plan)["instead"]


def test_a_batch_that_fits_is_told_so(plan: Plan) -> None:
    settings = plan.config.train.model_copy(
        update={"gpu": plan.card and plan.card.model_copy(update={"memory_gb": 2.0})}
    )
    roomy = replace(plan, config=plan.config.model_copy(update={"train": settings}))
    assert roomy.fits
    assert describe(roomy)["fits"].startswith("yes: 1")


def test_epochs_and_the_adversaries_start_follow_from_the_data(plan: Plan) -> None:
    from codecctl.train.loop import crop_samples, open_crops

    expected = open_crops(plan.config).n_samples / (8 * crop_samples(plan.config))
    assert plan.steps_per_epoch == pytest.approx(expected)
    assert plan.adversarial_step == round(expected)
    assert f"heard from step {round(expected):,} on (epoch 1)" in describe(plan)["adversaries"]
    assert replace(plan, n_cards=2, steps_per_epoch=expected / 2).adversarial_step == round(expected / 2)


def test_adversaries_cost_memory_and_work(plan: Plan) -> None:
    early, late = plan.early_step, plan.step
    assert early is not None
    assert early.peak < late.peak
    assert early.operations < late.operations
    assert early.lasting == late.lasting


def test_hours_and_cost_are_sums_of_steps(plan: Plan) -> None:
    assert plan.early_step is not None
    assert plan.adversarial_step is not None
    assert plan.hours is not None
    early, late = plan.seconds(plan.early_step), plan.seconds(plan.step)
    assert early is not None
    assert late is not None
    assert late == pytest.approx((plan.step.operations / 0.25e12, plan.step.moved / 0.8e9))  # float32: half of half
    n_early = plan.adversarial_step
    assert plan.hours == pytest.approx((n_early * sum(early) + (1000 - n_early) * sum(late)) / 3600)
    assert plan.cost_usd == pytest.approx(2 * plan.hours)


def test_the_disk_holds_what_a_checkpoint_holds(plan: Plan, tmp_path: Path) -> None:
    from codecctl.train.checkpoint import save_state
    from codecctl.train.step import train_step
    from tests.train.tiny import tiny_machine

    state = start_state(plan.config, torch.device("cpu"), steps_per_epoch=0)
    assert plan.checkpoint_bytes == checkpoint_bytes(state)
    state.adversarial_step = 0
    train_step(state, [torch.zeros(8, 1, 3200)], tiny_machine(state, plan.config), plan.config)
    save_state(state, plan.config, tmp_path / "last.pt", 1)
    on_disk = (tmp_path / "last.pt").stat().st_size
    assert plan.checkpoint_bytes < on_disk < plan.checkpoint_bytes + 1000 * len(state.codec.state_dict()) * 6


def test_neither_data_nor_card_nor_teacher_is_needed(tmp_path: Path) -> None:
    """The teacher of the default is taken for its architecture; no weight of it is here."""
    config = tiny_config(
        tmp_path / "none",
        "model.front.strides=[4,8,10]",
        "loss.semantic_weight=10",
        "train.semantic.teacher=someone/else@1",
    )
    plan = make_plan(config)
    assert plan.n_parameters["teacher"] == pytest.approx(94.4e6, rel=0.01)
    assert plan.step.teacher == pytest.approx(4 * 94.4e6, rel=0.01)
    words = describe(plan)
    assert words["teacher"].endswith("frozen; someone/else@1 is not here: taken for a base WavLM")
    assert words["epoch"].startswith(f"unknown: {tmp_path / 'none'}: holds no prepared audio")
    assert words["time and cost"] == "unknown without --gpu"
    assert "fits" not in words


@pytest.mark.parametrize(("n_crops", "largest", "split"), [(24, 7, (6, 4)), (16, 20, (16, 1)), (7, 6, (1, 7))])
def test_a_batch_in_parts_is_the_same_step(n_crops: int, largest: int, split: tuple[int, int]) -> None:
    assert split_batch(n_crops, largest) == split


@pytest.mark.bench
@pytest.mark.parametrize("card", ["rtx3090", "rtx4090", "a100-40gb", "a100-80gb"])
def test_the_batch_of_a_profile_fits_its_card(card: str, capsys: pytest.CaptureFixture[str]) -> None:
    plan = make_plan(load_config("production", gpu=card))
    with capsys.disabled():
        print(f"\n{card}: {describe(plan)['fits']}")
    assert plan.fits
