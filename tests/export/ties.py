"""Codes of another runtime beside those of the command line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from codecctl.bitstream import PackedReader
from codecctl.inference.load import Codec


def check_equal_but_for_ties(page: Path, ours: Path, samples: Tensor) -> None:
    """Equal files, but for a few frames where two sequences of codewords are as good in float32, or were for the first
    codebooks, which decides what the search keeps."""
    with PackedReader(page) as reader, PackedReader(ours) as our_reader:
        assert reader.header == our_reader.header
        theirs, expected = reader.read().astype(np.int64), our_reader.read().astype(np.int64)
    differs = (theirs != expected).any(axis=0)
    assert differs.sum() <= 2
    if not differs.any():
        assert page.read_bytes() == ours.read_bytes()
    codec = Codec.load("starter", "cpu")
    latents = codec.encode_latents(samples.reshape(1, 1, -1))
    errors = [
        (latents - codec.dequantize(torch.from_numpy(codes)[None])).square().sum(1) for codes in (theirs, expected)
    ]
    frames = differs.nonzero()[0]
    np.testing.assert_allclose(errors[0][0, frames], errors[1][0, frames], rtol=0.05)
