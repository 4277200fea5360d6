"""The keys of its config that a run may change on the way."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from codecctl.config.load import load_config, override_config, with_data
from codecctl.config.schema import Config
from codecctl.errors import ConfigError

_FIXED = (  # in the weights, the optimisers' state or the run's counters: a change would have no effect, or a wrong one
    "model",
    "data.split_seed",
    "data.validation_share",
    "train.seed",
    "train.betas",
    "train.weight_decay",
    "train.freeze",
    "train.kmeans_vectors",
    "train.semantic",
    "train.adversarial.periods",
    "train.adversarial.stft_windows",
    "train.adversarial.channels",
    "train.adversarial.start_epoch",
)


def change_config(
    before: Config, file: Path, overrides: Sequence[str], data: str | None
) -> tuple[Config, dict[str, str]]:
    """The config with which a run resumes, and in words by key what changes and what `file`, the run's config.yaml, has
    otherwise than its checkpoint.

    The checkpoint's config `before` decides; the file was only written. Raises `ConfigError` for a key that cannot
    change within a run.
    """
    config = override_config(before, overrides, source=str(file))
    config = with_data(config, data) if data is not None else config
    lines: dict[str, str] = {}
    for key, old, new in _differences(before, config):
        if _is_fixed(key):
            raise ConfigError(f"--set {key}: cannot change within a run; start another with `codecctl train --from`")
        lines[key] = f"{new} instead of {old}"
    for key, used, edited in _differences(config, _read(file, config)):
        way = "it cannot change within a run" if _is_fixed(key) else f"`--set {key}={edited}` changes it"
        lines.setdefault(key, f"{used}, as in the checkpoint; {edited} in config.yaml was not used: {way}")
    return config, lines


def _read(file: Path, default: Config) -> Config:
    try:
        return load_config(file)
    except ConfigError:
        return default  # it is written anew


def _is_fixed(key: str) -> bool:
    return any(key == fixed or key.startswith(f"{fixed}.") for fixed in _FIXED)


def _differences(one: Config, other: Config) -> Iterator[tuple[str, str, str]]:
    """(key, value, value in the other) where two configs differ."""
    mine, theirs = (dict(_flat(config.model_dump(mode="json", by_alias=True))) for config in (one, other))
    for key in dict.fromkeys((*mine, *theirs)):
        if mine.get(key) != theirs.get(key):
            yield key, json.dumps(mine.get(key)), json.dumps(theirs.get(key))


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
