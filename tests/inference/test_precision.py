"""Other arithmetic for the large matrices: close to float32, and streams still equal files."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from codecctl.errors import UsageError
from codecctl.inference.load import Codec
from codecctl.inference.precision import Int8Matrix, set_precision


def test_an_8_bit_product_is_within_two_percent() -> None:
    generator = torch.Generator().manual_seed(0)
    matrix, x = torch.randn(300, 256, generator=generator), torch.randn(2, 5, 256, generator=generator)
    error = Int8Matrix(matrix)(x) - x @ matrix.mT
    assert error.norm() < 0.02 * (x @ matrix.mT).norm()


def test_an_8_bit_product_of_a_frame_does_not_depend_on_the_other_frames() -> None:
    product, x = Int8Matrix(torch.randn(300, 256)), torch.randn(1, 5, 256) * torch.tensor([0, 1e-6, 1, 5, 100])[:, None]
    assert torch.equal(torch.cat([product(frame) for frame in x.split(1, dim=1)], dim=1), product(x))
    assert not product(x)[:, 0].any()  # zeros stay zeros


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "least_db"), [("int8", 30), ("bfloat16", 45)])
def test_the_decoded_audio_is_nearly_that_of_float32(speech: Tensor, precision: str, least_db: float) -> None:
    codec, other = Codec.load("starter", "cpu"), Codec.load("starter", "cpu")
    assert set_precision(other, precision) == precision
    codes = codec.encode(speech[..., :16000])
    audio = codec.decode(codes)
    error = other.decode(codes) - audio
    assert 20 * torch.log10(audio.norm() / error.norm()) > least_db
    assert (other.encode(speech[..., :16000]) != codes).float().mean() < 0.1


@pytest.mark.slow
def test_auto_chooses_what_the_machine_can_compute() -> None:
    assert set_precision(Codec.load("starter", "cpu")) in ("float32", "bfloat16", "int8")
    assert set_precision(Codec.load("starter", "cpu").double()) == "float32"


@pytest.mark.slow
def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(UsageError, match="--precision int4: expected auto, float32, bfloat16, int8"):
        set_precision(Codec.load("starter", "cpu"), "int4")
    with pytest.raises(UsageError, match="--precision int8: only on the CPU, for a model in float32"):
        set_precision(Codec.load("starter", "cpu").double(), "int8")


@pytest.mark.slow
def test_the_tables_of_a_codec_that_is_made_in_inference_mode_are_made_once() -> None:
    """Their remaking would take ten times the time of a frame."""
    with torch.inference_mode():
        codebook = Codec.load("starter", "cpu").quantizer.codebooks[0]
        assert codebook.table() is codebook.table()
