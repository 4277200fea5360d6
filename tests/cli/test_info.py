"""`codecctl info`: each kind of file says what it is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from codecctl.inference.find import find_checkpoint
from codecctl.inference.load import Codec

Command = Callable[..., Any]


def facts(codecctl: Command, path: Path) -> dict[str, Any]:
    done = codecctl("info", path, "--json")
    assert (done.code, done.stderr) == (0, "")
    return dict(json.loads(done.stdout))


def test_checkpoint(codecctl: Command, model: Path) -> None:
    codec = Codec.load(model, "cpu")
    told = facts(codecctl, model)
    assert (told["kind"], told["step"], told["model"]) == ("checkpoint", 0, "custom")
    assert told["fingerprint"] == codec.fingerprint
    assert told["n_parameters"] == sum(weight.numel() for weight in codec.parameters())
    assert (told["codebook_sizes"], told["bitrate_kbps"]) == ([64, 16, 8], 5.2)


def test_the_starter_is_named_by_its_config_and_not_by_a_variant(codecctl: Command) -> None:
    assert facts(codecctl, find_checkpoint("starter"))["model"] == "starter"


@pytest.mark.slow
def test_packed_codes_and_audio(codecctl: Command, model: Path, wav: Path, tmp_path: Path) -> None:
    codecctl("encode", wav, "-o", tmp_path / "x.cctl", "--n-quantizers", 2, "--checkpoint", model)
    told = facts(codecctl, tmp_path / "x.cctl")
    assert (told["kind"], told["n_samples"], told["codebook_sizes"]) == ("packed codes", 16_789, [64, 16])
    assert told["fingerprint"] == facts(codecctl, model)["fingerprint"]
    assert told["n_bytes"] == (tmp_path / "x.cctl").stat().st_size
    assert told["file_bitrate_kbps"] == pytest.approx(8 * told["n_bytes"] / (16_789 / 16000) / 1000)
    audio = {"kind": "audio", "sample_rate": 16000, "n_channels": 1, "n_samples": 16_789}
    assert facts(codecctl, wav).items() >= audio.items()


def test_codes_in_npy_as_text(codecctl: Command, model: Path, wav: Path, tmp_path: Path) -> None:
    codecctl("encode", wav, "-o", tmp_path / "x.npy", "--checkpoint", model)
    done = codecctl("info", tmp_path / "x.npy")
    lines = dict(line.split(maxsplit=1) for line in done.stdout.decode().splitlines())
    assert (lines["kind"], lines["dtype"], lines["n_quantizers"], lines["n_frames"]) == ("codes", "uint16", "3", "420")


def test_what_is_not_known_is_no_line(codecctl: Command, wav: Path) -> None:
    assert "None" not in codecctl("info", wav).stdout.decode()
    assert facts(codecctl, wav)["lossy"] is None


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04hello", b"CCTL", b"\x93NUMPY"])
def test_other_files_are_one_line_and_code_1(codecctl: Command, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x").write_bytes(content)
    for path in (tmp_path / "x", tmp_path / "gone"):
        done = codecctl("info", path)
        assert (done.code, done.stdout, done.stderr.count("\n")) == (1, b"", 1)
        assert path.name in done.stderr
