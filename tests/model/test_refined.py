"""The refined front: the codes of the transform front, and corrected spectra of what it decodes."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from codecctl.config.model import ModelConfig, RefinedConfig
from codecctl.inference.identity import fingerprint
from codecctl.inference.stream import StreamDecoder
from codecctl.model.codec import Codec
from codecctl.model.fronts.refined import Analysis, Synthesis
from tests.conftest import TINY_REFINED, TINY_TRANSFORM, lively


def with_front(tiny: ModelConfig, front: object) -> ModelConfig:
    return tiny.model_copy(update={"front": front})


def test_codes_and_fingerprint_are_those_of_the_transform_front(tiny: ModelConfig) -> None:
    front = TINY_TRANSFORM.model_copy(update={"level_prediction": TINY_REFINED.level_prediction})
    config, transform = with_front(tiny, TINY_REFINED), lively(with_front(tiny, front))
    codec = lively(config)
    taken = {name: w for name, w in transform.state_dict().items() if not name.startswith("decoder.")}
    codec.load_state_dict(codec.state_dict() | taken)
    audio = torch.randn(1, 1, 1200)
    assert torch.equal(codec.encode(audio), transform.encode(audio))
    assert fingerprint(config, codec.state_dict()) == fingerprint(transform.config, transform.state_dict())


def test_synthesis_of_a_signals_spectra_is_the_signal_after_the_delay(tiny: ModelConfig) -> None:
    hop, n = 3, 12
    signal = torch.randn(1, 1, 40 * hop, dtype=torch.float64)
    heard = Synthesis(n, 4)(*Analysis(n, 4)(signal))
    delay = with_front(tiny, TINY_REFINED).delay
    assert delay == n - hop
    torch.testing.assert_close(heard[..., delay:], signal[..., :-delay], rtol=0, atol=1e-6)  # the bases are float32
    assert heard[..., :delay].abs().max() < 1e-6


@torch.inference_mode()
def test_a_stream_is_late_by_the_delay_and_flush_returns_the_rest(tiny: ModelConfig) -> None:
    codec = lively(with_front(tiny, TINY_REFINED)).double()
    codes = codec.encode(torch.randn(1, 1, 120, dtype=torch.float64))
    stream = StreamDecoder(codec)
    parts = [*(stream.push(code) for code in codes.split(1, -1)), stream.flush()]
    assert [part.shape[-1] for part in parts] == [3, *[12] * 9, 9]
    torch.testing.assert_close(torch.cat(parts, -1), codec.decode(codes), rtol=0, atol=1e-12)
    torch.testing.assert_close(codec.decode(codes, length=100), codec.decode(codes)[..., :100])
    assert StreamDecoder(codec).flush().shape == (1, 1, 0)


@torch.no_grad()
def test_before_the_first_step_it_decodes_as_the_transform_front(tiny: ModelConfig, speech: Tensor) -> None:
    front = TINY_TRANSFORM.model_copy(update={"level_prediction": TINY_REFINED.level_prediction})
    transform, codec = Codec(with_front(tiny, front)), Codec(with_front(tiny, TINY_REFINED))
    audio = speech[..., :12000]
    transform.fit_front(audio)
    codec.load_state_dict(codec.state_dict() | transform.state_dict())
    latents = transform.encode_latents(audio)
    torch.testing.assert_close(codec.decode_latents(latents), transform.decode_latents(latents), rtol=0, atol=1e-5)


def test_every_part_of_the_decoder_learns(tiny: ModelConfig, speech: Tensor) -> None:
    codec, audio = lively(with_front(tiny, TINY_REFINED)).train(), speech[..., :2400]
    codec.fit_front(audio)
    (codec(audio).audio - audio).square().mean().backward()
    silent = [name for name, p in codec.decoder.named_parameters() if p.grad is None or not p.grad.any()]
    assert not silent


def test_a_frame_that_spectra_do_not_divide_is_refused() -> None:
    with pytest.raises(ValidationError, match="hop_length is 12, which must be even and a multiple of"):
        RefinedConfig(hop_length=12, low_coefficients=5, high_bands=3, first_band=5, spectra_per_frame=5)
