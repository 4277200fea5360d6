"""The plan: what it says follows from the config, the data and the card's profile, for every config."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from codecctl.cli.console import size
from codecctl.cli.plan import describe
from codecctl.config.load import configs_folder, load_config
from codecctl.config.model import Section
from codecctl.train.memory import Costs, measure_costs
from codecctl.train.plan import ASSUMPTIONS, Plan, make_plan
from codecctl.train.setup import checkpoint_bytes, open_crops, start_state
from tests.train.tiny import ADVERSARIAL, FEW_FRAMES, tiny_config

pytestmark = pytest.mark.slow

CARD = "train.gpu={{name: Tiny, memory_gb: {}, price_per_hour_usd: 2, peak_tflops: 1, bandwidth_gb_per_second: 1}}"
MEMORY_GB = (ASSUMPTIONS.context_bytes + 16e6) / 1e9
FIRST_EPOCH = [*ADVERSARIAL, "train.adversarial.start_epoch=1"]
NAMES = sorted(path.stem for path in configs_folder().glob("*.yaml"))
CARDS = sorted(path.stem for path in (configs_folder() / "gpu").glob("*.yaml"))
PAGE = Path(__file__).parents[2] / "docs" / "training.md"
VALUES: list[Any] = [1, 2, 0.5, -20.0, 64, (20.0, 100.0), (2,), (128,), ("en",), {"en": 2.0}, {}, "elsewhere", None]
"""A key is changed to the first of them that is legal for it and differs."""


@cache
def shipped_costs(name: str, precision: str, heard_seconds: float | None) -> Costs:
    """The same under every profile with these two: apart from them profiles change batches alone."""
    heard = "null" if heard_seconds is None else heard_seconds
    changes = [f"train.precision={precision}", f"train.adversarial.heard_seconds={heard}"]
    return measure_costs(load_config(name, overrides=changes))


def shipped_plan(name: str, card: str | None) -> Plan:
    config = load_config(name, gpu=card)
    train = config.train
    return make_plan(config, costs=shipped_costs(name, train.precision, train.adversarial.heard_seconds))


@pytest.fixture(scope="module")
def plan(prepared: Path) -> Plan:
    """A card with so little beside its own needs that a few crops fit and eight do not."""
    return make_plan(
        tiny_config(prepared, *FIRST_EPOCH, CARD.format(MEMORY_GB), "train.batch_size=8", "train.n_steps=1000")
    )


def with_train(plan: Plan, **changes: Any) -> Plan:
    train = plan.config.train.model_copy(update=changes)
    return replace(plan, config=plan.config.model_copy(update={"train": train}))


def test_the_largest_batch_fits_and_one_more_does_not(plan: Plan) -> None:
    for accumulate in (1, 2):
        largest = plan.largest_batch(accumulate)
        assert largest
        assert with_train(plan, batch_size=largest, accumulate=accumulate).fits
        assert not with_train(plan, batch_size=largest + 1, accumulate=accumulate).fits


def test_a_batch_that_does_not_fit_is_told_with_what_does(plan: Plan) -> None:
    assert not plan.fits
    words = describe(plan)
    assert f"the largest batch that fits is {plan.largest_batch(1)}" in words["fits"]
    split = re.search(r"--set train.batch_size=(\d+) --set train.accumulate=(\d+)", words["instead"])
    shorter = re.search(r"--set (data.crop_seconds=[\d.]+)", words["instead"])
    assert split
    assert shorter
    batch_size, accumulate = int(split[1]), int(split[2])
    assert batch_size * accumulate == 8
    assert with_train(plan, batch_size=batch_size, accumulate=accumulate).fits
    changes = [*FIRST_EPOCH, CARD.format(MEMORY_GB), "train.batch_size=8", shorter[1]]
    assert make_plan(tiny_config(Path(plan.config.data.path), *changes)).fits


def test_a_batch_that_fits_is_told_so(plan: Plan) -> None:
    assert plan.card
    roomy = with_train(plan, gpu=plan.card.model_copy(update={"memory_gb": 2.0}))
    assert roomy.fits
    assert describe(roomy)["fits"].startswith(f"yes: {size(roomy.step.card_bytes)} of 2 GB")


def test_a_card_that_holds_no_crop_is_told_so(plan: Plan) -> None:
    assert plan.card
    tiny = with_train(plan, gpu=plan.card.model_copy(update={"memory_gb": ASSUMPTIONS.context_bytes / 1e9 + 0.0001}))
    assert "not even one crop fits" in describe(tiny)["fits"]
    assert "instead" not in describe(tiny)


def test_epochs_and_the_adversaries_start_follow_from_the_data(plan: Plan) -> None:
    expected = open_crops(plan.config).n_samples / (8 * plan.config.crop_samples)
    assert plan.steps_per_epoch == pytest.approx(expected)
    assert plan.adversarial_step == round(expected)
    assert f"used from step {round(expected):,} on (epoch 1)" in describe(plan)["adversaries"]
    assert replace(plan, n_cards=2, steps_per_epoch=expected / 2).adversarial_step == round(expected / 2)


def test_adversaries_learn_before_they_are_used_for_no_longer_than_there_are_steps(plan: Plan) -> None:
    """On data that a few steps exhaust, five epochs are over before the warm-up is."""
    adversarial = plan.config.train.adversarial.model_copy(update={"start_epoch": 5, "warmup_steps": 1000})
    words = describe(replace(with_train(plan, adversarial=adversarial), steps_per_epoch=0.26))
    assert words["epoch"] == "0.26 steps"
    assert words["adversaries"] == "used from step 1 on (epoch 5); the discriminators learn from step 0 on"


def test_hours_cost_and_audio_are_sums_of_steps(plan: Plan) -> None:
    assert plan.early_step
    assert plan.adversarial_step
    early, late, n_early = plan.early_step, plan.step, plan.adversarial_step
    assert (late.seconds_multiplying, late.seconds_moving) == pytest.approx(
        (late.operations / (0.4 / 2 * 1e12), late.moved_bytes / 0.4e9)  # float32: at half of the peak
    )
    assert late.seconds_multiplying is not None
    assert late.seconds_moving is not None
    assert late.is_recorded
    n_launched = plan.costs.late.n_launched + plan.costs.late.n_launched_after
    assert late.seconds_starting == pytest.approx(4.5e-6 * n_launched)
    assert late.seconds == late.seconds_multiplying + late.seconds_moving + late.seconds_starting
    launched = replace(late, is_recorded=False, seconds_launching=2 * late.seconds)
    assert launched.seconds == launched.seconds_launching
    assert early.seconds
    assert late.seconds
    assert plan.hours == pytest.approx((n_early * early.seconds + (1000 - n_early) * late.seconds) / 3600)
    assert plan.cost_usd == pytest.approx(2 * (plan.hours or 0))
    assert plan.audio_hours == pytest.approx(1000 * 8 * 0.2 / 3600, rel=0.01)
    assert plan.adversarial_audio_hours == pytest.approx(plan.audio_hours * (1000 - n_early) / 1000)
    assert late.throughput == pytest.approx(late.audio_seconds / late.seconds)


def test_a_card_holds_the_gradients_on_their_way_to_another(plan: Plan) -> None:
    two = replace(plan, n_cards=2).step
    assert two.card_bytes == pytest.approx(plan.step.card_bytes + ASSUMPTIONS.fragmentation * plan.costs.late.gradients)


def test_the_disk_holds_what_a_checkpoint_holds(plan: Plan, tmp_path: Path) -> None:
    from codecctl.train.checkpoint import save_state
    from codecctl.train.step import train_step
    from tests.train.tiny import tiny_context

    state = start_state(plan.config, torch.device("cpu"), steps_per_epoch=0)
    planned = plan.costs.checkpoint_bytes
    assert planned == checkpoint_bytes(state)
    state.adversarial_step = 0
    train_step(state, [torch.zeros(8, 1, 3200)], tiny_context(state, plan.config), plan.config)
    save_state(state, plan.config, tmp_path / "last.pt", 1)
    on_disk = (tmp_path / "last.pt").stat().st_size
    assert planned < on_disk < planned + 1000 * len(state.codec.state_dict()) * 6


def test_neither_data_nor_card_nor_teacher_is_needed(tmp_path: Path) -> None:
    """The teacher of the default is taken for its architecture; no weight of it is here."""
    config = tiny_config(
        tmp_path / "none",
        "model.front.strides=[4,8,10]",
        "loss.semantic_weight=10",
        "train.semantic.teacher=someone/else@1",
    )
    plan = make_plan(config)
    assert plan.costs.n_parameters["teacher"] == pytest.approx(94.4e6, rel=0.01)
    assert plan.costs.lasting["teacher"] == pytest.approx(4 * 94.4e6, rel=0.01)
    words = describe(plan)
    assert words["teacher"].endswith("frozen; someone/else@1 is not here: the size of a base WavLM")
    assert words["epoch"].startswith(f"unknown: {tmp_path / 'none'}: holds no prepared audio")
    assert words["time and cost"] == "unknown without --gpu"
    assert "fits" not in words


@pytest.mark.parametrize("card", CARDS)
@pytest.mark.parametrize("name", NAMES)
def test_every_config_has_a_plan_under_every_profile(name: str, card: str) -> None:
    plan = shipped_plan(name, card)
    assert plan.fits
    assert plan.hours
    assert ASSUMPTIONS.source in describe(plan)["assumptions"]


@pytest.mark.parametrize("name", ["smoke", "starter"])
def test_the_plan_of_a_shipped_config_is_that_of_a_full_step(name: str) -> None:
    config = load_config(name, gpu="rtx4090")
    n_crops = config.train.batch_size
    planned = shipped_costs(name, config.train.precision, config.train.adversarial.heard_seconds).late.of(n_crops)
    full = measure_costs(config, n_crops).late.of(n_crops)
    assert planned.peak == pytest.approx(full.peak, rel=0.01)
    assert planned.moved == pytest.approx(full.moved, rel=0.01)
    assert planned.operations == pytest.approx(full.operations, rel=0.01)


def changed(section: Section) -> dict[str, Any]:
    """Another legal value for every key of the section and of those in it."""
    fields = {name: getattr(section, name) for name in type(section).model_fields}
    return {
        name: value.model_copy(update=changed(value)) if isinstance(value, Section) else another(section, name)
        for name, value in fields.items()
    }


def another(section: Section, name: str) -> Any:
    for value in VALUES:
        try:
            other = getattr(type(section).model_validate({**section.model_dump(), name: value}), name)
        except ValidationError:
            continue
        if other != getattr(section, name):
            return other
    raise AssertionError(f"VALUES has none for {name}: add one")


SMALL = tiny_config(Path("none"), *ADVERSARIAL, *FEW_FRAMES)


def test_a_plan_holds_for_other_data() -> None:
    data = SMALL.data.model_copy(update=changed(SMALL.data))
    assert data.crop_seconds != SMALL.data.crop_seconds
    assert data.filter.languages
    assert describe(make_plan(SMALL.model_copy(update={"data": data})))["memory"]


@pytest.mark.parametrize(("key", "value"), changed(SMALL.train.adversarial).items())
def test_a_plan_holds_for_every_key_of_the_adversaries(key: str, value: Any) -> None:
    adversarial = SMALL.train.adversarial.model_copy(update={key: value})
    train = SMALL.train.model_copy(update={"adversarial": adversarial})
    assert describe(make_plan(SMALL.model_copy(update={"train": train})))["memory"]


def table() -> list[list[str]]:
    """The rows of the page: production under every profile."""
    rows = []
    for card in CARDS:
        plan = shipped_plan("production", card)
        settings = plan.config.train
        rows.append(
            [
                f"`{card}`",
                f"{settings.batch_size * settings.accumulate}",
                f"{settings.n_steps}",
                f"{plan.discriminator_audio_hours:.0f} h",
                f"{plan.step.card_bytes / 1e9:.1f} GB",
                f"{plan.largest_batch(settings.accumulate)}",
                f"{plan.step.throughput:.0f}",
                f"{plan.step.moved_bytes / plan.step.audio_seconds / 1e9:.1f} GB",
                f"{plan.hours:.0f} h",
                f"{plan.cost_usd:.0f} USD",
            ]
        )
    return rows


def test_the_table_of_the_page_is_what_the_plan_says() -> None:
    """Within what versions of torch differ by."""
    expected = table()
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if re.match(r"\| `[a-z]+\d", line)]
    written = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    wanted = "\n".join(f"| {' | '.join(row)} |" for row in expected)
    assert [row[:3] for row in written] == [row[:3] for row in expected], f"the table should be\n{wanted}"
    for cells, row in zip(written, expected, strict=True):
        numbers = [float(cell.split()[0]) for cell in cells[3:]]
        assert numbers == pytest.approx([float(cell.split()[0]) for cell in row[3:]], rel=0.03), (
            f"it should be\n{wanted}"
        )


@pytest.mark.parametrize(("card", "hours"), [("a100-80gb", 60), ("a100-40gb", 80), ("rtx4090", 100), ("rtx3090", 140)])
def test_production_is_affordable(card: str, hours: float) -> None:
    """With discriminators from the first step on, and no fewer than 3,000 hours of audio for them."""
    plan = shipped_plan("production", card)
    assert plan.fits
    assert plan.hours is not None
    assert plan.hours <= hours
    assert plan.discriminator_audio_hours >= 3000
    assert plan.cost_usd is not None
    assert plan.cost_usd <= 150
    assert plan.step.moved_bytes <= 3e9 * plan.step.audio_seconds
