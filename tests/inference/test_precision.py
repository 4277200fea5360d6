"""Other arithmetic for the large matrices: close to float32, and streams still equal files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from codecctl.config.model import ModelConfig, QuantizerConfig, StridedConfig, TransformerConfig
from codecctl.errors import UsageError
from codecctl.inference.load import Codec
from codecctl.inference.precision import BFloat16Matrix, BiasedProduct, Float32Matrix, Int8Matrix, set_precision
from codecctl.model.codebook import Codebook
from codecctl.model.fronts.transform import FrameUnit


def test_an_8_bit_product_is_within_three_percent() -> None:
    """Two where the processor has VNNI."""
    generator = torch.Generator().manual_seed(0)
    matrix, x = torch.randn(300, 256, generator=generator), torch.randn(2, 5, 256, generator=generator)
    error = Int8Matrix(matrix)(x) - x @ matrix.mT
    assert error.norm() < 0.03 * (x @ matrix.mT).norm()


def test_an_8_bit_product_of_a_frame_does_not_depend_on_the_other_frames() -> None:
    product, x = Int8Matrix(torch.randn(300, 256)), torch.randn(1, 5, 256) * torch.tensor([0, 1e-6, 1, 5, 100])[:, None]
    assert torch.equal(torch.cat([product(frame) for frame in x.split(1, dim=1)], dim=1), product(x))
    assert not product(x)[:, 0].any()  # zeros stay zeros


@pytest.mark.parametrize("matrix", [Int8Matrix, BFloat16Matrix, Float32Matrix])
def test_a_product_adds_the_bias(matrix: type[nn.Module]) -> None:
    product, x, bias = matrix(torch.randn(30, 16)), torch.randn(1, 5, 16), torch.randn(30)
    assert torch.allclose(product(x, bias), product(x) + bias, atol=1e-5)


def test_a_product_in_float32_is_that_of_torch() -> None:
    matrix, x = torch.randn(300, 256), torch.randn(2, 50, 256)
    assert torch.allclose(Float32Matrix(matrix)(x), x @ matrix.mT, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["int8", "bfloat16"])
def test_a_stream_through_wide_convolutions_computes_nearly_the_same(speech: Tensor, precision: str) -> None:
    """In the decoder of 128 channels, and in float32 by oneDNN."""
    codec = Codec(
        ModelConfig(
            front=StridedConfig(strides=(4, 5), base_channels=64, dilations=(1, 3)),  # hop 20
            transformer=TransformerConfig(width=32, n_layers=1, n_heads=2, feedforward_width=32, look_back_frames=20),
            quantizer=QuantizerConfig(codebook_sizes=(64, 16, 8)),
        )
    )
    codec.fold_weight_norm()
    codec.eval().requires_grad_(False)
    codes = codec.encode(speech[..., :2000])
    audio = codec.decode(codes)
    set_precision(codec, precision)
    assert codec.encoder.blocks[0].units[0].dilated.short_product is not None
    assert codec.decoder.blocks[0].units[0].dilated.product is not None
    encoded, decoded = [], []
    for traced in (False, True):
        encoder, decoder = codec.stream_encoder(traced=traced), codec.stream_decoder(traced=traced)
        encoded.append(torch.cat([encoder.push(frame) for frame in speech[..., :2000].split(20, dim=-1)], dim=-1))
        decoded.append(torch.cat([decoder.push(frame) for frame in codes.split(1, dim=-1)], dim=-1))
    assert torch.equal(*encoded)
    assert (encoded[0] != codes).float().mean() < 0.3
    assert torch.equal(*decoded)
    assert 20 * torch.log10(audio.norm() / (decoded[0] - audio).norm()) > 30


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["int8", "bfloat16"])
def test_a_traced_stream_computes_the_same(speech: Tensor, precision: str) -> None:
    codec = Codec.load("starter", "cpu")
    set_precision(codec, precision)
    frames, codes = speech[..., : 20 * 320].split(320, dim=-1), []
    for traced in (False, True):
        encoder = codec.stream_encoder(traced=traced)
        codes.append(torch.cat([encoder.push(frame) for frame in frames], dim=-1))
    assert torch.equal(*codes)


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


@pytest.mark.parametrize("matrix", [Int8Matrix, BFloat16Matrix])
def test_a_search_by_rough_products_finds_the_nearest_codewords(matrix: type[nn.Module]) -> None:
    torch.manual_seed(0)
    codebook = Codebook(512, 1024)
    x = codebook.codewords[:200] / 2 + torch.randn(200, 512)
    nearest = codebook.search(x)
    codebook.product = matrix(-2 * codebook.codewords)
    assert torch.equal(torch.cat([codebook.search(vector[None]) for vector in x]), nearest)


@pytest.mark.slow
def test_auto_chooses_what_the_machine_can_compute() -> None:
    assert set_precision(Codec.load("starter", "cpu")) in ("float32", "bfloat16", "int8")
    assert set_precision(Codec.load("starter", "cpu").double()) == "float32"


@pytest.mark.slow
def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(UsageError, match="precision int4: expected auto, float32, bfloat16, int8"):
        set_precision(Codec.load("starter", "cpu"), "int4")
    with pytest.raises(UsageError, match="precision int8: only on the CPU, for a model in float32"):
        set_precision(Codec.load("starter", "cpu").double(), "int8")


def test_a_precision_is_set_once(model: Path) -> None:
    codec = Codec.load(model, "cpu")
    assert set_precision(codec, "float32") == "float32"
    assert set_precision(codec, "bfloat16") == "bfloat16"
    for again in ("auto", "float32", "bfloat16"):
        with pytest.raises(UsageError, match="load the codec again"):
            set_precision(codec, again)


@pytest.mark.slow
def test_the_tables_of_a_codec_that_is_made_in_inference_mode_are_made_once() -> None:
    """Their remaking would take ten times the time of a frame."""
    with torch.inference_mode():
        codebook = Codec.load("starter", "cpu").quantizer.codebooks[0]
        assert codebook.table() is codebook.table()


def test_frame_units_change_in_the_decoder_alone(speech: Tensor) -> None:
    """Those of the encoder decide on codes."""
    codec, plain = Codec.load("starter", "cpu"), Codec.load("starter", "cpu")
    set_precision(codec, "int8")
    assert all(isinstance(unit.expand, nn.Linear) for unit in codec.encoder.modules() if isinstance(unit, FrameUnit))
    units = [unit for unit in codec.decoder.modules() if isinstance(unit, FrameUnit)]
    assert all(isinstance(layer, BiasedProduct) for unit in units for layer in (unit.expand, unit.contract))
    codes = plain.encode(speech[..., :32000].float())
    exact = plain.decode(codes)
    assert (codec.decode(codes) - exact).norm() < 0.05 * exact.norm()
