"""Configurations in YAML."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from codecctl.config.load import configs_folder, load_config, parse_config
from tests.fuzz.harness import Target


def _make_inputs() -> Mapping[str, bytes]:
    shipped = {path.name: path.read_bytes() for path in sorted(configs_folder().glob("*.yaml"))}
    odd = b"model:\n  strides: [2, 2, 3]\n  ? [a, b]\n  : c\ntrain: &x {batch_size: 1e3, n_steps: .inf}\nloss: *x\n"
    return shipped | {"odd.yaml": odd, "deep.yaml": b"model: " + 300 * b"[" + 300 * b"]"}


def _read(path: Path) -> None:
    config = load_config(path)
    assert parse_config(config.model_dump(), source="again") == config


TARGET = Target("config", _make_inputs, _read)
