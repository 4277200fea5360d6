"""Write golden checkpoints: `python -m tests.golden.make NAME` adds NAME-plain and NAME-adversarial to this folder.

Once committed they are never written again: each shows that what its version wrote can still be used and resumed. A
change of what a checkpoint holds gets new ones under a new name.
"""

from __future__ import annotations

import contextlib
import gzip
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from codecctl.config.load import load_config
from codecctl.data.prepare import prepare
from codecctl.inference.load import Codec
from codecctl.train.callbacks import TrainingCallbacks
from codecctl.train.loop import train
from tests.conftest import CLIPS
from tests.train.tiny import ADVERSARIAL, tiny_config

HERE = Path(__file__).parent
N_STEPS = 4
SMALL = (
    "model.front={strides: [8], base_channels: 2, kernel_size: 3, dilations: [1]}",
    "train.adversarial={periods: [2], stft_windows: [64], channels: 1, start_epoch: 0}",
)  # fmt: skip
KINDS: dict[str, tuple[str, ...]] = {"plain": SMALL, "adversarial": (*ADVERSARIAL, *SMALL)}


def codes_of(codec: Codec) -> torch.Tensor:
    """[1, K, T]: the same for every golden checkpoint."""
    random = torch.Generator().manual_seed(1)
    return torch.stack(
        [torch.randint(n, (1, 40), generator=random) for n in codec.config.quantizer.codebook_sizes], dim=1
    )


def make(name: str, changes: tuple[str, ...]) -> None:
    """NAME.pt.gz after four steps, and NAME.npy [L]: what it makes of `codes_of`."""
    data = Path("data/prepared")  # relative: the checkpoint names no folder of the machine that made it
    if not data.exists():
        prepare([CLIPS], data, load_config("smoke").data)
    run = train(tiny_config(data, *changes), Path(name), torch.device("cpu"), TrainingCallbacks(), stop_step=N_STEPS)
    codec = Codec.load(run.last, "cpu")
    (HERE / f"{name}.pt.gz").write_bytes(gzip.compress(run.last.read_bytes(), mtime=0))
    np.save(HERE / f"{name}.npy", codec.decode(codes_of(codec))[0, 0].numpy())


if __name__ == "__main__":
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for kind, changes in KINDS.items():
            make(f"{sys.argv[1]}-{kind}", changes)
