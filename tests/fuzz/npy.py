"""Codes as an array: the format has no checksum, so only shape, type and range can be right."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from codecctl.bitstream import check_codes
from codecctl.inference.containers import load_npy, npy_bytes
from tests.fuzz.harness import Target

_SIZES = (1024, 1024, 16)


def _make_inputs() -> Mapping[str, bytes]:
    draw = np.random.default_rng(0)
    codes = np.stack([draw.integers(0, size, 500) for size in _SIZES]).astype(np.uint16)
    return {"codes.npy": npy_bytes(codes), "short.npy": npy_bytes(codes[:1, :3])}


def _read(path: Path) -> None:
    codes = load_npy(path, path.name)
    check_codes(codes, _SIZES, name=path.name)
    assert codes.ndim == 2
    assert 1 <= len(codes) <= len(_SIZES)
    assert all(row.min() >= 0 and row.max() < size for row, size in zip(codes, _SIZES, strict=False) if row.size)


TARGET = Target("npy", _make_inputs, _read)
