import numpy as np
import pytest
import torch

from codecctl.audio import pyav
from codecctl.config.schema import ValidateConfig
from codecctl.evaluate.alignment import align, find_delay
from codecctl.evaluate.rendering import Plan, band_limit, opus, render_codec
from codecctl.evaluate.systems import label_of
from codecctl.model.codec import Codec


@pytest.mark.skipif(not pyav.is_installed(), reason="av is not installed")
@pytest.mark.parametrize("kbps", [6, 12])
def test_opus_decodes_speech_at_about_the_requested_bitrate(speech: torch.Tensor, kbps: float) -> None:
    audio = speech[0, 0].numpy()
    made = opus(audio, 16000, kbps)
    assert made.n_bits is not None
    assert made.n_bits / len(audio) * 16 == pytest.approx(kbps, rel=0.2)
    reference, decoded = align(audio, made.audio, find_delay([(audio, made.audio)], 16000))
    assert len(decoded) > len(audio) - 200
    assert np.corrcoef(reference, decoded)[0, 1] > 0.8


def test_the_band_limit_keeps_1_khz_and_removes_6_khz() -> None:
    time = np.arange(16000) / 16000
    low, high = (np.sin(2 * np.pi * hz * time).astype(np.float32) for hz in (1000, 6000))
    np.testing.assert_allclose(band_limit(low + high, 16000)[500:-500], low[500:-500], atol=1e-3)


def test_the_parts_of_a_linear_codec_add_up_to_it(speaking: Codec, speech: torch.Tensor) -> None:
    codes, made = render_codec(speaking, speech, Plan(baselines=True, parts=True, curve=(1, 2)))
    assert torch.equal(codes, speaking.encode(speech))
    first, rest, everything = (made[name].audio for name in ("n_quantizers_1", "codebooks_2_to_3", "codec"))
    np.testing.assert_allclose(first + rest, everything, atol=1e-6)  # its decoder is linear
    np.testing.assert_allclose(made["unquantized"].audio, speech[0, 0], atol=1e-6)
    assert made["n_quantizers_1"].n_bits == 8 * codes.shape[-1]
    assert made["codec"].n_bits == 22 * codes.shape[-1]


@pytest.mark.slow
def test_the_curve_has_fewer_codebooks_than_the_codec(speaking: Codec) -> None:
    assert Plan.of(speaking, ValidateConfig(), parts=True).curve == (1, 2)
    assert [label_of(name) for name in ("n_quantizers_1", "codebooks_2_to_8", "opus_6")] == [
        "codec, 1 codebook", "codec, codebooks 2 to 8 only", "Opus 6 kbps",
    ]  # fmt: skip
