"""Configurations in YAML, and `--set`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

from codecctl.config.load import configs_folder, dump_config, load_config, override_config, parse_config
from codecctl.config.schema import Config
from codecctl.errors import CodecctlError
from codecctl.parsing import parse_yaml
from tests.fuzz.harness import Target

_ODD = b"model:\n  front: {strides: [2, 2, 3]}\ntrain: &x {batch_size: 1e3, n_steps: .inf}\nloss: *x\n<<: *x\n"
_OVERRIDES = (
    "train.batch_size=8", "model.front.strides=[2, 3]", "loss={mel_weight: 2, waveform_weight: 3}", "data.path=a=b",
    "model.front.kind=transform", "validate.require={pesq: 2.5}", "train.gpu={name: x, memory_gb: 2}", "train.seed=7",
)  # fmt: skip


def _make_inputs() -> Mapping[str, bytes]:
    shipped = {path.name: path.read_bytes() for path in sorted(configs_folder().glob("*.yaml"))}
    complex_keys = b"model:\n  ? [a, b]\n  : c\ntrain:\n  ? {a: b}\n"
    deep = b"model: " + 300 * b"[" + 300 * b"]" + b"\ntrain: " + b"\n".join(n * b" " + b"- " for n in range(300))
    return shipped | {"odd.yaml": _ODD, "deep.yaml": deep, "complex.yaml": complex_keys}


def _read(path: Path) -> None:
    config = load_config(path)
    assert parse_config(parse_yaml(dump_config(config), "dump"), source="dump") == config


@cache
def _smoke() -> Config:
    return load_config("smoke")


def _set(path: Path) -> None:
    text = path.read_bytes().decode(errors="surrogateescape")
    config = override_config(_smoke(), [text])
    try:
        dumped = dump_config(config)
    except UnicodeEncodeError as error:  # only by a path that cannot be text
        raise CodecctlError(str(error)) from None
    assert parse_config(parse_yaml(dumped, "dump"), source="dump") == config


CONFIG = Target("config", _make_inputs, _read)
SET = Target("set", lambda: {f"{n}.txt": text.encode() for n, text in enumerate(_OVERRIDES)}, _set)
