"""A long file takes the memory of a short one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from codecctl.config.model import ModelConfig
from codecctl.inference.load import save_codec
from codecctl.model.codec import Codec

MEASURE = """
import resource, sys
from pathlib import Path
import torch
from codecctl.inference.files import decode_file, encode_file
from codecctl.inference.load import Codec

torch.set_num_threads(1)
codec, wav = Codec.load(sys.argv[1], "cpu"), Path(sys.argv[2])
encode_file(codec, wav, wav.with_suffix(".cctl"))
decode_file(codec, wav.with_suffix(".cctl"), wav.with_suffix(".out.wav"))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def peak_mb(model: Path, folder: Path, seconds: int) -> float:
    """Of a process that encodes and decodes so much noise at 24 kHz."""
    wav = folder / f"{seconds}.wav"
    ten_seconds = np.random.default_rng(0).integers(-9999, 9999, 240_000).astype(np.int16)
    with soundfile.SoundFile(wav, "w", 24000, 1) as file:
        for _ in range(seconds // 10):
            file.write(ten_seconds)
    done = subprocess.run([sys.executable, "-c", MEASURE, model, wav], capture_output=True, text=True, check=True)
    return int(done.stdout) / (2**20 if sys.platform == "darwin" else 1024)


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [120, pytest.param(1800, marks=pytest.mark.bench)])
def test_memory_does_not_grow_with_the_file(tmp_path: Path, smoke_model: ModelConfig, seconds: int) -> None:
    save_codec(Codec(smoke_model), tmp_path / "smoke.pt")
    growth = peak_mb(tmp_path / "smoke.pt", tmp_path, seconds) - peak_mb(tmp_path / "smoke.pt", tmp_path, 10)
    assert growth < 60  # two minutes at once would take over 200
