"""Where a training computes, and what is said when the card is not there."""

from __future__ import annotations

import pytest
import torch

from codecctl.config.load import load_config
from codecctl.errors import UsageError
from codecctl.train.device import is_card, training_device

without_a_card = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a card")


def test_cpu_is_taken_at_its_word_with_any_profile() -> None:
    for gpu in (None, "rtx3090", "rtx4090", "a100-40gb", "a100-80gb", "h100-80gb"):
        assert training_device("cpu", load_config("smoke", gpu=gpu)) == torch.device("cpu")


@without_a_card
def test_auto_is_the_cpu_where_there_is_no_card() -> None:
    assert training_device("auto", load_config("smoke")) == torch.device("cpu")


@without_a_card
@pytest.mark.parametrize(("gpu", "card"), [("rtx4090", "RTX 4090 with 24 GB"), ("a100-80gb", "A100 with 80 GB")])
def test_a_profile_without_its_card_names_the_way_on(gpu: str, card: str) -> None:
    with pytest.raises(UsageError, match=f"no {card} here.*--device cpu") as error:
        training_device("auto", load_config("smoke", gpu=gpu))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["cuda:63", "tpu", "mps", "", "cuda:x"])
def test_a_device_that_is_not_there_is_named(name: str) -> None:
    with pytest.raises(UsageError, match=f"--device {name}: .*cpu"):
        training_device(name, load_config("smoke"))


@pytest.mark.cuda
def test_another_card_than_the_profiles_is_named() -> None:
    changes = ["train.gpu={name: No Such Card, memory_gb: 24, price_per_hour_usd: 1}"]
    found = torch.cuda.get_device_properties(0).name
    with pytest.raises(UsageError, match=f"no No Such Card with 24 GB here: cuda:?0? is a {found}"):
        training_device("cuda", load_config("smoke", overrides=changes))


@pytest.mark.parametrize(
    ("gpu", "driver_name", "memory_gb", "is_taken"),
    [
        ("h100-80gb", "NVIDIA H100 80GB HBM3", 85.0, True),
        ("h100-80gb", "NVIDIA H200", 150.0, False),  # other speeds: what the profile predicts would be wrong
        ("a100-80gb", "NVIDIA A100-SXM4-80GB", 85.0, True),
        ("a100-80gb", "NVIDIA A100-SXM4-40GB", 42.0, False),
    ],
)
def test_a_profile_is_for_cards_of_its_name_and_memory(
    gpu: str, driver_name: str, memory_gb: float, is_taken: bool
) -> None:
    card = load_config("smoke", gpu=gpu).train.gpu
    assert card is not None
    assert is_card(card, driver_name, round(memory_gb * 1e9)) is is_taken
