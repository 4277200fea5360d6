"""The speed of other codecs on this machine: those of `transformers`, with random weights, which change no time."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import torch

from codecctl.inference.timing import median_seconds, speech

_N_CODEBOOKS = 8


def measure_peers(seconds: float) -> dict[str, dict[str, float]]:
    """The real-time factors of encoding and decoding so many seconds, by codec."""
    return {name: _measure(model, seconds) for name, model in _models()}


def _models() -> Iterator[tuple[str, Any]]:
    import transformers

    logging.getLogger("transformers").setLevel(logging.ERROR)
    yield "EnCodec 24 kHz", transformers.EncodecModel(transformers.EncodecConfig())
    yield "Mimi, 8 codebooks", transformers.MimiModel(transformers.MimiConfig())
    yield "DAC 16 kHz", transformers.DacModel(transformers.DacConfig(sampling_rate=16000, n_codebooks=12))


@torch.inference_mode()
def _measure(model: Any, seconds: float) -> dict[str, float]:
    model.eval()
    rate = model.config.sampling_rate
    audio = speech(rate, 1, seconds)
    options = {"num_quantizers": _N_CODEBOOKS} if "Mimi" in type(model).__name__ else {}
    encoded = model.encode(audio, **options)
    codes = encoded.audio_codes
    scales = {"audio_scales": encoded.audio_scales} if "Encodec" in type(model).__name__ else {}
    named = {"audio_codes": codes, **scales}
    return {
        "encode_real_time_factor": median_seconds(lambda: model.encode(audio, **options)) * rate / audio.shape[-1],
        "decode_real_time_factor": median_seconds(lambda: model.decode(**named)) * rate / audio.shape[-1],
    }
