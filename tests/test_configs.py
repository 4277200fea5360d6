"""Every YAML file that ships: it loads, and it is what it says it is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from codecctl.config.load import configs_folder, load_config, read_yaml
from codecctl.config.model import RefinedConfig, Section
from codecctl.config.schema import Config
from codecctl.data.download.recipes import read_recipes
from codecctl.model.codec import Codec

CONFIGS = configs_folder()
NAMES = sorted(path.stem for path in CONFIGS.glob("*.yaml"))
CARDS = sorted(path.stem for path in (CONFIGS / "gpu").glob("*.yaml"))
PROFILES = {  # batch size, batches a step, workers, part of the driver's name, memory
    "rtx3090": (16, 1, 4, "3090", 24),
    "rtx4090": (24, 1, 4, "4090", 24),
    "a100-40gb": (32, 1, 8, "A100", 40),
    "a100-80gb": (48, 1, 8, "A100", 80),
    "h100-80gb": (48, 1, 8, "H100", 80),
}


def keys(section: type[Section], path: str = "") -> Iterator[tuple[str, str]]:
    """(dotted key, what the schema says of it)."""
    for name, field in section.model_fields.items():
        key, kind = f"{path}{field.alias or name}", field.annotation
        if isinstance(kind, type) and issubclass(kind, Section):
            yield key, (kind.__doc__ or "").split("\n")[0]
            yield from keys(kind, f"{key}.")
        else:
            yield key, field.description or ""
            if isinstance(field.default, Section):  # one of several
                yield from keys(type(field.default), f"{key}.")


def comments(path: Path) -> dict[str, str]:
    """dotted key -> the comment that stands beside it."""
    found: dict[str, str] = {}
    above: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if match := re.match(r"^( *)(\w+):(?:[^#]*)(?:# *(.*))?$", line):
            indent, key, comment = len(match[1]) // 2, match[2], match[3] or ""
            above[indent:] = [key]
            found[".".join(above)] = comment
    return found


def test_nothing_else_lies_in_the_folder() -> None:
    assert NAMES == ["production", "smoke", "starter", "starter-adversarial"]
    assert set(CARDS) == set(PROFILES)
    assert {path.name for path in CONFIGS.iterdir() if path.is_dir()} == {"gpu", "datasets"}


@pytest.mark.parametrize("name", NAMES)
def test_a_config_loads_and_its_model_can_be_built(name: str) -> None:
    config = load_config(name)
    assert config == load_config(CONFIGS / f"{name}.yaml")
    if name != "production":  # which takes a second and has a test of its own
        assert Codec(config.model).bitrate_kbps == config.model.bitrate_kbps


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("card", CARDS)
def test_a_profile_lies_over_every_config(name: str, card: str) -> None:
    batch_size, accumulate, n_workers, driver_name, memory_gb = PROFILES[card]
    config, plain = load_config(name, gpu=card), load_config(name)
    assert (config.train.batch_size, config.train.accumulate) == (batch_size, accumulate)
    assert config.data.n_workers == n_workers
    assert config.train.precision == "bfloat16"
    assert config.train.gpu is not None
    assert driver_name in config.train.gpu.name
    assert config.train.gpu.memory_gb == memory_gb
    assert 0.1 < config.train.gpu.price_per_hour_usd < 5
    assert (config.model, config.loss, config.validation) == (plain.model, plain.loss, plain.validation)


def test_every_recipe_loads() -> None:
    assert len(read_recipes()) >= len(list((CONFIGS / "datasets").glob("*.yaml"))) > 0


def test_production_is_the_schema() -> None:
    assert load_config("production") == Config()
    written = yaml.safe_load(Config().model_dump_json(by_alias=True))
    assert _names(read_yaml(CONFIGS / "production.yaml")) == _names(written)


def test_production_explains_every_key_as_the_schema_does() -> None:
    assert comments(CONFIGS / "production.yaml") == dict(keys(Config))


SMALL = [name for name in NAMES if name != "production"]


@pytest.mark.parametrize("name", SMALL)
def test_small_configs_keep_the_production_format(name: str) -> None:
    small, production = load_config(name).model, load_config("production").model
    for fact in ("sample_rate", "hop_length", "n_codebooks", "bits_per_frame", "bitrate_kbps"):
        assert getattr(small, fact) == getattr(production, fact), fact
    assert small.quantizer.codebook_sizes == production.quantizer.codebook_sizes


def test_the_starters_config_explains_every_key_of_its_front() -> None:
    told = {key: text for key, text in comments(CONFIGS / "starter.yaml").items() if key.startswith("model.front.")}
    assert told == dict(keys(RefinedConfig, "model.front."))


def test_the_config_that_goes_on_from_the_starter_keeps_its_encoder_and_codebooks() -> None:
    config, starter = load_config("starter-adversarial"), load_config("starter")
    assert config.model == starter.model
    assert set(config.train.freeze) == {"encoder", "quantizer"}


@pytest.mark.parametrize("name", SMALL)
def test_small_configs_name_only_what_differs(name: str) -> None:
    assert _leaves(read_yaml(CONFIGS / f"{name}.yaml")).isdisjoint(_leaves(read_yaml(CONFIGS / "production.yaml")))


def _names(values: object) -> object:
    return {key: _names(value) for key, value in values.items()} if isinstance(values, dict) else None


def _leaves(values: object, path: str = "") -> set[tuple[str, str]]:
    if not isinstance(values, dict):
        return {(path, str(values))}
    return {leaf for key, value in values.items() for leaf in _leaves(value, f"{path}.{key}")}
