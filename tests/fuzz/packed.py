"""Packed codes: what passes the checks must be the codes that were written."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from codecctl.bitstream import Codes, PackedReader, PackedWriter
from tests.fuzz.harness import Target

_SIZES = {"two.cctl": (1024, 16), "eight.cctl": (2048,) + 7 * (1024,), "one.cctl": (2,)}


def _codes(name: str) -> Codes:
    """[K, T]: two blocks and a bit."""
    draw = np.random.default_rng(0)
    return np.stack([draw.integers(0, size, 850) for size in _SIZES[name]]).astype(np.uint16)


def _make_inputs() -> Mapping[str, bytes]:
    inputs = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, sizes in _SIZES.items():
            path = Path(folder, name)
            with PackedWriter(
                path, fingerprint="0123456789abcdef", sample_rate=16_000, hop_length=320, codebook_sizes=sizes
            ) as writer:
                writer.write(_codes(name))
                writer.n_samples = 850 * 320
            inputs[name] = path.read_bytes()
    return inputs


def _read(path: Path) -> None:
    with PackedReader(path) as reader:
        reader.check()
        codes = reader.read()
        sizes = reader.header.codebook_sizes
    (name,) = (name for name, known in _SIZES.items() if known == sizes)
    assert np.array_equal(codes, _codes(name)), "other codes than were written"


TARGET = Target("packed", _make_inputs, _read)
