"""What earlier versions wrote can still be used and resumed. `make.py` beside this file wrote it."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch

from codecctl.inference.load import Codec, read_checkpoint
from codecctl.train.loop import Watcher, resume
from tests.golden.make import HERE, KINDS, N_STEPS, codes_of

NAMES = sorted(path.name.removesuffix(".pt.gz") for path in HERE.glob("*.pt.gz"))


@pytest.fixture(params=NAMES)
def golden(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Path]:
    """A run whose last checkpoint is golden, and the waveform [L] that belongs to it."""
    (tmp_path / "last.pt").write_bytes(gzip.decompress((HERE / f"{request.param}.pt.gz").read_bytes()))
    return tmp_path, HERE / f"{request.param}.npy"


def test_each_version_has_both() -> None:
    versions = {name.split("-")[0] for name in NAMES}
    assert versions >= {"v1", "v2"}
    assert set(NAMES) == {f"{version}-{kind}" for version in versions for kind in KINDS}
    assert all(path.stat().st_size < 200_000 for path in HERE.iterdir() if path.is_file())


def test_it_decodes_to_the_same_sound(golden: tuple[Path, Path]) -> None:
    codec = Codec.load(golden[0] / "last.pt", "cpu")
    expected = torch.from_numpy(np.load(golden[1], allow_pickle=False))
    assert expected.abs().max() > 1e-4
    torch.testing.assert_close(codec.decode(codes_of(codec))[0, 0], expected, rtol=1e-3, atol=1e-5)


def test_it_goes_on(golden: tuple[Path, Path], prepared: Path) -> None:
    before = read_checkpoint(golden[0] / "last.pt")
    first = next(value.clone() for name, value in before["model"].items() if name.endswith("conv.bias"))
    run = resume(golden[0], torch.device("cpu"), Watcher(), stop_step=N_STEPS + 1, data=str(prepared))
    after = read_checkpoint(run.last)
    assert (before["step"], after["step"]) == (N_STEPS, N_STEPS + 1)
    assert after["schema_version"] >= before["schema_version"]
    assert after["optimizer"]["state"][0]["step"] == N_STEPS + 1  # its moments were taken up, not begun anew
    assert not torch.equal(first, next(v for name, v in after["model"].items() if name.endswith("conv.bias")))
