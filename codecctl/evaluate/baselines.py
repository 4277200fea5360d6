"""What a codec is heard beside: the same recording through Opus, a band limit, and parts of the codec itself."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import soxr
import torch
from numpy.typing import NDArray
from torch import Tensor

from codecctl.audio.files import Audio, to_pcm16
from codecctl.config.schema import ValidateConfig
from codecctl.model.codec import Codec

CODEC, UNQUANTIZED, BAND_LIMITED = "codec", "unquantized", "lowpass_4khz"
_BAND_HZ = 4000
_OPUS_RATES = (8000, 12000, 16000, 24000, 48000)  # Hz that an encoder takes
_OPUS_FRAME_SECONDS = 0.02


@dataclass(frozen=True)
class Rendition:
    """A recording as one system gives it back."""

    audio: Audio  # [L], as long as the original but for what the system's delay cut off
    n_bits: int | None  # None: not a matter of bits


def label_of(system: str, n_codebooks: int) -> str:
    """A system's name for people."""
    if system == CODEC:
        return f"codec, {n_codebooks} books"
    if system.startswith("books_"):
        first, _, last = system.removeprefix("books_").partition("_to_")
        return f"codec, books {first} to {last} only" if last else f"codec, {first} book" + "s" * (first != "1")
    if system.startswith("opus_"):
        return f"Opus {system.removeprefix('opus_')} kbps"
    return {UNQUANTIZED: "codec, quantizer off", BAND_LIMITED: "original below 4 kHz"}[system]


def opus_name(kbps: float) -> str:
    return f"opus_{kbps:g}"


def curve_of(codec: Codec, config: ValidateConfig) -> list[int]:
    """The numbers of books, below all of them, that the curve over books is measured at."""
    return sorted(n for n in set(config.n_quantizers) if n < codec.n_codebooks)


def has_opus() -> bool:
    return importlib.util.find_spec("av") is not None


@torch.inference_mode()
def render_codec(
    codec: Codec, audio: Tensor, curve: Sequence[int], *, parts: bool
) -> tuple[Tensor, dict[str, Rendition]]:
    """Audio [1, 1, L] -> codes [1, K, T] and what the codec gives back with all its books and with the quantizer off.

    `parts` adds the first n books for each n of `curve`, and all books but the first.
    """
    length = audio.shape[-1]
    latents = codec.encode_latents(audio)
    codes = codec.quantize(latents)
    n_frames = codes.shape[-1]
    bits = [size.bit_length() - 1 for size in codec.config.quantizer.codebook_sizes]
    made = {CODEC: _rendition(codec.decode(codes, length=length), n_frames * sum(bits))}
    made[UNQUANTIZED] = _rendition(codec.decode_latents(latents, length=length), None)
    for n in curve if parts else ():
        made[f"books_{n}"] = _rendition(codec.decode(codes[:, :n], length=length), n_frames * sum(bits[:n]))
    if parts and codec.n_codebooks > 1:
        without_first = codec.dequantize(codes) - codec.dequantize(codes[:, :1])
        rest = codec.decode_latents(without_first, length=length)
        made[f"books_2_to_{codec.n_codebooks}"] = _rendition(rest, n_frames * sum(bits[1:]))
    return codes, made


def render_anchors(audio: Audio, sample_rate: int, opus_kbps: Sequence[float]) -> dict[str, Rendition]:
    """Audio [L] through Opus at these rates and through the band limit."""
    made = {opus_name(kbps): opus(audio, sample_rate, kbps) for kbps in opus_kbps}
    made[BAND_LIMITED] = Rendition(band_limit(audio, sample_rate), None)
    return made


def band_limit(audio: Audio, sample_rate: int) -> Audio:
    """[L] -> [L] without what lies above 4 kHz, aligned."""
    narrow = soxr.resample(audio, sample_rate, 2 * _BAND_HZ, quality="VHQ")
    wide = soxr.resample(narrow, 2 * _BAND_HZ, sample_rate, quality="VHQ")
    return np.pad(wide, (0, max(0, len(audio) - len(wide))))[: len(audio)].astype(np.float32)


def opus(audio: Audio, sample_rate: int, kbps: float) -> Rendition:
    """[L] through libopus for speech, variable rate, 20 ms packets. The bits are those of the packets, no container.

    The decoder's own delay, about 4 ms, stays in: `alignment` takes it out as it does any codec's.
    """
    av: Any = importlib.import_module("av")  # optional, and typed only in part
    rate = sample_rate if sample_rate in _OPUS_RATES else 48000
    audio_in = audio if rate == sample_rate else soxr.resample(audio, sample_rate, rate, quality="HQ")
    encoder = av.CodecContext.create("libopus", "w")
    encoder.sample_rate, encoder.layout, encoder.format = rate, "mono", "s16"
    encoder.bit_rate, encoder.time_base = round(kbps * 1000), Fraction(1, rate)
    encoder.options = {"application": "voip", "vbr": "on", "frame_duration": "20"}
    encoder.open()
    packets = []
    for start, block in _packets_of(to_pcm16(audio_in), round(rate * _OPUS_FRAME_SECONDS)):
        frame = av.AudioFrame.from_ndarray(block[None], format="s16", layout="mono")
        frame.sample_rate, frame.pts = rate, start
        packets += encoder.encode(frame)
    packets += encoder.encode(None)
    decoder = av.CodecContext.create("libopus", "r")
    decoder.sample_rate, decoder.extradata = 48000, encoder.extradata
    decoded = np.concatenate([frame.to_ndarray()[0] for packet in packets for frame in decoder.decode(packet)])
    back = soxr.resample(decoded.astype(np.float32) / 32768, 48000, sample_rate, quality="HQ")
    return Rendition(back[: len(audio)], 8 * sum(packet.size for packet in packets))


def _packets_of(samples: NDArray[np.int16], n_packet: int) -> list[tuple[int, NDArray[np.int16]]]:
    """(first sample, block) of whole packets, one more than the signal fills: the decoder's delay loses nothing."""
    padded = np.pad(samples, (0, -len(samples) % n_packet + n_packet))
    return [(start, padded[start : start + n_packet]) for start in range(0, len(padded), n_packet)]


def _rendition(audio: Tensor, n_bits: int | None) -> Rendition:
    """As a file would hold it: clipped at full scale."""
    return Rendition(audio[0, 0].float().clamp(-1, 1).cpu().numpy(), n_bits)
