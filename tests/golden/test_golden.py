"""Files of earlier versions can still be used and resumed; `make.py` beside this file wrote them."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch

from codecctl.inference.checkpoint import Checkpoint
from codecctl.inference.load import Codec
from codecctl.train.callbacks import TrainingCallbacks
from codecctl.train.loop import resume
from tests.golden.make import HERE, KINDS, N_STEPS, codes_of

NAMES = sorted(path.name.removesuffix(".pt.gz") for path in HERE.glob("*.pt.gz"))


@pytest.fixture(params=NAMES)
def golden(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Path]:
    """A run whose last checkpoint is golden, and the waveform [L] that belongs to it."""
    (tmp_path / "last.pt").write_bytes(gzip.decompress((HERE / f"{request.param}.pt.gz").read_bytes()))
    return tmp_path, HERE / f"{request.param}.npy"


def test_each_version_has_both() -> None:
    versions = {name.split("-")[0] for name in NAMES}
    assert versions >= {"v1"}
    assert set(NAMES) == {f"{version}-{kind}" for version in versions for kind in KINDS}
    assert all(path.stat().st_size < 200_000 for path in HERE.iterdir() if path.is_file())


def test_it_decodes_to_the_same_samples(golden: tuple[Path, Path]) -> None:
    codec = Codec.load(golden[0] / "last.pt", "cpu")
    expected = torch.from_numpy(np.load(golden[1], allow_pickle=False))
    assert expected.abs().max() > 1e-4
    torch.testing.assert_close(codec.decode(codes_of(codec))[0, 0], expected, rtol=1e-3, atol=1e-5)


def test_it_resumes(golden: tuple[Path, Path], prepared: Path) -> None:
    before = Checkpoint.read(golden[0] / "last.pt", with_training=True)
    first = next(value.clone() for name, value in before.training["codec"].items() if name.endswith("conv.bias"))
    run = resume(golden[0], torch.device("cpu"), TrainingCallbacks(), stop_step=N_STEPS + 1, data=str(prepared))
    after = Checkpoint.read(run.last, with_training=True)
    assert (before.step, after.step) == (N_STEPS, N_STEPS + 1)
    assert after.training["optimizer"]["state"][0]["step"] == N_STEPS + 1  # its moments were restored, not begun anew
    assert not torch.equal(first, next(v for n, v in after.training["codec"].items() if n.endswith("conv.bias")))
