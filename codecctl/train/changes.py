"""The keys of its config that a run may change on the way."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Change:
    """A key of a resumed run's config that changes, or that config.yaml has otherwise; values as JSON."""

    value: str
    before: str | None = None  # the checkpoint's; None: the same
    edited: str | None = None  # config.yaml's, which is not used
    is_fixed: bool = False  # whether the key cannot change within a run


def change_config(
    before: Config, file: Path, overrides: Sequence[str], data: str | None
) -> tuple[Config, dict[str, Change]]:
    """The config with which a run resumes, and by key what changes and what `file`, the run's config.yaml, has
    otherwise than its checkpoint.

    The checkpoint's config `before` decides; the file was only written. Raises `ConfigError` for a key that cannot
    change within a run, and for a file that is no config: it would be written anew, and its edits lost.
    """
    config = override_config(before, overrides)
    config = with_data(config, data) if data is not None else config
    changes: dict[str, Change] = {}
    for key, old, new in _differences(before, config):
        if _is_fixed(key):
            raise ConfigError(f"--set {key}: cannot change within a run; start another with `codecctl train --from`")
        changes[key] = Change(new, before=old)
    for key, used, edited in _differences(config, _read(file)) if file.exists() else ():
        changes.setdefault(key, Change(used, edited=edited, is_fixed=_is_fixed(key)))
    return config, changes


def _read(file: Path) -> Config:
    try:
        return load_config(file)
    except ConfigError as error:
        raise ConfigError(f"{error}; correct it, or remove the file: the run's config is in last.pt") from None


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
